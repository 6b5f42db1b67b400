"""How a long run ends: as a command of ``optprobe`` does, with one line and status 130 at Ctrl-C,
and with one line and status 1 when a worker process dies.

``python -m bench.program NAME ARGUMENT...`` runs ``main()`` of bench/NAME.py. Ctrl-C while that is
being loaded is one line, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from engine.__main__ import run

__all__ = ("run_guarded",)


def run_guarded(load: Callable[[], Callable[[], int]]) -> int:
    """The exit status of a long run, for a process that ends with it.

    :param load: imports the long run, and returns its ``main``.
    """
    return run(lambda: _guarded(load()))


def _guarded(main: Callable[[], int]) -> Callable[[], int]:
    from arch_x86.emu.sigint import interruptible
    from engine.commands.exit_status import exit_status

    def within() -> int:
        with interruptible():
            status = main()
        sys.stdout.flush()
        return status

    return lambda: exit_status(within)


def _named() -> Callable[[], int]:
    return import_module(f"bench.{sys.argv.pop(1)}").main


if __name__ == "__main__":
    sys.exit(run_guarded(_named))
