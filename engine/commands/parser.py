"""A parser that is argparse's but reports an error in one line.

It does not hide that its output can't be written, as argparse does.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from engine.errors import InputError
from engine.version import __version__

__all__ = ("Once", "Parser", "Version")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help ends with an example.

    An option that takes one value and is no list is refused when it is there twice. An error in
    printing the help is raised, which argparse would hide.

    :param example: the command line that the help ends with. An empty one is left out.
    """

    def __init__(self, *, example: str = "", **settings: Any) -> None:
        super().__init__(**settings)
        self._example = example
        self.register("action", None, Once)  # Options use this action where they name no other.

    def format_help(self) -> str:
        return super().format_help() + (f"\nexample:\n  {self._example}\n" if self._example else "")

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Refuse words that the parser does not know, and say which option is like one of them."""
        names = [name for action in self._actions for name in action.option_strings]
        for word in words:
            close = get_close_matches(word.partition("=")[0], names, n=1)
            if word.startswith("--") and close:
                self.error(f"unrecognized arguments: {' '.join(words)} (is {close[0]} meant?)")
        self.error(f"unrecognized arguments: {' '.join(words)}")

    def error(self, message: str) -> NoReturn:
        shorter = re.sub(r"\S{200,}", lambda word: word[0][:197] + "...", message)
        raise InputError(f"{shorter}; see {self.prog} --help")


class Once(argparse.Action):
    """An action that keeps the value of an option, and refuses a second one.

    argparse's own action lets a second value take the place of the first, and says nothing.
    """

    _given_in: argparse.Namespace | None = None
    """The namespace of the last parse that met the option. Each parse has one of its own."""

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
    """An action that prints the version. argparse's own would hide that it can't be written."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"optprobe {__version__}")
        parser.exit()
