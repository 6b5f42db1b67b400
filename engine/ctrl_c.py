"""How the processes of a command handle Ctrl-C (SIGINT).

The first signal becomes one KeyboardInterrupt, which is not lost where the interpreter ignores
exceptions, and which is not raised where nothing could catch it.
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
"""Seconds until SIGINT is sent again, when its exception came where it was ignored."""
_SAME: Final = 1.0
"""Seconds in which another SIGINT is taken for the same Ctrl-C.

A program that starts a command may send the signal both to the process and to its group.
"""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with words that say how far the program had come, such as ``after 3 of 7 sites``."""


def try_again() -> None:
    """Send SIGINT to the main thread :data:`AGAIN` seconds from now.

    The signal also ends a wait of that thread.
    """
    timer = threading.Timer(
        AGAIN, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
    )
    timer.daemon = True
    timer.start()


def ends_all(error: BaseException | None) -> bool:
    """Whether ``error`` ends all that this process does, and not only the operation that raised it.

    Ctrl-C does, and so does a lack of memory.
    """
    return error is not None and (
        isinstance(error, MemoryError) or not isinstance(error, Exception)
    )


def was_interrupted(error: BaseException | None) -> bool:
    """Whether ``error`` was raised while a KeyboardInterrupt was on its way out of the stack.

    An operation that is cut off may leave a lock in a state that its release does not expect, and
    the release then raises an error of its own, which has the KeyboardInterrupt in its context.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class CtrlC:
    """The handler of SIGINT while a command runs.

    The first signal, SIGINT or SIGTERM, raises KeyboardInterrupt. Where the interpreter can only
    print an exception, as in a finalizer or in a callback of a library, the signal is sent again a
    moment later. What the command does after that, such as printing what it has found, is not
    interrupted by signals within :data:`_SAME` seconds of the first; a later one ends the process
    as if there were no handler. A command that has called :meth:`done` can't be interrupted.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._usual_hook = sys.unraisablehook

    @classmethod
    def installed(cls) -> CtrlC | None:
        """Install a handler in this process and return it.

        :returns: None where SIGINT is ignored or has another handler already, which then stays.
        """
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return None
        handler = cls()
        sys.unraisablehook = handler._unraisable
        signal.signal(signal.SIGINT, handler)
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _as_ctrl_c)
        return handler

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = monotonic()
            raise KeyboardInterrupt
        if monotonic() - self._first > _SAME:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)

    def _unraisable(self, what: Any) -> None:
        """Send SIGINT again, if the exception that could not be raised is a KeyboardInterrupt."""
        if what.exc_type is not KeyboardInterrupt:
            self._usual_hook(what)
        elif signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._first = None
            try_again()

    def done(self) -> None:
        """Ignore SIGINT from now on: the command has come to its end, and the process follows."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if signal.getsignal(signal.SIGTERM) is _as_ctrl_c:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _as_ctrl_c(_number: int, _frame: FrameType | None) -> None:
    """Handle SIGTERM, which batch systems and ``timeout`` send, as SIGINT is handled."""
    signal.raise_signal(signal.SIGINT)


@contextmanager
def blocked() -> Generator[None]:
    """Hold SIGINT back while the body of the ``with`` statement runs, and deliver it behind it.

    A process that is forked in the body begins with the signal blocked. A terminal sends Ctrl-C to
    all processes of a command, but only the process that forked the others answers it, and ends
    them.
    """
    came: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    # The signal mask is that of one thread, so the signal may still go to another thread, and
    # Python runs the handler in the main thread all the same. So the handler is exchanged, too.
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
