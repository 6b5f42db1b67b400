"""The kinds of values that options of experiments have.

Each kind says how its values are read from what the command line and the Python interface give,
from the keywords of a scenario, and from a saved file.
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
    """Return the option of the command line that is called ``name`` in Python."""
    return f"--{name.replace('_', '-')}"


class Kind(Protocol):
    """A kind of values.

    Each method that reads raises InputError where the value is wrong. The message calls the option
    as its user does.
    """

    def read(self, name: str, given: Any) -> Any:
        """Return the value of what the command line or the Python interface gives."""
        ...

    def keyword(self, name: str, given: object) -> Any:
        """Return the value of a keyword of a scenario."""
        ...

    def saved(self, name: str, fields: SavedFields) -> Any:
        """Return the value in a saved file."""
        ...

    def to_json(self, value: Any) -> object:
        """Return the value as a saved file has it."""
        ...


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int

    def read(self, name: str, given: object) -> int:
        """Take a number or its text."""
        return parse_number(str(given), flag(name), least=self.least, most=self.most)

    def keyword(self, name: str, given: object) -> int:
        """Take a number."""
        if type(given) is not int or not self.least <= given <= self.most:
            raise _wrong(name, given, f"a whole number from {self.least} to {self.most:,}")
        return given

    def saved(self, name: str, fields: SavedFields) -> int:
        """Take a number."""
        return fields.number(name, self.least, self.most)

    def to_json(self, value: int) -> object:
        """Write the number."""
        return value


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    def read(self, name: str, given: bool) -> bool:
        """Take the value as it is."""
        return given

    def keyword(self, name: str, given: object) -> bool:
        """Take True or False."""
        if not isinstance(given, bool):
            raise _wrong(name, given, "True or False")
        return given

    def saved(self, name: str, fields: SavedFields) -> bool:
        """Take true or false."""
        return fields.take(name, bool)

    def to_json(self, value: bool) -> object:
        """Write true or false."""
        return value


@dataclass(frozen=True, slots=True)
class Word:
    """A string.

    :ivar choices: the strings that are right; where there are none, the experiment's setup says
        which are.
    :ivar planned: strings that are to be right in a later version.
    """

    choices: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()

    def read(self, name: str, given: Any) -> Any:
        """Take one of the choices. Python may give an object in place of a name."""
        if self.choices and given not in self.choices:
            why = (
                "is not there yet; leave it out"
                if given in self.planned
                else f"unknown; give {' or '.join(self.choices)}"
            )
            raise InputError(f"{flag(name)} {printable(str(given))}: {why}")
        return given

    def keyword(self, name: str, given: object) -> str:
        """Take a string."""
        if not isinstance(given, str):
            raise _wrong(name, given, "a string")
        return given

    def saved(self, name: str, fields: SavedFields) -> str:
        """Take a string that is one of the choices."""
        return self.read(name, fields.take(name, str))

    def to_json(self, value: str) -> object:
        """Write the string."""
        return value


@dataclass(frozen=True, slots=True)
class List:
    """Several values of type ``kind``.

    :ivar right: what the values are, and an example, for messages about keywords.
    """

    kind: type
    right: str = "strings, such as ('5',) or ()"

    def read(self, name: str, given: Sequence[Any]) -> tuple[Any, ...]:
        """Take any sequence."""
        return tuple(given)

    def keyword(self, name: str, given: object) -> tuple[Any, ...]:
        """Take a list or a tuple."""
        values = cast("Sequence[object]", given)
        if not isinstance(given, list | tuple) or any(type(one) is not self.kind for one in values):
            raise _wrong(name, values, f"a tuple of {self.right}")
        return tuple(values)

    def saved(self, name: str, fields: SavedFields) -> tuple[str, ...]:
        """Take an array of strings."""
        return fields.texts(name)

    def to_json(self, value: Sequence[Any]) -> object:
        """Write an array."""
        return list(value)


@dataclass(frozen=True, slots=True)
class Stubs:
    """The numbers that stubs return, by name and in the order of the names."""

    def read(self, name: str, given: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
        """Take texts ``SYM=ret:N``, or numbers by name."""
        pairs = given.items() if isinstance(given, Mapping) else map(parse_stub, given)
        return dict(sorted(dict(pairs).items()))

    def keyword(self, name: str, given: object) -> dict[str, int]:
        """Take texts ``SYM=ret:N``."""
        return self.read(name, List(str).keyword(name, given))

    def saved(self, name: str, fields: SavedFields) -> dict[str, int]:
        """Take an array of pairs."""
        found: dict[str, int] = {}
        for pair in fields.list(name):
            match pair:
                case [str(symbol), int(value)]:
                    found[symbol] = value
                case _:
                    fields.refuse(name)
        return found

    def to_json(self, value: Mapping[str, int]) -> object:
        """Write an array of pairs."""
        return [list(pair) for pair in value.items()]


@dataclass(frozen=True, slots=True)
class Made:
    """A function or class that makes an object, or None.

    No text can say it, so it is in no file and on no command line.

    :ivar right: what it has to be, for messages.
    """

    right: str

    def read(self, name: str, given: Callable[..., Any] | None) -> Callable[..., Any] | None:
        """Take the value as it is."""
        return given

    def keyword(self, name: str, given: object) -> Callable[..., Any] | None:
        """Take what can be called, or None."""
        if given is not None and not callable(given):
            raise _wrong(name, given, self.right)
        return given

    def saved(self, name: str, fields: SavedFields) -> Callable[..., Any] | None:
        """No file has such a value."""
        fields.refuse(name)

    def to_json(self, value: object) -> object:
        """No file has such a value."""
        return None


def _wrong(name: str, given: object, right: str) -> InputError:
    return InputError(f"{name}={printable(repr(given))}: give {right}")
