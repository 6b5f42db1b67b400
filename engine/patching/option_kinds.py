"""The kinds of values that options of experiments have, and how each is read: from what the command
line and the Python interface give, from the keywords of a scenario, and from a saved file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from engine.errors import InputError, printable
from engine.patching.saved_fields import SavedFields
from engine.syntax.arguments import parse_number
from engine.syntax.stub_texts import parse_stub

__all__ = ("Kind", "List", "Made", "Number", "Stubs", "Switch", "Word", "flag")


def flag(name: str) -> str:
    """The option of the command line that is called ``name`` in Python."""
    return f"--{name.replace('_', '-')}"


class Kind(Protocol):
    """One kind. All methods raise InputError where the value is wrong, with a message that calls
    the option as its user does.
    """

    def read(self, name: str, given: Any) -> Any:
        """The value of what the command line or the Python interface gives."""
        ...

    def keyword(self, name: str, given: object) -> Any:
        """The value of a keyword of a scenario."""
        ...

    def saved(self, name: str, fields: SavedFields) -> Any:
        """The value in a saved file, which has one."""
        ...

    def to_json(self, value: Any) -> object:
        """The value as a saved file has it."""
        ...


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int

    def read(self, name: str, given: object) -> int:
        """From a number or its text."""
        return parse_number(str(given), flag(name), least=self.least, most=self.most)

    def keyword(self, name: str, given: object) -> int:
        """From a number."""
        if type(given) is not int or not self.least <= given <= self.most:
            raise _wrong(name, given, f"a whole number from {self.least} to {self.most:,}")
        return given

    def saved(self, name: str, fields: SavedFields) -> int:
        """From a number."""
        return fields.number(name, self.least, self.most)

    def to_json(self, value: int) -> object:
        """The number."""
        return value


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    def read(self, name: str, given: bool) -> bool:
        """As it is."""
        return given

    def keyword(self, name: str, given: object) -> bool:
        """From True or False."""
        if not isinstance(given, bool):
            raise _wrong(name, given, "True or False")
        return given

    def saved(self, name: str, fields: SavedFields) -> bool:
        """From true or false."""
        return fields.take(name, bool)

    def to_json(self, value: bool) -> object:
        """True or false."""
        return value


@dataclass(frozen=True, slots=True)
class Word:
    """A string.

    :ivar choices: those that there are; none: the program's setup says which are right.
    :ivar planned: those that are to come.
    """

    choices: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()

    def read(self, name: str, given: Any) -> Any:
        """One of the choices. Python may give an object in place of a name."""
        if self.choices and given not in self.choices:
            why = (
                "is not there yet; leave it out"
                if given in self.planned
                else f"unknown; give {' or '.join(self.choices)}"
            )
            raise InputError(f"{flag(name)} {printable(str(given))}: {why}")
        return given

    def keyword(self, name: str, given: object) -> str:
        """From a string."""
        if not isinstance(given, str):
            raise _wrong(name, given, "a string")
        return given

    def saved(self, name: str, fields: SavedFields) -> str:
        """From a string, which is one of the choices."""
        return self.read(name, fields.take(name, str))

    def to_json(self, value: str) -> object:
        """The string."""
        return value


@dataclass(frozen=True, slots=True)
class List:
    """Several values of type ``kind``.

    :ivar right: what they are, and an example, for messages about keywords.
    """

    kind: type
    right: str = "strings, such as ('5',) or ()"

    def read(self, name: str, given: Sequence[Any]) -> tuple[Any, ...]:
        """From any sequence."""
        return tuple(given)

    def keyword(self, name: str, given: object) -> tuple[Any, ...]:
        """From a list or a tuple."""
        values = cast("Sequence[object]", given)
        if not isinstance(given, list | tuple) or any(type(one) is not self.kind for one in values):
            raise _wrong(name, values, f"a tuple of {self.right}")
        return tuple(values)

    def saved(self, name: str, fields: SavedFields) -> tuple[str, ...]:
        """From an array of strings."""
        return fields.texts(name)

    def to_json(self, value: Sequence[Any]) -> object:
        """An array."""
        return list(value)


@dataclass(frozen=True, slots=True)
class Stubs:
    """What stubs return, by name, in the order of the names."""

    def read(self, name: str, given: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
        """From ``SYM=ret:N``, or from numbers by name."""
        pairs = given.items() if isinstance(given, Mapping) else map(parse_stub, given)
        return dict(sorted(dict(pairs).items()))

    def keyword(self, name: str, given: object) -> dict[str, int]:
        """From ``SYM=ret:N``."""
        return self.read(name, List(str).keyword(name, given))

    def saved(self, name: str, fields: SavedFields) -> dict[str, int]:
        """From an array of pairs."""
        found: dict[str, int] = {}
        for pair in fields.list(name):
            match pair:
                case [str(symbol), int(value)]:
                    found[symbol] = value
                case _:
                    fields.refuse(name)
        return found

    def to_json(self, value: Mapping[str, int]) -> object:
        """An array of pairs."""
        return [list(pair) for pair in value.items()]


@dataclass(frozen=True, slots=True)
class Made:
    """What makes an object, or None. No text says it, so it is in no file and on no command line.

    :ivar right: what it is, for messages.
    """

    right: str

    def read(self, name: str, given: Callable[..., Any] | None) -> Callable[..., Any] | None:
        """As it is."""
        return given

    def keyword(self, name: str, given: object) -> Callable[..., Any] | None:
        """From what can be called, or None."""
        if given is not None and not callable(given):
            raise _wrong(name, given, self.right)
        return given

    def saved(self, name: str, fields: SavedFields) -> Callable[..., Any] | None:
        """No file has it."""
        fields.refuse(name)

    def to_json(self, value: object) -> object:
        """No file has it."""
        return None


def _wrong(name: str, given: object, right: str) -> InputError:
    return InputError(f"{name}={printable(repr(given))}: give {right}")
