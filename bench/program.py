"""``python -m bench.program NAME ARGUMENT...``: run ``main()`` of bench/NAME.py, and end as a
command of ``optprobe`` does.

At Ctrl-C, also while the modules are being loaded, that is one line on standard error and status
130; when a worker process dies, it is one line and status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from engine.__main__ import run

__all__ = ("run_guarded",)


def run_guarded(load: Callable[[], Callable[[], int]]) -> int:
    """Run a program of this folder, and return the exit status of the process.

    :param load: imports the program, and returns its ``main``, which returns an exit status.
    """
    return run(lambda: _guarded(load()))


def _guarded(main: Callable[[], int]) -> Callable[[], int]:
    """``main`` with errors turned into a line and a status, and with Ctrl-C that is not lost where
    the emulator calls back.
    """
    from arch_x86.emu.sigint import interruptible
    from engine.commands.exit_status import exit_status

    def within() -> int:
        with interruptible():
            status = main()
        sys.stdout.flush()
        return status

    return lambda: exit_status(within)


def _named() -> Callable[[], int]:
    """The ``main`` of the program that the first word of the command line names."""
    return import_module(f"bench.{sys.argv.pop(1)}").main


if __name__ == "__main__":
    sys.exit(run_guarded(_named))
