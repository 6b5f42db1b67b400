"""Texts that tell a user's scenario or poke protocol from other versions of it."""

from __future__ import annotations

import inspect
from functools import partial
from tokenize import TokenError
from types import CodeType, FunctionType
from typing import Any, cast

__all__ = ("identity_of", "source_of")

_PLAIN = (int, float, complex, str, bytes)


def source_of(made: object) -> str:
    """Return a text that tells a function or class from another version of it.

    That is its source text. Code that was typed in, or whose file was run and not imported, has
    none. Then it is the texts of a class's functions and its plain values, or the code of a
    function with its constants and names, or else the name.
    """
    try:
        return inspect.getsource(cast("type[object]", made))
    except (
        OSError,
        TypeError,
        SyntaxError,
        TokenError,
    ):  # The last two come where the file has changed since it was loaded.
        if isinstance(made, type):
            return " ".join(
                f"{name}={_member(value)}"
                for name, value in sorted(vars(made).items())
                if not name.startswith("__weakref")
            )
        if isinstance(made, FunctionType):
            return _code(made.__code__)
        return str(getattr(made, "__qualname__", type(made).__qualname__))


def _member(value: object) -> str:
    # The function of a static method or a class method is an attribute of it.
    function: object = getattr(value, "__func__", value)
    return (
        source_of(function) if isinstance(function, FunctionType) else _value(function, frozenset())
    )


def _code(code: CodeType) -> str:
    constants = [
        _code(one) if isinstance(one, CodeType) else repr(one)
        for one in code.co_consts
        if not isinstance(one, frozenset)
    ]
    # The order of a set's items may differ from one process to the next, so they are sorted.
    constants += [
        repr(sorted(map(repr, cast("frozenset[object]", one))))
        for one in code.co_consts
        if isinstance(one, frozenset)
    ]
    return " ".join((code.co_code.hex(), *code.co_names, *constants))


def identity_of(made: object) -> str:
    """Return the text of what is called, with the values that it was made with.

    The text is that of :func:`source_of`. The values are the arguments of a ``partial``, the
    variables that a function takes from around it, its defaults, and the attributes of an
    instance. A value without a text that is the same in every process is represented by its
    type.
    """
    return _told(made, frozenset())


def _told(made: object, inside: frozenset[int]) -> str:
    if id(made) in inside:  # A function may refer to itself.
        return "..."
    inside |= {id(made)}
    code, values = _parts(made)
    return " ".join((source_of(code), *(_value(value, inside) for value in values)))


def _parts(made: object) -> tuple[object, list[Any]]:
    """Return what has a text, and the values that go with it."""
    if isinstance(made, type):
        return made, []
    if isinstance(made, partial):
        call = cast("partial[Any]", made)
        return call.func, [*call.args, *sorted(call.keywords.items())]
    if isinstance(made, FunctionType):
        closure = inspect.getclosurevars(made).nonlocals
        return made, [
            *sorted(closure.items()),
            *(made.__defaults__ or ()),
            *sorted((made.__kwdefaults__ or {}).items()),
        ]
    return type(made), sorted(getattr(made, "__dict__", {}).items())


def _value(value: object, inside: frozenset[int]) -> str:
    if isinstance(value, tuple):
        return f"({' '.join(_value(one, inside) for one in cast('tuple[object, ...]', value))})"
    if value is None or isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, type | partial | FunctionType):
        return _told(cast("object", value), inside)
    return type(value).__qualname__
