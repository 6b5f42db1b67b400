"""The operations of control tasks that replace code and are no probe's.

A patch protocol replaces code (``optprobe patch``), and a static key switches static branches.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.core.jump_label import Decrement
from engine.core.kprobes import Kprobes
from engine.patching.patched_sites import TextIs
from engine.patching.static_branches import StaticBranches

__all__ = ("TextOperations",)


class TextOperations:
    """The part of :class:`engine.patching.operations.Control` that replaces code.

    :ivar core: the core, which has ``text_mutex``.
    :ivar branches: the static branches of the program, and the key that switches them.
    :ivar text_is: how far the replacing of code has come, as whoever replaces it says.
    """

    core: Kprobes
    branches: StaticBranches
    text_is: TextIs

    def _begin(self) -> None:
        """Stop in front of an operation of the current control task, then count the operation."""
        raise NotImplementedError

    def _answers(self, answer: bool) -> None:
        """Note how an operation of the current control task ended."""
        raise NotImplementedError

    def _over(self) -> None:
        """Stop behind an operation, if other tasks may store what this one reads there."""
        raise NotImplementedError

    def patch(self, write: Callable[[], None], becomes: TextIs) -> None:
        """Replace code by ``write``, which writes it by a patch protocol.

        :param becomes: what the code of the sites is when that is done.
        """
        self._begin()
        with self.core.text_mutex:
            self.text_is = TextIs.CHANGING
            write()
            self.text_is = becomes
        self._answers(True)
        self._over()

    def static_key_slow_inc(self) -> None:
        """Let the static branches be taken by static_key_slow_inc()."""
        self._begin()
        self.text_is = self.branches.needed_more()
        self.branches.key.slow_inc()
        self.text_is = self.branches.is_needed()
        self._answers(True)
        self._over()

    def static_key_slow_dec(self, how: Decrement = Decrement.COMMIT_1D7F856C2CA4) -> None:
        """Say by static_key_slow_dec() that the static branches need not be taken any more.

        Who calls this without need of them, as a switch in a file does that is set to off twice,
        must change nothing for those that need them
        (:meth:`engine.patching.static_branches.StaticBranches.needed_less`). The kernel holds that
        where the key is off, but not beside a static_key_slow_inc() that is under way, whose count
        it takes.
        """
        self._begin()
        self.text_is = self.branches.needed_less()
        self.branches.key.slow_dec(how)
        self.text_is = self.branches.is_switched()
        self._answers(True)
        self._over()
