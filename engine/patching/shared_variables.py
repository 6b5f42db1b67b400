"""The test whether control tasks of a scenario can tell each other anything by variables.

If they can't, they meet in the core alone. The test is given the tasks' functions, before any of
them runs. It tells whether two tasks reach one thing that can change: a list, an object, a class,
or a closure's variable to which one of them stores. A task that gets such a thing later gets it
through one that it reaches now. Probes and other objects of optprobe's own do not count: a scenario
learns of the core by the answers of its operations.
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
    """Return whether two of the control tasks reach one thing that can change.

    :param tasks: the functions of the control tasks.
    :param own: tells which code is the project's, whose objects are not looked into.
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
    """This object finds what one task reaches.

    :ivar objects: the objects that can change, by identity.
    :ivar cells: the variables of closures, by identity.
    :ivar stored: the identities of those variables to which a function stores.
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
                # The object is kept, so that no other object gets its identity meanwhile.
                self._known[id(one)] = one
                todo += self._through(one)

    def _through(self, one: object) -> Iterable[object]:
        """Return the objects that ``one`` refers to."""
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
        """Yield what the variables hold that ``function`` takes from the functions around it."""
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self.cells[id(cell)] = cell
            if name in _stored(function.__code__):
                self.stored.add(id(cell))
            try:
                yield cell.cell_contents
            except ValueError:  # No value has been stored in the cell yet.
                self.stored.add(id(cell))


@lru_cache(maxsize=1024)
def _stored(code: CodeType) -> frozenset[str]:
    """Return the outer functions' variables to which a function, or one within it, stores."""
    own = {
        one.argval
        for one in dis.get_instructions(code)
        if one.opname in ("STORE_DEREF", "DELETE_DEREF")
    }
    inner = (_stored(const) for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(own).union(*inner) & frozenset(code.co_freevars)
