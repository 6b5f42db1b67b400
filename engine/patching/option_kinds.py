"""The kinds of values that options of experiments have.

Each kind tells how to read its values from the command line and the Python interface, from the
keywords of a scenario, and from a saved file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from engine.errors import InputError, printable
from engine.patching.saved_fields import SavedFields
from engine.syntax.arguments import parse_number
from engine.syntax.stub_texts import parse_stub

__all__ = ("Kind", "List", "Made", "Named", "Number", "Stubs", "Switch", "Word", "flag")


def flag(name: str) -> str:
    """Return the option of the command line that is called ``name`` in Python."""
    return f"--{name.replace('_', '-')}"


class Kind(Protocol):
    """A kind reads and writes the values of an option.

    Each method that reads a value raises InputError if the value is wrong. The message calls
    the option by the name that its user gave it.
    """

    def read(self, name: str, given: Any) -> Any:
        """Return the value of what the command line or the Python interface gives."""
        ...

    def keyword(self, name: str, given: object) -> Any:
        """Return the value of what the keyword ``name`` of a scenario gives."""
        ...

    def saved(self, name: str, fields: SavedFields) -> Any:
        """Return the value that a saved file has for the option."""
        ...

    def to_json(self, value: Any) -> object:
        """Return the value in the form that a saved file has."""
        ...


@dataclass(frozen=True, slots=True)
class Number:
    """The value is a whole number from ``least`` to ``most``."""

    least: int
    most: int

    def read(self, name: str, given: object) -> int:
        """Return the number that ``given`` is, or that its text says."""
        return parse_number(str(given), flag(name), least=self.least, most=self.most)

    def keyword(self, name: str, given: object) -> int:
        """Return ``given`` if it is a whole number in the range; True and False are no numbers."""
        if type(given) is not int or not self.least <= given <= self.most:
            raise _wrong(name, given, f"a whole number from {self.least} to {self.most:,}")
        return given

    def saved(self, name: str, fields: SavedFields) -> int:
        """Return the number that the saved file has for the option."""
        return fields.number(name, self.least, self.most)

    def to_json(self, value: int) -> object:
        """Return the number, which JSON can hold as it is."""
        return value


@dataclass(frozen=True, slots=True)
class Switch:
    """The value is either true or false."""

    def read(self, name: str, given: bool) -> bool:
        """Return ``given``, which is True or False already."""
        return given

    def keyword(self, name: str, given: object) -> bool:
        """Return ``given`` if it is True or False."""
        if not isinstance(given, bool):
            raise _wrong(name, given, "True or False")
        return given

    def saved(self, name: str, fields: SavedFields) -> bool:
        """Return the true or false that the saved file has for the option."""
        return fields.take(name, bool)

    def to_json(self, value: bool) -> object:
        """Return the value, which JSON can hold as it is."""
        return value


@dataclass(frozen=True, slots=True)
class Word:
    """The value is a string, which may have to be one of several choices.

    :ivar choices: the strings that are right; where there are none, the experiment's setup
        decides which strings are right.
    :ivar planned: strings that are to be right in a later version.
    """

    choices: tuple[str, ...] = ()
    planned: tuple[str, ...] = ()

    def read(self, name: str, given: Any) -> Any:
        """Return ``given`` if it is one of the choices, or if the kind has no choices.

        Without choices ``given`` need not be a string: Python may give an object in place
        of a name.
        """
        if self.choices and given not in self.choices:
            why = (
                "is not there yet; leave it out"
                if given in self.planned
                else f"unknown; give {' or '.join(self.choices)}"
            )
            raise InputError(f"{flag(name)} {printable(str(given))}: {why}")
        return given

    def keyword(self, name: str, given: object) -> str:
        """Return ``given`` if it is a string, and one of the choices where there are any."""
        if not isinstance(given, str) or (self.choices and given not in self.choices):
            right = " or ".join(map(repr, self.choices)) if self.choices else "a string"
            raise _wrong(name, given, right)
        return given

    def saved(self, name: str, fields: SavedFields) -> str:
        """Return the string that the saved file has, if it is one of the choices."""
        return self.read(name, fields.take(name, str))

    def to_json(self, value: str) -> object:
        """Return the string, which JSON can hold as it is."""
        return value


@dataclass(frozen=True, slots=True)
class List:
    """The value has several items of the type ``kind``.

    :ivar right: what the values have to be, with an example, for messages about keywords.
    """

    kind: type
    right: str = "strings, such as ('5',) or ()"

    def read(self, name: str, given: Sequence[Any]) -> tuple[Any, ...]:
        """Return the items of any sequence as a tuple."""
        return tuple(given)

    def keyword(self, name: str, given: object) -> tuple[Any, ...]:
        """Return the items of a list or tuple as a tuple, if all are of the type ``kind``."""
        values = cast("Sequence[object]", given)
        if not isinstance(given, list | tuple) or any(type(one) is not self.kind for one in values):
            raise _wrong(name, values, f"a tuple of {self.right}")
        return tuple(values)

    def saved(self, name: str, fields: SavedFields) -> tuple[str, ...]:
        """Return the strings of an array in the saved file."""
        return fields.texts(name)

    def to_json(self, value: Sequence[Any]) -> object:
        """Return the values as a list, which is an array in JSON."""
        return list(value)


@dataclass(frozen=True, slots=True)
class Stubs:
    """The value has the numbers that stubs return, by the stubs' names, sorted by name."""

    def read(self, name: str, given: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
        """Return the numbers that texts ``SYM=ret:N``, or a mapping from names, give."""
        pairs = given.items() if isinstance(given, Mapping) else map(parse_stub, given)
        return dict(sorted(dict(pairs).items()))

    def keyword(self, name: str, given: object) -> dict[str, int]:
        """Return the numbers that a list or tuple of texts ``SYM=ret:N`` gives."""
        return self.read(name, List(str).keyword(name, given))

    def saved(self, name: str, fields: SavedFields) -> dict[str, int]:
        """Return the numbers from an array of pairs of a name and a number."""
        found: dict[str, int] = {}
        for pair in fields.list(name):
            match pair:
                case [str(symbol), int(value)]:
                    found[symbol] = value
                case _:
                    fields.refuse(name)
        return found

    def to_json(self, value: Mapping[str, int]) -> object:
        """Return the names and numbers as an array of pairs."""
        return [list(pair) for pair in value.items()]


@dataclass(frozen=True, slots=True)
class Made:
    """The value is a function or class that makes an object, or None.

    No text can express such a value, so no saved file and no command line has one.

    :ivar right: what the value has to be, for messages.
    """

    right: str

    def read(self, name: str, given: Callable[..., Any] | None) -> Callable[..., Any] | None:
        """Return ``given`` without a check."""
        return given

    def keyword(self, name: str, given: object) -> Callable[..., Any] | None:
        """Return ``given`` if it can be called, or is None."""
        if given is not None and not callable(given):
            raise _wrong(name, given, self.right)
        return given

    def saved(self, name: str, fields: SavedFields) -> Callable[..., Any] | None:
        """Refuse the file, since no saved file has a value of this kind."""
        fields.refuse(name)

    def to_json(self, value: object) -> object:
        """Return None, since no saved file has a value of this kind."""
        return None


@dataclass(frozen=True, slots=True)
class Named:
    """The value is a name that the experiment's setup knows, an object in its place, or None."""

    def read(self, name: str, given: Any) -> Any:
        """Return ``given`` without a check, which the setup makes."""
        return given

    def keyword(self, name: str, given: object) -> Any:
        """Return ``given`` without a check, which the setup makes."""
        return given

    def saved(self, name: str, fields: SavedFields) -> str | None:
        """Return the name that the saved file has, or None where it has null."""
        return None if fields.is_null(name) else fields.take(name, str)

    def to_json(self, value: object) -> object:
        """Return the name. The commands save, and they have no object in its place."""
        return str(value)


def _wrong(name: str, given: object, right: str) -> InputError:
    return InputError(f"{name}={printable(repr(given))}: give {right}")
