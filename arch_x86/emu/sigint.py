"""Ctrl-C while the emulator runs. An exception raised in one of its callbacks would be lost, and with it the stop that was asked for; so
would one raised in what the interpreter calls for an object that has died.
"""

from __future__ import annotations

import _thread
import signal
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from arch_x86.emu.uc import in_callback

__all__ = ("interruptible",)

_WEAKREF: Final = weakref.__file__
"""Where finalizers are called."""
_AGAIN: Final = 0.005
"""Seconds until Ctrl-C is tried again; a callback or a finalizer takes microseconds."""


def _in_finalizer(frame: FrameType | None) -> bool:
    """``frame`` is that of a finalizer, or of a function that one has called."""
    while frame is not None:
        if (frame.f_code.co_filename, frame.f_code.co_name) == (_WEAKREF, "__call__"):
            return True
        frame = frame.f_back
    return False


def _on_sigint(_number: int, frame: FrameType | None) -> None:
    if not (in_callback(frame) or _in_finalizer(frame)):
        raise KeyboardInterrupt
    threading.Timer(_AGAIN, _thread.interrupt_main).start()


@contextmanager
def interruptible() -> Generator[None]:
    """Within, SIGINT raises KeyboardInterrupt, but never where that is lost. Where SIGINT is handled otherwise, nothing changes."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _on_sigint)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
