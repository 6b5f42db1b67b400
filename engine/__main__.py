"""``optprobe``, and ``python -m engine``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

__all__ = ("run",)

_STANDARD_ERROR = 2


def _load_command_line() -> Callable[[], int]:
    from engine.commands.cli import main

    return main


def run(load: Callable[[], Callable[[], int]] = _load_command_line) -> int:
    """The exit status of a program, for a process that ends with it: the command line, or another.
    Ctrl-C while the program is being loaded is one line, too, and while the process ends it is
    nothing.

    :param load: imports the program, and returns its ``main``, which returns an exit status.
    """
    handler = None
    try:
        from engine.ctrl_c import CtrlC

        handler = CtrlC.installed()
        _reserve_standard_streams()
        status = load()()
        if handler is not None:
            handler.done()
    except KeyboardInterrupt:  # another one does not come right behind it
        if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]  # so it is when closed: `2>&-`
            with suppress(OSError):
                print("optprobe: interrupted", file=sys.stderr, flush=True)
        status = 130
        if handler is not None:
            handler.done()
    return status


def _reserve_standard_streams() -> None:
    """What was started with one of them closed must not open a file of its own in its place:
    libraries write to standard error, too.
    """
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            pass
        os.close(number)


if __name__ == "__main__":
    sys.exit(run())
