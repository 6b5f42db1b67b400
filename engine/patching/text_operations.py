"""The operations of control tasks that replace code and are no probe's.

A patch protocol replaces code (``optprobe patch``), a static key switches static branches, and
static calls go to another function.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.core.jump_label import Decrement
from engine.core.kprobes import Kprobes
from engine.patching.patched_sites import TextIs
from engine.patching.static_branches import StaticBranches
from engine.patching.static_calls import StaticCalls

__all__ = ("TextOperations",)


class TextOperations:
    """The part of :class:`engine.patching.operations.Control` that replaces code.

    :ivar core: the core, which has ``text_mutex``.
    :ivar branches: the static branches of the program, and the key that switches them.
    :ivar static_calls: the static calls of the program, and their key.
    :ivar text_is: how far the replacing of code has come, as whoever replaces it says.
    """

    core: Kprobes
    branches: StaticBranches
    static_calls: StaticCalls
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

    def static_call_update(self, func: str) -> None:
        """Let the static calls go to ``func`` by static_call_update().

        :param func: the name of the function; ``NULL`` stands for none.
        :raises InputError: it is none of the two that the scenario's static calls go to.
        """
        self._begin()
        self.static_calls.require(func)
        self.text_is = self.static_calls.begins()
        self.static_calls.key.update(func)
        self.text_is = self.static_calls.ends()
        self._answers(True)
        self._over()
