"""What decides how a control task goes on, beside what all tasks share: where its code stands, and what its local variables hold.

A control state has to be told from another one by all of it, or the explorer takes one for the other and never sees what comes after.
Python shows where each frame stands and what its variables hold, those of closures included. It does not show what an unfinished statement
keeps: the position of a ``for`` loop, or what calls before in the same expression have returned. For a scenario's code these are decided
by how many operations it has begun, which counts where a function with such a loop is under way, and by what they have answered. The code
of optprobe itself is written so that its variables tell (``tests/explore/test_laws.py`` holds it to that).

What can't be told apart (a file, a lock, an iterator that does not say where it is) is refused, by the name of its variable.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache, partial
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, Final, cast

from engine.errors import InputError
from engine.kprobe import Kprobe
from engine.kretprobes import Kretprobe

__all__ = ("LocalState", "loops")

_SCALARS: Final = (int, str, bool, float, complex, bytes, type(None))
_SHIPPED: Final = "arch_x86.explore.scenarios"


@lru_cache(maxsize=1024)
def _places(code: CodeType) -> tuple[tuple[int | None, ...], ...]:
    """Lines and columns of each instruction; its offset depends on how often it has run (PEP 659)."""
    return tuple(code.co_positions())


class _Untold(Exception):
    """An object of this type can't be told from another."""


class LocalState:
    """Names the local state of one control task.

    :param name_of: the name of a probe, which holds in every world.
    :param task: the task's name, for messages.
    """

    def __init__(self, name_of: Callable[[Kprobe | None], int], task: str) -> None:
        self._name_of = name_of
        self._task = task
        self._open: list[int] = []

    def frames(self, innermost: FrameType | None) -> Hashable:
        """The local state of all frames from ``innermost`` outwards.

        :raises InputError: a variable of the scenario's own code holds something whose state can't be told.
        """
        return tuple(map(self._frame, _outwards(innermost)))

    def _frame(self, frame: FrameType) -> Hashable:
        code = frame.f_code
        module = _module(frame)
        own = _is_of_optprobe(module) or module == "contextlib"
        held = tuple(self._variable(name, value, own=own) for name, value in frame.f_locals.items())
        return (code.co_qualname, _places(code)[frame.f_lasti // 2] if frame.f_lasti >= 0 else (), held)

    def _variable(self, name: str, value: Any, *, own: bool) -> Hashable:
        try:
            return self.value(value, own=own)
        except _Untold as error:
            raise InputError(
                f"control task {self._task}: the variable {name} holds a {error.args[0]}, and two of these can't be told apart; "
                "keep numbers, texts, lists, dictionaries, probes or objects of your own in variables"
            ) from None

    def value(self, value: Any, *, own: bool = False) -> Hashable:
        """What of ``value`` decides what the task will do.

        :param own: it is held by optprobe's own code, where objects of no kind known here are those that every world has one of.
        """
        if isinstance(value, Enum):
            return (type(value).__name__, value.name)
        if isinstance(value, _SCALARS):
            return value
        if isinstance(value, Kprobe):
            return ("probe", self._name_of(value))
        if isinstance(value, Kretprobe):
            return ("return probe", self._name_of(value.kp))
        if id(value) in self._open:  # it holds itself
            return ("outer", len(self._open) - self._open.index(id(value)))
        self._open.append(id(value))
        try:
            return self._composed(value, own=own)
        finally:
            self._open.pop()

    def _composed(self, value: Any, *, own: bool) -> Hashable:
        def told(one: Any) -> Hashable:
            return self.value(one, own=own)

        kind = cast("type[Any]", type(value))
        if kind in (list, tuple):
            return (kind.__name__, *map(told, value))
        if kind in (set, frozenset):
            return (kind.__name__, *sorted(map(repr, map(told, value))))
        if kind is dict:
            return ("dict", *((told(key), told(one)) for key, one in value.items()))
        if is_dataclass(value) and not isinstance(value, type):
            return (kind.__name__, *(told(getattr(value, one.name)) for one in fields(value)))
        if own or _is_of_optprobe(kind.__module__):
            return kind.__name__
        return self._scenarios_own(value)

    def _scenarios_own(self, value: Any) -> Hashable:
        """A function, a generator, or an object: what it would be pickled as."""
        if isinstance(value, type | ModuleType | BuiltinFunctionType):
            return value.__name__
        if isinstance(value, FunctionType):
            cells = tuple(self.value(cell.cell_contents) for cell in value.__closure__ or ())
            return (value.__qualname__, value.__code__.co_firstlineno, cells, self.value(value.__defaults__))
        if isinstance(value, MethodType):
            return (value.__func__.__qualname__, self.value(value.__self__))
        if isinstance(value, partial):
            return ("partial", self.value(value.func), self.value(value.args), self.value(value.keywords))  # pyright: ignore[reportUnknownMemberType]
        if isinstance(value, GeneratorType):
            return ("generator", () if value.gi_frame is None else self._frame(value.gi_frame))  # pyright: ignore[reportUnknownMemberType]
        try:
            parts = value.__reduce_ex__(4)
        except Exception as error:  # whatever its class raises
            raise _Untold(type(value).__name__) from error
        if isinstance(parts, str):
            return (type(value).__qualname__, parts)
        items = tuple(None if one is None else self.value(list(one)) for one in parts[3:5])
        return (type(value).__qualname__, *map(self.value, parts[1:3]), *items)


def loops(innermost: FrameType | None) -> bool:
    """A function of the scenario's that has a ``for`` loop is under way: where that stands, no variable tells."""
    return any(_has_loop(frame.f_code) and not _is_of_optprobe(_module(frame)) for frame in _outwards(innermost))


@lru_cache(maxsize=1024)
def _has_loop(code: CodeType) -> bool:
    return any(one.opname == "FOR_ITER" for one in dis.get_instructions(code))


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_of_optprobe(module: str) -> bool:
    return module.partition(".")[0] in ("engine", "arch_x86") and not module.startswith(_SHIPPED)
