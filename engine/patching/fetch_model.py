"""Fetch models: which bytes a vCPU may fetch while stores to the text are not seen by it yet.

A model divides the addresses of the text into *classes*. Of the stores that touch one class a vCPU
has seen the first few, and never fewer at a later fetch than at an earlier one. Each fetch of an
instruction may see more of them, class by class. A synchronizing instruction, and an interrupt that
ends in one, sees all. docs/fetch-models.md says what each model stands for.

Everything here is a pure function of its arguments. What a vCPU has not seen yet is its *view*: for
each class, the stores that are left, the oldest one first.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from operator import itemgetter
from typing import Final, NamedTuple

__all__ = (
    "FETCH_MODELS",
    "NOTHING_LEFT",
    "FetchModel",
    "Store",
    "View",
    "Way",
    "classes_near",
    "fetch_model",
    "left_after",
    "ways_to_fetch",
)


class Store(NamedTuple):
    """A store to the text.

    :ivar addr: the address of the first byte.
    :ivar old: the bytes that the store has replaced.
    :ivar new: the bytes that it has left, as many as ``old`` has.
    """

    addr: int
    old: bytes
    new: bytes


View = tuple[tuple[int, tuple[Store, ...]], ...]
"""The stores that a vCPU has not seen: pairs of a class and its stores, sorted by class.

The stores of a class are in the order in which they were made, and a class without any has no pair.
"""
NOTHING_LEFT: Final[View] = ()
"""The view of a vCPU that has seen all stores."""


@dataclass(frozen=True, slots=True)
class FetchModel:
    """A fetch model.

    :ivar name: the word of ``--fetch``.
    :ivar unit: the bytes of a class, each of which begins at a multiple of that; 0 makes all of the
        text one class; None: every vCPU sees every store at once.
    """

    name: str
    unit: int | None

    @property
    def coherent(self) -> bool:
        """Return whether every vCPU sees every store at once."""
        return self.unit is None


FETCH_MODELS: Final = (
    FetchModel("coherent", None),
    FetchModel("stale", 0),
    *(FetchModel(f"unit:{size}", size) for size in (64, 32, 16, 8)),
    FetchModel("torn", 1),
)
"""The fetch models. What a vCPU may fetch in one of them, it may fetch in each of the next ones."""


def fetch_model(name: str) -> FetchModel:
    """Return the fetch model called ``name``, which has to be one of :data:`FETCH_MODELS`."""
    return next(model for model in FETCH_MODELS if model.name == name)


def left_after(view: View, stores: Iterable[Store], unit: int) -> View:
    """Return the view of a vCPU behind ``stores``, which it has not seen.

    :param view: what it had not seen before them.
    :param unit: the bytes of a class, as in :class:`FetchModel`.
    """
    classes = dict(view)
    for store in stores:
        for number, piece in _pieces(store, unit):
            if piece.old != piece.new:
                classes[number] = (*classes.get(number, ()), piece)
    return tuple(sorted(classes.items()))


def classes_near(view: View, addr: int, size: int, unit: int) -> tuple[int, int]:
    """Return which of the pairs of ``view`` are of the classes of ``size`` bytes from ``addr`` on.

    :returns: the number of the first such pair, and that behind the last one; the two are equal if
        there is none.
    """
    if not unit:
        return 0, len(view)
    first = bisect_left(view, addr // unit, key=itemgetter(0))
    last = first
    while last < len(view) and view[last][0] <= (addr + size - 1) // unit:
        last += 1
    return first, last


def _pieces(store: Store, unit: int) -> Iterator[tuple[int, Store]]:
    """Yield the part of ``store`` in each class that it touches."""
    addr, old, new = store
    if not unit:
        yield 0, store
        return
    end = addr + len(old)
    for number in range(addr // unit, (end - 1) // unit + 1):
        first, last = max(addr, number * unit) - addr, min(end, (number + 1) * unit) - addr
        yield number, Store(addr + first, old[first:last], new[first:last])


class Way(NamedTuple):
    """One way in which a vCPU may fetch its next instruction.

    :ivar insn: the bytes of the instruction.
    :ivar view: the stores that the vCPU has not seen behind this fetch.
    """

    insn: bytes
    view: View


class _Content(NamedTuple):
    """What a class may have in the window of a fetch: its bytes there, and who has seen what.

    :ivar number: the class.
    :ivar changed: the offsets in the window that stores of the class touch, with the bytes there.
    :ivar unseen: how many stores are not seen where these bytes are fetched.
    """

    number: int
    changed: tuple[tuple[int, int], ...]
    unseen: int


@lru_cache(maxsize=1024)
def ways_to_fetch(
    ip: int, text: bytes, view: View, size_of: Callable[[bytes, int], int]
) -> tuple[Way, ...]:
    """Return the ways in which a vCPU may fetch the instruction at ``ip``, without two alike.

    The first way has the bytes of the present text. Of several numbers of stores that lead to the
    same bytes the vCPU sees the fewest, since it can see more at any later fetch.

    :param text: the present text from ``ip`` on, as many bytes as the longest instruction has.
    :param view: the stores that the vCPU has not seen.
    :param size_of: returns the size in bytes of the instruction that some bytes begin with, given
        its address, too.
    """
    options = [
        found for number, stores in view if len(found := _contents(number, stores, ip, text)) > 1
    ]
    if not options:
        size = size_of(text, ip)
        return (Way(text[:size], view),)
    ways: dict[bytes, Way] = {}
    for chosen in product(*options):
        fetched = bytearray(text)
        for content in chosen:
            for offset, byte in content.changed:
                fetched[offset] = byte
        size = size_of(bytes(fetched), ip)
        insn = bytes(fetched[:size])
        if insn not in ways:
            ways[insn] = Way(insn, _behind(view, chosen, options, size))
    return tuple(ways.values())


def _contents(number: int, stores: tuple[Store, ...], ip: int, text: bytes) -> list[_Content]:
    """Return what a class may have in the window of a fetch, the present content first.

    Of contents that are alike there is the one with the most stores unseen.
    """
    end = ip + len(text)
    touched = sorted(
        {
            at - ip
            for store in stores
            for at in range(max(store.addr, ip), min(store.addr + len(store.old), end))
        }
    )
    now = {offset: text[offset] for offset in touched}
    found = {tuple(now.items()): 0}
    for unseen, store in enumerate(reversed(stores), 1):
        for offset in touched:
            at = ip + offset - store.addr
            if 0 <= at < len(store.old):
                now[offset] = store.old[at]
        found[tuple(now.items())] = unseen
    return [_Content(number, changed, unseen) for changed, unseen in found.items()]


def _behind(
    view: View, chosen: tuple[_Content, ...], options: list[list[_Content]], size: int
) -> View:
    """Return the view behind a fetch of ``size`` bytes that has found the contents ``chosen``.

    Bytes behind the instruction were not fetched, so a class may have any content there.
    """
    kept: dict[int, int] = {}
    for content, others in zip(chosen, options, strict=True):
        part = _part(content, size)
        kept[content.number] = max(one.unseen for one in others if _part(one, size) == part)
    left = (
        (number, stores[len(stores) - kept.get(number, len(stores)) :]) for number, stores in view
    )
    return tuple((number, stores) for number, stores in left if stores)


def _part(content: _Content, size: int) -> tuple[tuple[int, int], ...]:
    """Return the bytes of ``content`` in the first ``size`` bytes of the window."""
    return tuple(pair for pair in content.changed if pair[0] < size)
