"""The entry point of the command ``optprobe`` and of ``python -m engine``."""

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
    """Run a program, which is the command line unless another is given, and return the exit status
    of the process.

    Ctrl-C while the program is being loaded is reported by one line on standard error, with status
    130, as it is later. Once the program's ``main`` has returned, SIGINT is ignored.

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
    except KeyboardInterrupt:  # another Ctrl-C right behind this one raises nothing (engine.ctrl_c)
        # sys.stderr is None when standard error is closed (`2>&-`)
        if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
            with suppress(OSError):
                print("optprobe: interrupted", file=sys.stderr, flush=True)
        status = 130
        if handler is not None:
            handler.done()
    return status


def _reserve_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    A process that was started with one of the three closed would give its number to the next file
    that it opens, and libraries that write to standard error would write to that file.
    """
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            pass
        os.close(number)


if __name__ == "__main__":
    sys.exit(run())
