"""Static calls: calls in code whose target is changed by patching them. Answers to
kernel/static_call_inline.c.

A key has the function that is called now. ``static_call_update()`` stores another one, and then
patches each call, one after the other, under ``static_call_mutex``. CPUs call the old function or
the new one meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from engine.control.sync import ControlPlane, Mutex

__all__ = ("StaticCall",)

_RANK: Final = 3
"""static_call_mutex is taken in front of text_mutex, and never together with jump_label_mutex."""


class StaticCall:
    """A key, and the calls that go to its function (``struct static_call_key``).

    :param func: the name of the function that the calls go to at first.
    :param sites: patch one call each, so that it goes to the function of the name that is given.
    :ivar func: the name of the function that the calls go to, when no update is under way.
    """

    def __init__(
        self, plane: ControlPlane, func: str, sites: Sequence[Callable[[str], None]]
    ) -> None:
        self.mutex = Mutex("static_call_mutex", _RANK, plane)
        self.func = func
        self._sites = sites

    def update(self, func: str) -> None:
        """Let all calls go to ``func`` (__static_call_update())."""
        with self.mutex:
            if self.func == func:
                return
            self.func = func
            for transform in self._sites:
                transform(func)
