"""This module says what the calls of ``optprobe litmus`` fetched, and which models allow that.

It answers to the SDM, volume 3, "Handling Self- and Cross-Modifying Code". It is pure: events and
counts go in, counts and words come out. docs/litmus.md explains the models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from arch_x86.lab.litmus_code import GENERATIONS, LINE, Counters, Event

__all__ = ("MODELS", "Cell", "Fetched", "Model", "Sums", "fetched", "strongest", "sums")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one call fetched.

    :ivar borders: the offsets in the line of bytes that came from another store than the byte in
        front of them; 0 is the border between two lines. Not empty: the fetch is torn.
    :ivar stale: a byte is older than a store that was published before the call. False where
        ``undecided``.
    :ivar backward: a byte is older than a store that an earlier call had fetched whole. False where
        ``undecided``.
    :ivar undecided: so many stores were published during the call that the bytes do not tell
        whether they are stale.
    """

    borders: tuple[int, ...]
    stale: bool
    backward: bool
    undecided: bool


def fetched(event: Event, width: int, offset: int) -> Fetched:
    """Return what the call of ``event`` fetched.

    A byte shows the number of its store modulo 256. A byte that may be current is taken to be so,
    and a byte that is older than the publication is taken for the newest such store that it may be
    of. So a fetch that is reported as stale or backward was so.

    :param width: the width of the store to the instruction, in bytes.
    :param offset: the offset in the line of the first byte that is stored.
    """
    stored = event.value.to_bytes(8, "little")[:width]
    borders = tuple((offset + at) % LINE for at in range(1, width) if stored[at] != stored[at - 1])
    if event.published > GENERATIONS - 2:
        return Fetched(borders, stale=False, backward=False, undecided=True)
    ahead = [(byte - event.before) % GENERATIONS for byte in stored]
    late = [one > event.published + 1 for one in ahead]
    stores = [
        event.before + one - (GENERATIONS if is_late else 0)
        for one, is_late in zip(ahead, late, strict=True)
    ]
    return Fetched(borders, stale=any(late), backward=min(stores) < event.newest, undecided=False)


@dataclass(slots=True)
class Cell:
    """The counts of the calls to one place, by stores of one width.

    Each call is one of current, torn, stale or undecided.

    :ivar width: the width of the stores, in bytes.
    :ivar offset: the offset in the line of the first byte that is stored.
    :ivar serialized: the caller executed CPUID between reading the publication and calling.
    :ivar calls: the calls.
    :ivar stores: the stores that the writer made.
    :ivar overlapped: the calls during which a store was published.
    :ivar current: the calls that fetched one whole store, which was not stale.
    :ivar torn: the calls that fetched bytes of several stores.
    :ivar torn_stale: those of them in which a byte was stale.
    :ivar stale: the calls that fetched one whole store, which was stale.
    :ivar undecided: the calls that fetched one whole store, with too many stores published
        meanwhile to tell whether it was stale.
    :ivar backward: the calls, of any kind, that fetched a byte older than an earlier call did.
    :ivar borders: for each offset in the line, the torn calls in which the byte at that offset was
        of another store than the byte in front of it.
    """

    width: int
    offset: int
    serialized: bool
    calls: int = 0
    stores: int = 0
    overlapped: int = 0
    current: int = 0
    torn: int = 0
    torn_stale: int = 0
    stale: int = 0
    undecided: int = 0
    backward: int = 0
    borders: Counter[int] = field(default_factory=Counter[int])

    def add(self, counters: Counters, events: Sequence[Event]) -> None:
        """Count what the caller's loop has counted at this offset, and each event there."""
        self.calls += counters.calls
        self.stores += counters.stores
        self.overlapped += counters.overlapped
        self.current += counters.plain
        for event in events:
            self._count(fetched(event, self.width, self.offset))

    def _count(self, one: Fetched) -> None:
        self.backward += one.backward
        if one.borders:
            self.torn += 1
            self.torn_stale += one.stale
            self.borders.update(one.borders)
        elif one.undecided:
            self.undecided += 1
        elif one.stale:
            self.stale += 1
        else:
            self.current += 1

    def to_json(self) -> dict[str, object]:
        """Return the cell as docs/json.md has it."""
        return {
            "width": self.width,
            "offset": self.offset,
            "serialized": self.serialized,
            **_numbers(self),
            "borders": [
                {"border": border, "torn": torn} for border, torn in sorted(self.borders.items())
            ],
        }


@dataclass(frozen=True, slots=True)
class Sums:
    """The sums of the counts of several cells, which :class:`Cell` explains."""

    calls: int
    stores: int
    overlapped: int
    current: int
    torn: int
    torn_stale: int
    stale: int
    undecided: int
    backward: int

    def to_json(self) -> dict[str, int]:
        """Return the sums by their names."""
        return _numbers(self)


_COUNTS: Final = (
    "calls",
    "stores",
    "overlapped",
    "current",
    "torn",
    "torn_stale",
    "stale",
    "undecided",
    "backward",
)


def _numbers(counts: Cell | Sums) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _COUNTS}


def sums(cells: Iterable[Cell]) -> Sums:
    """Return the sums of the counts of ``cells``."""
    total: Counter[str] = Counter()
    for cell in cells:
        total.update(_numbers(cell))
    return Sums(**{name: total[name] for name in _COUNTS})


@dataclass(frozen=True, slots=True)
class Model:
    """A fetch model: which stores to an instruction a fetch of it may still miss.

    :ivar name: the name of the model.
    :ivar late: a store that other CPUs can see already may be missed by a fetch, until the CPU
        executes a serializing instruction.
    :ivar unit: the bytes of an aligned unit of so many bytes are fetched as of one store; None: all
        bytes of a store are.
    """

    name: str
    late: bool
    unit: int | None

    def objection(self, cells: Iterable[Cell]) -> str | None:
        """Say what was seen that the model does not allow; None: it allows everything."""
        cells = list(cells)
        total = sums(cells)
        serialized = sums(cell for cell in cells if cell.serialized)
        borders: Counter[int] = Counter()
        for cell in cells:
            borders.update(cell.borders)
        inside = {one: n for one, n in borders.items() if self.unit is None or one % self.unit}
        if total.backward:
            return f"{_times(total.backward)} a fetch went back to an older store"
        if serialized.stale + serialized.torn_stale:
            return (
                f"{_times(serialized.stale + serialized.torn_stale)} a fetch was stale behind a"
                " serializing instruction"
            )
        if total.stale + total.torn_stale and not self.late:
            return f"{_times(total.stale + total.torn_stale)} a fetch was stale"
        if inside:
            border, torn = max(inside.items(), key=lambda item: (item[1], -item[0]))
            where = "a border of lines" if border == 0 else f"offset {border}"
            return f"{_times(torn)} a store was torn at {where}"
        return None


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


MODELS: Final = (
    Model("coherent", late=False, unit=None),
    Model("stale", late=True, unit=None),
    Model("unit:64", late=True, unit=64),
    Model("unit:32", late=True, unit=32),
    Model("unit:16", late=True, unit=16),
    Model("unit:8", late=True, unit=8),
    Model("torn", late=True, unit=1),
)
"""The fetch models. Each allows what the one in front of it does, and more: it is weaker."""


def strongest(cells: Iterable[Cell]) -> Model | None:
    """Return the strongest model that allows everything that was seen; None: no model does."""
    cells = list(cells)
    return next((model for model in MODELS if model.objection(cells) is None), None)
