"""Plans that say when external interrupts come: ``none``, ``every:N``, ``random:SEED:MEAN``.

All numbers are retired guest instructions of the CPU that an interrupt hits.
"""

from __future__ import annotations

from random import Random
from typing import Any, cast

from engine.errors import InputError, printable
from engine.syntax.arguments import parse_number

__all__ = ("EveryPlan", "RandomPlan", "parse_interrupts")

_FORMS = "none, every:N or random:SEED:MEAN"


class EveryPlan:
    """An interrupt each ``period`` retired instructions of a CPU.

    The instructions of interrupt handlers count, too.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._next: dict[int, int] = {}

    def due(self, cpu: int, retired: int) -> int:
        """The instructions from now to the next interrupt of ``cpu``; 0 when it is overdue.

        :param retired: the instructions that ``cpu`` has retired so far.
        """
        at = self._next.setdefault(cpu, retired + self._period)
        return max(0, at - retired)

    def taken(self, cpu: int, retired: int) -> None:
        """Note that the interrupt of ``cpu`` was delivered, so that the next one is a gap away."""
        self._next[cpu] = retired + self._gap(cpu)

    def _gap(self, cpu: int) -> int:
        """The instructions between two interrupts of ``cpu``."""
        del cpu
        return self._period

    def save_state(self) -> Any:
        """The plan's state, for a snapshot of the machine whose retired instructions it counts."""
        return dict(self._next)

    def restore_state(self, state: Any) -> None:
        """Make the interrupts that follow those that followed when ``state`` was saved.

        None stands for the state of a new plan.
        """
        self._next = dict(cast("dict[int, int]", state or {}))


class RandomPlan(EveryPlan):
    """Interrupts at random gaps, drawn evenly from 1 to 2 * ``mean`` - 1 instructions.

    Each CPU has a generator of its own, so that CPUs do not change each other's gaps.
    """

    def __init__(self, seed: int, mean: int) -> None:
        super().__init__(mean)
        self._seed = seed
        self._mean = mean
        self._random: dict[int, Random] = {}

    def due(self, cpu: int, retired: int) -> int:
        """The instructions from now to the next interrupt of ``cpu``; 0 when it is overdue."""
        if cpu not in self._next:
            self._next[cpu] = retired + self._gap(cpu)
        return super().due(cpu, retired)

    def _gap(self, cpu: int) -> int:
        """The next gap from the generator of ``cpu``."""
        random = self._random.get(cpu)
        if random is None:
            random = self._random[cpu] = Random(self._seed * 64 + cpu)
        # getrandbits() is the same in all Python versions, and randrange() need not be.
        return 1 + random.getrandbits(48) % (2 * self._mean - 1)

    def save_state(self) -> Any:
        """The plan's state, with those of the generators."""
        return super().save_state(), {
            cpu: random.getstate() for cpu, random in self._random.items()
        }

    def restore_state(self, state: Any) -> None:
        """Go back to ``state``, or with None to the state of a new plan."""
        due, generators = cast("tuple[Any, dict[int, Any]]", state or (None, {}))
        super().restore_state(due)
        self._random.clear()
        for cpu, generator in generators.items():
            self._random[cpu] = Random()
            self._random[cpu].setstate(generator)


def parse_interrupts(text: str) -> EveryPlan | None:
    """The plan that ``text`` describes, or None for ``none``.

    :raises InputError: it has none of the forms.
    """
    words = text.split(":")
    if words == ["none"]:
        return None
    if words[0] == "every" and len(words) == 2:
        return EveryPlan(
            parse_number(words[1], f"--interrupts {printable(text)}", least=1, most=1 << 40)
        )
    if words[0] == "random" and len(words) == 3:
        seed = parse_number(words[1], f"--interrupts {printable(text)}", least=0, most=1 << 64)
        return RandomPlan(
            seed, parse_number(words[2], f"--interrupts {printable(text)}", least=1, most=1 << 40)
        )
    raise InputError(f"--interrupts {printable(text)}: unknown; give {_FORMS}")
