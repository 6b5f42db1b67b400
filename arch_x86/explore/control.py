"""What a scenario's control tasks do: the core's operations, with a note of what each probe may and must do meanwhile.

The notes are what the hit oracle goes by. A probe is ``ON`` from the return of the operation that armed it to the start of the next one
that concerns it, and then the number that goes with it changes, so that a pass can tell whether anything happened during it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import IntEnum
from functools import partial
from typing import Any, Final

from arch_x86.text.space import TextSpace
from engine.errors import InputError, KprobeError
from engine.image import Image
from engine.kprobe import Kprobe, KprobeFlag
from engine.kprobes import Kprobes
from engine.kretprobes import Kretprobe
from engine.switches import set_kprobes_enabled, set_kprobes_optimization

__all__ = ("BETWEEN_OPERATIONS", "Control", "EndlessTaskError", "Life", "Lives")

BETWEEN_OPERATIONS: Final = "next operation"
"""Name of the point in front of each operation."""
HitLog = Callable[[int, Any], "int | None"]
Lives = tuple[tuple["Life", int], ...]


class EndlessTaskError(InputError):
    """A control task does not come to an end."""


class Life(IntEnum):
    """What holds for a probe between two operations."""

    OFF = 0
    """Not registered: no handler may run."""
    CHANGING = 1
    """An operation is under way that concerns it: a hit or none."""
    ON = 2
    """Registered and enabled: each pass over the armed text is a hit or a miss."""
    DISABLED = 3
    """Registered, disabled: no pass that begins now is a hit."""


class Control:
    """The operations, on one control state's core.

    :ivar told: of each control task, by its index, how many operations it has begun, and what those have answered that can answer more
        than one thing. What the task's code keeps where nobody can look at it (the position of a loop, say) is decided by that.
    :param hit: called with a probe's number (in the order of :meth:`kprobe` calls) and the registers, when its handler runs.
    :ivar refused: a line for each probe that the core has refused, for the user.
    """

    def __init__(self, core: Kprobes, hit: HitLog, text: TextSpace, image: Image) -> None:
        self.core = core
        self._text = text
        self._image = image
        self._hit = hit
        self.probes: list[Kprobe] = []
        self.returns: dict[int, Kretprobe] = {}
        self.told: dict[int, tuple[int, tuple[bool, ...]]] = {}
        self.refused: list[str] = []
        self._disabled: set[int] = set()
        self._life: list[Life] = []
        self._epoch: list[int] = []

    # Probes -----------------------------------------------------------------------------------------------------------

    def kprobe(
        self,
        symbol: str | None,
        offset: int = 0,
        *,
        addr: int | None = None,
        post: bool = False,
        disabled: bool = False,
        number: int | None = None,
    ) -> Kprobe:
        """A probe whose handler counts, at a symbol or an address; ``post``: with a post_handler, too; ``disabled``: registered so.

        :param number: its number, where several control tasks make probes; else they are numbered as they come.
        """
        number = len(self.probes) if number is None else number

        def pre_handler(p: Kprobe, regs: Any) -> int:
            del p
            self._hit(number, regs)
            return 0

        flags = KprobeFlag.DISABLED if disabled else KprobeFlag(0)
        post_handler = _nothing if post else None
        p = Kprobe(addr=addr, symbol_name=symbol, offset=offset, pre_handler=pre_handler, post_handler=post_handler, flags=flags)
        self._add(p, number)
        if disabled:
            self._disabled.add(number)
        return p

    def kretprobe(self, symbol: str, maxactive: int = 8) -> Kretprobe:
        """A return probe whose handler counts."""
        number = len(self.probes)
        rp = Kretprobe(symbol_name=symbol, handler=partial(self._returned, number), maxactive=maxactive)
        self._add(rp.kp, number)
        self.returns[number] = rp
        return rp

    def _returned(self, number: int, _ri: object, regs: Any) -> int:
        self._hit(number, regs)
        return 0

    def _add(self, p: Kprobe, number: int) -> None:
        while len(self.probes) <= number:
            self.probes.append(Kprobe())  # of another task, which has not come to make it
            self._life.append(Life.OFF)
            self._epoch.append(0)
        self.probes[number] = p

    @property
    def lives(self) -> Lives:
        """Of each probe, what holds for it, and since how many changes."""
        return tuple(zip(self._life, self._epoch, strict=True))

    @property
    def _armed(self) -> Life:
        return Life.CHANGING if self.core.kprobes_all_disarmed else Life.ON

    def _numbers(self, *ps: Kprobe) -> list[int]:
        return [n for n, known in enumerate(self.probes) if any(known is p for p in ps)]

    def _begin(self) -> None:
        """The current control task begins an operation."""
        self.core.plane.point(BETWEEN_OPERATIONS)
        task = self._task
        begun, answers = self.told.get(task, (0, ()))
        self.told[task] = (begun + 1, answers)

    def _answers(self, answer: bool) -> bool:
        """An operation of the current control task ends with ``answer``."""
        begun, answers = self.told[self._task]
        self.told[self._task] = (begun, (*answers, answer))
        return answer

    @property
    def _task(self) -> int:
        return getattr(self.core.plane.current, "index", -1)

    @contextmanager
    def _changing(self, numbers: list[int], after: Life) -> Generator[None]:
        self._begin()
        before = [self._life[n] for n in numbers]
        for n in numbers:
            self._life[n] = Life.CHANGING
            self._epoch[n] += 1
        done = False
        try:
            yield
            done = True
        finally:
            for n, life in zip(numbers, before, strict=True):
                self._life[n] = after if done else life
                self._epoch[n] += 1

    # Operations ---------------------------------------------------------------------------------------------------------

    def register(self, p: Kprobe, *, must: bool = False) -> bool:
        """register_kprobe(). False: the core refused it; with ``must`` that is an error."""
        numbers = self._numbers(p)
        disabled = not self._disabled.isdisjoint(numbers)
        try:
            with self._changing(numbers, Life.DISABLED if disabled else self._armed):
                p.addr = None if p.symbol_name is not None else p.addr
                p.flags = KprobeFlag.DISABLED if disabled else KprobeFlag(0)  # it keeps what unregistering has left
                self.core.register_kprobe(p)
        except KprobeError as error:
            if must:
                raise
            place = f"{p.addr or 0:#x}" if p.symbol_name is None else f"{p.symbol_name}+{p.offset:#x}"
            self.refused.append(f"control task {self.core.plane.current!r}: register_kprobe({place}) was refused: {error}")
            return self._answers(False)
        return self._answers(True)

    def unregister(self, *ps: Kprobe) -> None:
        """unregister_kprobes()."""
        with self._changing(self._numbers(*ps), Life.OFF):
            self.core.unregister_kprobes(ps)

    def disable(self, p: Kprobe) -> None:
        """disable_kprobe()."""
        with self._changing(self._numbers(p), Life.DISABLED):
            self.core.disable_kprobe(p)

    def enable(self, p: Kprobe) -> None:
        """enable_kprobe()."""
        with self._changing(self._numbers(p), self._armed):
            self.core.enable_kprobe(p)

    def register_return(self, rp: Kretprobe) -> None:
        """register_kretprobe()."""
        with self._changing(self._numbers(rp.kp), Life.ON):
            self.core.register_kretprobe(rp)

    def unregister_return(self, rp: Kretprobe) -> None:
        """unregister_kretprobe()."""
        with self._changing(self._numbers(rp.kp), Life.OFF):
            self.core.unregister_kretprobe(rp)

    def settle(self) -> None:
        """wait_for_kprobe_optimizer()."""
        self._begin()
        self.core.wait_for_kprobe_optimizer()

    def optimization(self, *, on: bool) -> None:
        """sysctl debug.kprobes-optimization."""
        self._begin()
        set_kprobes_optimization(self.core, on=on)

    def switch(self, *, on: bool) -> None:
        """debugfs kprobes/enabled: while it is off, whether a probe that is on is hit is left open."""
        numbers = [n for n, p in enumerate(self.probes) if self.core.is_registered(p) and not p.disabled]
        with self._changing(numbers, Life.ON if on else Life.CHANGING):
            set_kprobes_enabled(self.core, on=on)

    def module_going(self, symbol: str) -> None:
        """The code of a function, nobody in it, is about to be freed, and is: kprobes_module_going(), and the loader."""
        start, size = self._extent(symbol)
        numbers = [n for n, p in enumerate(self.probes) if p.addr is not None and start <= p.addr < start + size]
        with self._changing(numbers, Life.OFF):
            self.core.kprobes_module_going(start, size)
        self._text.unload(start, size)

    def module_back(self, symbol: str) -> None:
        """It is loaded again."""
        self._begin()
        start, size = self._extent(symbol)
        self._text.load(start, self._image.read(start, size))

    def _extent(self, symbol: str) -> tuple[int, int]:
        found = self._image.by_name[symbol]
        return found.addr, found.size


def _nothing(_p: Kprobe, _regs: object, _flags: int) -> None:
    """A post_handler: it forbids boosting and optimizing."""
