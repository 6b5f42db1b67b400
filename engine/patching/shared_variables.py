"""Whether the control tasks of a scenario can tell each other anything by variables, rather than by
the core alone.

What goes in is the tasks' functions, before any of them runs. What comes out is whether two of them
reach one thing that can change: a list, an object, a class or a closure's variable that one of them
stores to. Whoever gets such a thing later gets it by one that is reached now. Probes, and what else
is optprobe's own, don't count: a scenario learns of the core by what its operations answer.
"""

from __future__ import annotations

import dis
import gc
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import lru_cache, partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast

from engine.patching.local_state import is_local_class
from engine.patching.own_code import OwnCode

__all__ = ("share_variables",)

_FIXED: Final = (int, str, bool, float, complex, bytes, type(None), range, slice, Enum, ModuleType)


def share_variables(tasks: Iterable[Callable[..., Any]], own: OwnCode) -> bool:
    """Two of the control tasks, whose functions are ``tasks``, reach one thing that can change.

    :param own: which code is the project's, whose objects are not looked into.
    """
    reached = [_Reached(task, own) for task in tasks]
    stored = {cell for one in reached for cell in one.stored}
    met = set[int]()
    for one in reached:
        mine = one.objects.keys() | (one.cells.keys() & stored)
        if not met.isdisjoint(mine):
            return True
        met |= mine
    return False


class _Reached:
    """What one task reaches.

    :ivar objects: that can change, by identity; ``cells``: variables of closures, likewise;
        ``stored``: those of ``cells`` to which a function stores.
    """

    def __init__(self, task: Callable[..., Any], own: OwnCode) -> None:
        self._own = own
        self.objects: dict[int, object] = {}
        self.cells: dict[int, CellType] = {}
        self.stored: set[int] = set()
        self._known: dict[int, object] = {}
        todo: list[object] = [task]
        while todo:
            one = todo.pop()
            if id(one) not in self._known and not isinstance(one, _FIXED):
                self._known[id(one)] = one  # kept, so that its identity is nobody else's meanwhile
                todo += self._through(one)

    def _through(self, one: object) -> Iterable[object]:
        """What ``one`` leads to."""
        if isinstance(one, FunctionType):
            return (
                *self._closure(one),
                one.__defaults__,
                one.__kwdefaults__,
                *one.__dict__.values(),
            )
        if isinstance(one, MethodType):
            return (one.__func__, one.__self__)
        if isinstance(one, partial):
            return (
                one.func,
                *one.args,
                *one.keywords.values(),
            )  # pyright: ignore[reportUnknownMemberType]
        if isinstance(one, BuiltinFunctionType):
            return (cast("object", one.__self__),)
        if isinstance(one, tuple | frozenset):
            return cast("Iterable[object]", one)
        kind = one if isinstance(one, type) else type(one)
        if self._own.has(kind.__module__) or (one is kind and not is_local_class(kind)):
            return ()
        self.objects[id(one)] = one
        return vars(kind).values() if one is kind else gc.get_referents(one)

    def _closure(self, function: FunctionType) -> Iterator[object]:
        """What the variables hold that ``function`` has of the functions around it."""
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self.cells[id(cell)] = cell
            if name in _stored(function.__code__):
                self.stored.add(id(cell))
            try:
                yield cell.cell_contents
            except ValueError:  # nothing has been stored there yet
                self.stored.add(id(cell))


@lru_cache(maxsize=1024)
def _stored(code: CodeType) -> frozenset[str]:
    """The variables of functions around it to which a function stores, or one within it."""
    own = {
        one.argval
        for one in dis.get_instructions(code)
        if one.opname in ("STORE_DEREF", "DELETE_DEREF")
    }
    inner = (_stored(const) for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(own).union(*inner) & frozenset(code.co_freevars)
