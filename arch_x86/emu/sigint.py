"""The handling of Ctrl-C while the emulator runs.

An exception raised in one of the emulator's callbacks would be lost, and with it the stop that was
asked for. So would one raised in what the interpreter calls for an object that has died.
"""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from arch_x86.emu.block_counter import MISSED
from arch_x86.emu.hits_inside import ANSWERS
from arch_x86.emu.uc_hooks import in_callback
from engine.ctrl_c import CtrlC, try_again

__all__ = ("interruptible",)

_CARRIERS: Final = frozenset({MISSED, *ANSWERS})
_WEAKREF: Final = weakref.__file__
"""The file of the module from which finalizers are called."""


def _in_finalizer(frame: FrameType | None) -> bool:
    """Return whether ``frame`` is that of a finalizer, or of a function that one has called."""
    while frame is not None:
        if (frame.f_code.co_filename, frame.f_code.co_name) == (_WEAKREF, "__call__"):
            return True
        frame = frame.f_back
    return False


def _loses(frame: FrameType | None) -> bool:
    """Return whether what is raised in ``frame`` is lost, unlike what is raised below it.

    These callbacks carry what is raised in the functions that they call out of the emulator.
    """
    return frame is not None and frame.f_code in _CARRIERS


@contextmanager
def interruptible() -> Generator[None]:
    """Let SIGINT raise KeyboardInterrupt within, but never where the exception would be lost.

    Where SIGINT is handled otherwise, nothing changes.
    """
    usual = signal.getsignal(signal.SIGINT)
    known = usual is signal.default_int_handler or isinstance(usual, CtrlC)
    if (
        not callable(usual)
        or not known
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def on_sigint(number: int, frame: FrameType | None) -> None:
        if _loses(frame) or in_callback(frame) or _in_finalizer(frame):
            try_again()
        else:
            usual(number, frame)

    signal.signal(signal.SIGINT, on_sigint)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
