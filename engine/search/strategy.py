"""Strategies: a strategy decides which choice comes next, and when the search is over.

A strategy knows nothing of how a search is cut into parts, how many processes work on it, or how it
goes on after a kill. :mod:`engine.search.drawn` does all that for any strategy.
:class:`~engine.search.random_walk.RandomWalk` and :class:`~engine.search.pct.Pct` are two of them.
The exhaustive search is none, since it goes back to states in the middle of schedules
(:mod:`engine.search.exhaustive`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from engine.search.explorable import Choice

__all__ = ("Strategy",)


class Strategy(ABC):
    """A strategy, which decides on one schedule after another.

    The schedules are numbered from 0 on. What a strategy decides may depend on the number of the
    schedule, on the choices that it was offered in that schedule, and on what it was made with. It
    must not depend on other schedules, for these may be run by another process, or may have been
    run before a kill. A schedule is run twice now and then, without asking the strategy again, to
    see that everything is deterministic.
    """

    def prepare(self, draw: Callable[[], int]) -> None:
        """Prepare for drawing schedules; a strategy that needs nothing does nothing here.

        This is called before the first schedules, in each process, and perhaps again later.

        :param draw: runs a schedule for trial, from the start, by what :meth:`choose` answers, and
            returns how many choices that schedule had. What happens in it counts for nothing.
        """
        del draw

    @abstractmethod
    def begin(self, number: int) -> bool:
        """Begin the schedule ``number``, if there is one.

        :returns: whether there is such a schedule. After the first one that there is not, the
            search is over. It is over as well at its own limit, or at a violation.
        """

    @abstractmethod
    def choose(self, choices: Sequence[Choice]) -> Choice | None:
        """Choose the actor that makes the next step.

        :param choices: what can be chosen now, never empty. The actor that went on last comes
            first, if it can go on. A choice that the bound on preemptions does not allow any more
            is left out.
        :returns: one of ``choices``; None: leave this schedule here, and go on to the next one.
        """
