"""The reader of the JSON document of a saved violation, which may hold any values."""

from __future__ import annotations

from typing import NoReturn, TypeVar, cast

from engine.errors import InputError

__all__ = ("SavedFields",)

_Value = TypeVar("_Value")


class SavedFields:
    """This object reads a JSON object of a saved file, with the types that ``--save`` writes.

    The methods raise InputError where a value is missing or of another type.

    :param where: the file's name, for messages.
    :param values: what should be a JSON object.
    :param within: the keys that lead to the object, each with a dot behind it.
    :raises InputError: ``values`` is no JSON object.
    """

    def __init__(self, where: str, values: object, within: str) -> None:
        self._where = where
        self._within = within
        if not isinstance(values, dict):
            what = within.removesuffix(".") or "it"
            raise InputError(f"{where}: {what} is no JSON object; give a file that --save wrote")
        self._values = cast("dict[str, object]", values)

    def has(self, key: str) -> bool:
        """Return whether the object has the key."""
        return key in self._values

    def is_null(self, key: str) -> bool:
        """Return whether the object has the key, and null as its value."""
        return self.has(key) and self._values[key] is None

    def take(self, key: str, kind: type[_Value]) -> _Value:
        """Return the value of ``key``, which has to be of the type ``kind``."""
        value = self._values.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(key)
        return value

    def number(self, key: str, least: int, most: int) -> int:
        """Return the integer that is the value of ``key``, from ``least`` to ``most``."""
        value = self.take(key, int)
        if not least <= value <= most:
            self.refuse(key)
        return value

    def list(self, key: str) -> list[object]:
        """Return the array that is the value of ``key``."""
        return cast("list[object]", self.take(key, list))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the strings of the array that is the value of ``key``."""
        values = self.list(key)
        if not all(isinstance(value, str) for value in values):
            self.refuse(key)
        return tuple(cast("list[str]", values))

    def below(self, key: str) -> SavedFields:
        """Return the object that is the value of ``key``."""
        return SavedFields(self._where, self._values.get(key), f"{self._within}{key}.")

    def each(self, key: str) -> list[SavedFields]:
        """Return the objects of the array that is the value of ``key``."""
        return [
            SavedFields(self._where, value, f"{self._within}{key}.{number}.")
            for number, value in enumerate(self.list(key))
        ]

    def refuse(self, key: str) -> NoReturn:
        """Raise the error that says that no saved file has such a value for ``key``.

        :raises InputError: this is raised always.
        """
        raise InputError(
            f"{self._where}: {self._within}{key} is missing, or not of the kind or size that it has"
            " there; give a file that --save wrote"
        )
