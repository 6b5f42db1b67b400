"""Ctrl-C as a process of the command takes it: one KeyboardInterrupt, which is never lost, and none
where nobody could catch it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any, Final

__all__ = (
    "AGAIN",
    "CtrlC",
    "Interrupted",
    "blocked",
    "ends_all",
    "try_again",
    "was_interrupted",
)

AGAIN: Final = 0.005
"""Seconds until a Ctrl-C is tried again that came where its exception would have been lost."""
_SAME: Final = 1.0
"""Seconds in which a second signal is not a second wish: who starts commands may send it to the
process and to its group.
"""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, and how far the program had come, in words such as ``after 3 of 7 sites``."""


def try_again() -> None:
    """Ctrl-C once more, in a moment: a signal to the main thread, which ends a wait of it, too."""
    timer = threading.Timer(
        AGAIN, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    )
    timer.daemon = True
    timer.start()


def ends_all(error: BaseException | None) -> bool:
    """``error`` is not of what was being done, but ends all that is done here: Ctrl-C, or too
    little memory.
    """
    return error is not None and (
        isinstance(error, MemoryError) or not isinstance(error, Exception)
    )


def was_interrupted(error: BaseException | None) -> bool:
    """``error`` was raised while Ctrl-C unwound what it had cut off, as by a lock that is not in
    the state that its release expects.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class CtrlC:
    """The handler of SIGINT while the command runs.

    The first signal raises KeyboardInterrupt, and again where the interpreter could only print that
    it was raised: in a finalizer, or in what a library calls. What the command does then, such as
    to print what it has found, is not interrupted by signals right behind it; one that comes later
    ends the process as if there were no handler. A command that is done can't be interrupted.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._usual_hook = sys.unraisablehook

    @classmethod
    def installed(cls) -> CtrlC | None:
        """The handler of this process from now on; None where SIGINT is ignored, or somebody
        else's.
        """
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return None
        handler = cls()
        sys.unraisablehook = handler._unraisable
        signal.signal(signal.SIGINT, handler)
        return handler

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = monotonic()
            raise KeyboardInterrupt
        if monotonic() - self._first > _SAME:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)

    def _unraisable(self, what: Any) -> None:
        if what.exc_type is not KeyboardInterrupt:
            self._usual_hook(what)
        elif signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._first = None
            try_again()

    def done(self) -> None:
        """The command has come to its end, and the process follows."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def blocked() -> Generator[None]:
    """Within, SIGINT waits; behind it, it comes. A process that is forked within begins with the
    signal blocked: a terminal sends Ctrl-C to all of its processes, but who forked this one ends
    it.
    """
    came: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    # Blocked here, the signal may still go to another thread, and its handler always runs in the
    # main one.
    held = callable(usual) and threading.current_thread() is threading.main_thread()
    if held:
        signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if held:
            signal.signal(signal.SIGINT, usual)
        if came:
            signal.raise_signal(signal.SIGINT)
