"""How the command line is read: argparse, with errors of one line, and output whose failure is not
hidden.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from engine.commands.examples import EXAMPLES
from engine.errors import InputError
from engine.version import __version__

__all__ = ("Once", "Parser", "Version")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, whose help ends with an example, and does not hide that
    it can't be written.
    """

    def format_help(self) -> str:
        example = EXAMPLES.get(self.prog.rpartition(" ")[2])
        return super().format_help() + (f"\nexample:\n  {example}\n" if example else "")

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        shorter = re.sub(r"\S{200,}", lambda word: word[0][:197] + "...", message)
        raise InputError(f"{shorter}; see {self.prog} --help")


class Once(argparse.Action):
    """An option that says what is to be done: a second one would silently take the place of the
    first.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is there twice; give it once")
        setattr(namespace, self.dest, values)


class Version(argparse.Action):
    """Prints the version; argparse's own action would hide that it can't be written."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"optprobe {__version__}")
        parser.exit()
