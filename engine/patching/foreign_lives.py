"""What is expected of each breakpoint of another user than kprobes.

A breakpoint is ``ON`` from when the operation has returned that set it to when the one begins that
removes it. In between each pass over its instruction is one hit, whatever probes do.
"""

from __future__ import annotations

from engine.errors import InputError
from engine.foreign_breakpoint import ForeignBreakpoint
from engine.patching.expectations import Life, Lives

__all__ = ("ForeignLives",)


class ForeignLives:
    """The breakpoints of other users that control tasks have made, and what holds for each.

    :ivar all: the breakpoints by number, in the order in which they were made.
    :ivar lives: what holds for each, with a count of the changes before.
    """

    def __init__(self) -> None:
        self.all: list[ForeignBreakpoint] = []
        self.lives: Lives = ()

    def know(self, one: ForeignBreakpoint) -> None:
        """Give the new breakpoint ``one`` the next number."""
        self.all.append(one)
        self.lives = (*self.lives, (Life.OFF, 0))

    def number_of(self, one: ForeignBreakpoint) -> int:
        """Return the number of ``one``.

        :raises InputError: it was not made by :meth:`Control.breakpoint`.
        """
        for number, known in enumerate(self.all):
            if known is one:
                return number
        raise InputError(f"{one!r}: not made by Control.breakpoint()")

    def begin(self, one: ForeignBreakpoint) -> None:
        """Note that an operation begins which sets or removes ``one``.

        :raises InputError: another control task is at that.
        """
        number = self.number_of(one)
        if self.lives[number][0] is Life.CHANGING:
            raise InputError(f"{one!r}: two control tasks set or remove it at once; use one each")
        self._say(number, Life.CHANGING)

    def end(self, one: ForeignBreakpoint) -> None:
        """Note that this operation has returned."""
        self._say(self.number_of(one), Life.OFF if one.saved is None else Life.ON)

    def _say(self, number: int, life: Life) -> None:
        lives = list(self.lives)
        lives[number] = (life, lives[number][1] + 1)
        self.lives = tuple(lives)

    @property
    def state(self) -> tuple[object, ...]:
        """Return what the name of a control state has of them: nothing where there are none."""
        users = tuple((b.addr, b.before_probes, b.registered, b.saved) for b in self.all)
        return (users, self.lives) if users else ()
