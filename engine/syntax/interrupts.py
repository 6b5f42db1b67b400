"""When external interrupts come: ``none``, ``every:N``, ``random:SEED:MEAN``; in retired guest
instructions of the CPU they hit.
"""

from __future__ import annotations

from random import Random
from typing import Any, cast

from engine.errors import InputError, printable
from engine.syntax.arguments import parse_number

__all__ = ("EveryPlan", "RandomPlan", "parse_interrupts")

_FORMS = "none, every:N or random:SEED:MEAN"


class EveryPlan:
    """An interrupt each ``period`` retired instructions of a CPU, the handler's own included."""

    def __init__(self, period: int) -> None:
        self._period = period
        self._next: dict[int, int] = {}

    def due(self, cpu: int, retired: int) -> int:
        """Instructions from now to the next interrupt of ``cpu``, 0 when it is overdue."""
        at = self._next.setdefault(cpu, retired + self._period)
        return max(0, at - retired)

    def taken(self, cpu: int, retired: int) -> None:
        """It was delivered: the next one is a gap away."""
        self._next[cpu] = retired + self._gap(cpu)

    def _gap(self, cpu: int) -> int:
        del cpu
        return self._period

    def save_state(self) -> Any:
        """For a snapshot of the machine whose retired instructions these are."""
        return dict(self._next)

    def restore_state(self, state: Any) -> None:
        """Go back: the interrupts that follow are those that followed then. None: as never used."""
        self._next = dict(cast("dict[int, int]", state or {}))


class RandomPlan(EveryPlan):
    """Gaps drawn evenly from 1 to 2 * ``mean`` - 1, from a generator a CPU, so that CPUs do not
    disturb each other.
    """

    def __init__(self, seed: int, mean: int) -> None:
        super().__init__(mean)
        self._seed = seed
        self._mean = mean
        self._random: dict[int, Random] = {}

    def due(self, cpu: int, retired: int) -> int:
        """Instructions from now to the next interrupt of ``cpu``, 0 when it is overdue."""
        if cpu not in self._next:
            self._next[cpu] = retired + self._gap(cpu)
        return super().due(cpu, retired)

    def _gap(self, cpu: int) -> int:
        random = self._random.get(cpu)
        if random is None:
            random = self._random[cpu] = Random(self._seed * 64 + cpu)
        # getrandbits is stable across Python versions; randrange need not be.
        return 1 + random.getrandbits(48) % (2 * self._mean - 1)

    def save_state(self) -> Any:
        """The generators, too."""
        return super().save_state(), {
            cpu: random.getstate() for cpu, random in self._random.items()
        }

    def restore_state(self, state: Any) -> None:
        """Go back, or start anew."""
        due, generators = cast("tuple[Any, dict[int, Any]]", state or (None, {}))
        super().restore_state(due)
        self._random.clear()
        for cpu, generator in generators.items():
            self._random[cpu] = Random()
            self._random[cpu].setstate(generator)


def parse_interrupts(text: str) -> EveryPlan | None:
    """A plan, or None for ``none``.

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
