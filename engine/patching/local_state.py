"""The local state of a control task: where its code stands, and what its variables hold.

Together with what all tasks share, the local state decides how the task goes on. Two control states
with different local states must have different names, or the explorer takes one for the other and
never sees what comes after it.
Python shows where each frame stands and what its variables hold, those of closures included. It
does not show what an unfinished statement keeps: the position of a ``for`` loop or of a ``map()``,
what earlier calls in the same expression have returned, or which exception a ``finally`` block will
raise again.

For a scenario's code these are decided by what it has seen: how many operations it has begun, and
what they have answered. All of that is part of the state, except in ``while`` loops, which may try
again without a limit: there only the last answers are part of it (:func:`unbounded`). So the one
thing that is not told apart is a ``map()``, or the like, within a ``while`` loop. The code of
optprobe itself is written so that its variables decide how it goes on
(``tests/explore/test_laws.py`` tests that).

A variable that holds something which can't be told apart (a file, a lock, an iterator that does not
show where it is) is refused, by its name.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache, partial
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final, cast

from engine.errors import InputError
from engine.kprobe import Kprobe
from engine.kretprobe import Kretprobe
from engine.patching.own_code import OwnCode

__all__ = ("LocalState", "is_local_class", "unbounded")

_SCALARS: Final = (int, str, bool, float, complex, bytes, type(None))


@lru_cache(maxsize=1024)
def _places(code: CodeType) -> tuple[tuple[int | None, ...], ...]:
    """Return the lines and columns of each instruction of ``code``.

    They stand for the instruction's offset, which depends on how often it has run (PEP 659).
    """
    return tuple(code.co_positions())


@lru_cache(maxsize=1024)
def _code_name(code: CodeType) -> tuple[str, bytes]:
    """Return a name for a function's code that also differs for two lambdas on one line."""
    digest = blake2b(repr(_places(code)).encode() + code.co_code, digest_size=8)
    return code.co_qualname, digest.digest()


def is_local_class(kind: type[Any]) -> bool:
    """Return whether a function made the class.

    The attributes of such a class are among what that function keeps.
    """
    return "<locals>" in kind.__qualname__


class _Untold(Exception):
    """This error says that an object is of a type whose objects can't be told apart."""


class LocalState:
    """This object names the local state of one control task.

    :param name_of: returns the name of a probe, which holds in every control state.
    :param task: the task's name, for messages.
    :param own: tells which code is the project's.
    :ivar iterates: a generator was met that has a ``for`` loop of its own, whose position
        Python does not show.
    """

    def __init__(self, name_of: Callable[[Kprobe | None], int], task: str, own: OwnCode) -> None:
        self._name_of = name_of
        self._task = task
        self._own = own
        self._open: list[int] = []
        self.iterates = False

    def frames(self, innermost: FrameType | None) -> Hashable:
        """Return the local state of all frames from ``innermost`` outwards.

        :raises InputError: a variable of the scenario's own code holds something that can't
            be told apart.
        """
        return tuple(map(self._frame, _outwards(innermost)))

    def _frame(self, frame: FrameType) -> Hashable:
        code = frame.f_code
        module = _module(frame)
        own = self._own.has(module) or module == "contextlib"
        # The order of the dictionary depends on earlier reads of it, so the variables are sorted.
        variables = sorted(frame.f_locals.items())
        held = tuple(self._variable(name, value, own=own) for name, value in variables)
        return (
            code.co_qualname,
            _places(code)[frame.f_lasti // 2] if frame.f_lasti >= 0 else (),
            held,
        )

    def _variable(self, name: str, value: Any, *, own: bool) -> Hashable:
        try:
            return self.value(value, own=own)
        except (_Untold, RecursionError) as error:
            what = (
                error.args[0]
                if isinstance(error, _Untold)
                else f"{type(value).__name__} that is nested too deeply"
            )
            raise InputError(
                f"control task {self._task}: the variable {name} holds a {what}, and two of these"
                " can't be told apart; keep numbers, texts, lists, dictionaries, probes or objects"
                " of your own in variables"
            ) from None

    def function(self, work: Callable[..., Any] | None) -> Hashable:
        """Return the local state of a task that has not begun to run ``work``.

        :raises InputError: ``work`` holds something that can't be told apart.
        """
        return self._variable(self._task, work, own=False)

    def value(self, value: Any, *, own: bool = False) -> Hashable:
        """Return what of ``value`` decides what the task will do.

        :param own: a variable of optprobe's own code holds the value. An object of an
            unknown kind there is one of which every control state has exactly one.
        """
        if isinstance(value, Enum):
            return (type(value).__name__, value.name)
        if isinstance(value, _SCALARS):
            return value
        if isinstance(value, Kprobe):
            return ("probe", self._name_of(value))
        if isinstance(value, Kretprobe):
            return ("return probe", self._name_of(value.kp))
        if id(value) in self._open:  # The value holds itself, at some depth.
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
        if own or self._own.has(kind.__module__):
            if is_dataclass(value) and not isinstance(value, type):
                return (kind.__name__, *(told(getattr(value, one.name)) for one in fields(value)))
            return kind.__name__
        return self._scenarios_own(value)

    def _scenarios_own(self, value: Any) -> Hashable:
        """Return what decides the state of a function, a generator, or an object.

        Of an object that is what it would be pickled as.
        """
        if isinstance(value, type):
            return (value.__qualname__, self._attributes(value) if is_local_class(value) else ())
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, BuiltinFunctionType):  # This type is also that of a list's methods.
            of = cast("object", value.__self__)
            return (value.__qualname__, None if isinstance(of, ModuleType) else self.value(of))
        if isinstance(value, FunctionType):
            cells = tuple(map(self._cell, value.__code__.co_freevars, value.__closure__ or ()))
            kept = (value.__defaults__, value.__kwdefaults__, value.__dict__)
            return (_code_name(value.__code__), cells, *map(self.value, kept))
        if isinstance(value, MethodType):
            return (value.__func__.__qualname__, self.value(value.__self__))
        if isinstance(value, partial):
            return (
                "partial",
                self.value(value.func),
                self.value(value.args),
                self.value(value.keywords),
            )  # pyright: ignore[reportUnknownMemberType]
        if isinstance(value, GeneratorType):
            return self._generator(cast("GeneratorType[Any, Any, Any]", value))
        try:
            parts = value.__reduce_ex__(4)
        except Exception as error:  # A user's class may raise any error there.
            raise _Untold(type(value).__name__) from error
        if isinstance(parts, str):
            return (type(value).__qualname__, parts)
        items = tuple(None if one is None else self.value(list(one)) for one in parts[3:5])
        kind = self.value(cast("object", type(value)))
        return (kind, *map(self.value, parts[1:3]), *items)

    def _generator(self, one: GeneratorType[Any, Any, Any]) -> Hashable:
        """Return where a generator that does not run stands, and what its ``yield from`` reads."""
        if one.gi_frame is None:
            return ("generator",)
        self.iterates = self.iterates or _has_for_loop(one.gi_code)
        return ("generator", self._frame(one.gi_frame), self.value(one.gi_yieldfrom))

    def _cell(self, name: str, cell: CellType) -> Hashable:
        try:
            content = cell.cell_contents
        except ValueError:  # No value has been stored in the cell yet.
            return ()
        return ("cell", self._variable(name, content, own=False))

    def _attributes(self, kind: type[Any]) -> Hashable:
        """Return the attributes of a class that hold something.

        What every class has is left out, and so are descriptors, such as properties.
        """
        own = (
            (name, cast("object", one))
            for name, one in vars(kind).items()
            if not name.startswith(("__", "_abc_impl"))
        )
        return tuple(
            (name, self.value(one))
            for name, one in own
            if isinstance(one, FunctionType) or not hasattr(one, "__get__")
        )


def unbounded(innermost: FrameType | None, own: OwnCode) -> bool:
    """Return whether the scenario's functions under way go round in a loop without a limit.

    They have a ``while`` loop, and no ``for`` loop, whose position no variable tells.
    """
    codes = [frame.f_code for frame in _outwards(innermost) if not own.has(_module(frame))]
    return any(map(_has_while_loop, codes)) and not any(map(_has_for_loop, codes))


@lru_cache(maxsize=1024)
def _has_for_loop(code: CodeType) -> bool:
    return any(one.opname == "FOR_ITER" for one in dis.get_instructions(code))


@lru_cache(maxsize=1024)
def _has_while_loop(code: CodeType) -> bool:
    """Return whether the code jumps back to a place that is not the head of a ``for`` loop."""
    rounds = {
        one.offset for one in dis.get_instructions(code) if one.opname in ("FOR_ITER", "SEND")
    }
    jumps = [
        (one.offset, one.argval)
        for one in dis.get_instructions(code)
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs
    ]
    return any(to < at and to not in rounds for at, to in jumps)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
