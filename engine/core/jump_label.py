"""Static keys: branches in code that are switched by patching it. Answers to kernel/jump_label.c.

Code has a no-op or a jump at each static branch, and a key counts who needs the branch taken.
``enabled`` is 0 while nobody does, above 0 while somebody does, and -1 while the first one has the
code patched. The count is read and stored without a lock by those that find it above 0, so each
store is a point of the control plane. The patching is under ``jump_label_mutex``.

How a count goes down has been mended three times; :class:`Decrement` has each way.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from engine.control.sync import ControlPlane, Mutex

__all__ = ("Decrement", "StaticKey")

_RANK: Final = 3
"""jump_label_mutex is taken in front of text_mutex."""


class Decrement(Enum):
    """How ``static_key_slow_dec()`` takes 1 from the count, by the commit that brought it."""

    FETCH_ADD_UNLESS = "before 83ab38ef0a0b"
    """Whatever the count is, but 1, it goes down without the lock: from 0 to -1, too."""
    COMMIT_83AB38EF0A0B = "83ab38ef0a0b"
    """Only a count above 1 goes down without the lock. Under the lock the code is patched if the
    count was anything but 0, and only a count of 1 becomes 0.
    """
    COMMIT_224FA3552029 = "224fa3552029"
    """Under the lock the code is patched if the count was 1. If it was above 1 by then, it goes
    down as without the lock, which a count of 1 does not.
    """
    COMMIT_1D7F856C2CA4 = "1d7f856c2ca4"
    """A count of 0 stays 0, with a warning. Under the lock every count above 0 goes down, and the
    code is patched if it becomes 0.
    """


class StaticKey:
    """A key, and the code that it switches (``struct static_key``).

    :param patch: patches the code of all its branches: taken, or not.
    :ivar enabled: the count.
    :ivar warned: what the kernel has warned of last, or None; a timeline shows it.
    """

    def __init__(self, plane: ControlPlane, patch: Callable[[bool], None]) -> None:
        self._plane = plane
        self._patch = patch
        self.mutex = Mutex("jump_label_mutex", _RANK, plane)
        self.enabled = 0
        self.warned: str | None = None

    def _point(self, what: str) -> None:
        self._plane.point(f"{what}, where the key is {self.enabled}")

    def slow_inc(self) -> None:
        """Let the branches be taken from when this returns (static_key_slow_inc())."""
        if self._fast_inc_not_disabled():
            return
        with self.mutex:
            if self.enabled == 0:
                self._point("sets the key to -1")
                self.enabled = -1
                self._patch(True)
                self._point("sets the key to 1")
                self.enabled = 1
            else:
                self._point("adds 1 to the key")
                self.enabled += 1

    def _fast_inc_not_disabled(self) -> bool:
        """Add 1 to a count above 0 without the lock, and return whether there was one."""
        self._point("adds 1 to the key if it is above 0")
        if self.enabled <= 0:
            return False
        self.enabled += 1
        return True

    def slow_dec(self, how: Decrement) -> None:
        """Say that the branches need not be taken any more (static_key_slow_dec())."""
        if self._try_dec(how):
            return
        with self.mutex:
            self._point("takes 1 from the key under the lock")
            if how in (Decrement.FETCH_ADD_UNLESS, Decrement.COMMIT_1D7F856C2CA4):
                if how is Decrement.COMMIT_1D7F856C2CA4 and self.enabled <= 0:
                    self._warn()
                    return
                self.enabled -= 1
                if self.enabled == 0:
                    self._patch(False)
                return
            was, self.enabled = self.enabled, 0 if self.enabled == 1 else self.enabled
            if was == 1 or (was and how is Decrement.COMMIT_83AB38EF0A0B):
                self._patch(self.enabled > 0)
            elif not self._try_dec(how):
                self.warned = "static_key_slow_dec() has not taken 1 from the key"

    def _try_dec(self, how: Decrement) -> bool:
        """Take 1 from the count without the lock, and return False where that takes the lock."""
        self._point("takes 1 from the key unless it is 1")
        if how is not Decrement.FETCH_ADD_UNLESS and self.enabled <= 0:
            # A key that is being switched on (-1) is on when the lock is held.
            self._warn()
            return self.enabled == 0 and how is Decrement.COMMIT_1D7F856C2CA4
        if self.enabled == 1:
            return False
        self.enabled -= 1
        return True

    def _warn(self) -> None:
        self.warned = f"static_key_slow_dec() of a key that is {self.enabled}"
