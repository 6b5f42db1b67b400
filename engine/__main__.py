"""The entry point of the command ``optprobe`` and of ``python -m engine``."""

import os
import sys
from contextlib import suppress

__all__ = ("run",)

_STANDARD_ERROR = 2


def run() -> int:
    """Run the command line and return the exit status of the process.

    Ctrl-C while the program is being loaded is reported by one line on standard error, with status
    130, as it is later. Once :func:`engine.commands.cli.main` has returned, SIGINT is ignored.
    """
    handler = None
    try:
        from engine.ctrl_c import CtrlC

        handler = CtrlC.installed()
        _reserve_standard_streams()
        from engine.commands.cli import main

        status = main()
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
