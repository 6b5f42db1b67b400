"""``optprobe``, and ``python -m engine``."""

import os
import sys
from contextlib import suppress

__all__ = ("run",)

_STANDARD_ERROR = 2


def run() -> int:
    """The exit status of the command line, for a process that ends with it. Ctrl-C while the
    program is being loaded is one line, too, and while the process ends it is nothing.
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
