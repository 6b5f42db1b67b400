"""How the command line is read: argparse, with errors of one line, and output whose failure is not
hidden.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from engine.errors import InputError
from engine.version import __version__

__all__ = ("Once", "Parser", "Version")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, whose help ends with an example, and does not hide that
    it can't be written. An option that takes one value is refused when it is there twice.

    :param example: a command line, which the help ends with; none where it is empty.
    """

    def __init__(self, *, example: str = "", **settings: Any) -> None:
        super().__init__(**settings)
        self._example = example
        self.register("action", None, Once)  # what add_argument() takes where no action is named

    def format_help(self) -> str:
        return super().format_help() + (f"\nexample:\n  {self._example}\n" if self._example else "")

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        shorter = re.sub(r"\S{200,}", lambda word: word[0][:197] + "...", message)
        raise InputError(f"{shorter}; see {self.prog} --help")


class Once(argparse.Action):
    """Keeps the value of an option that may be there once: a second value would silently take the
    place of the first.
    """

    _given_in: argparse.Namespace | None = None
    """The last parse in which the option was there. Each parse has a namespace of its own."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if self._given_in is namespace:
            parser.error(f"{option_string} is there twice; give it once")
        self._given_in = namespace
        setattr(namespace, self.dest, values)


class Version(argparse.Action):
    """Prints the version; argparse's own action would hide that it can't be written."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"optprobe {__version__}")
        parser.exit()
