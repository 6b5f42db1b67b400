"""The static calls of a scenario's program, with what is expected of them.

All calls go to one of two functions. From when an update returns to when the next one begins they
go to the function that the last one has named, and meanwhile to either.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial

from engine.core.kprobes import Kprobes
from engine.core.static_call import StaticCall
from engine.errors import InputError, printable
from engine.patching.patched_sites import PatchedSite, TextIs

__all__ = ("StaticCalls",)


class StaticCalls:
    """All static calls of the program, which one key has.

    :param core: has ``text_mutex``, and the control plane.
    :param transform: writes the code of one call: its address, and the code.
    :ivar key: the static call's key.
    """

    def __init__(
        self,
        core: Kprobes,
        sites: Sequence[PatchedSite],
        transform: Callable[[int, bytes], None],
    ) -> None:
        self._core = core
        self._sites = sites
        self._transform = transform
        self._functions = next((site.functions for site in sites if site.functions), ("", ""))
        self.key = StaticCall(
            core.plane, self._functions[0], [partial(self._patch, site) for site in sites]
        )
        self._updating = 0

    def _patch(self, site: PatchedSite, func: str) -> None:
        """Patch one call, so that it goes to ``func`` (arch_static_call_transform())."""
        with self._core.text_mutex:
            self._transform(site.addr, site.old if func == self._functions[0] else site.new)

    def require(self, func: str) -> None:
        """Refuse a function to which the static calls of the program do not go.

        :raises InputError: ``func`` is none of the two.
        """
        if not self._sites:
            raise InputError(
                "static_call_update(): the scenario has no static call; give static_calls="
            )
        if func not in self._functions:
            first, second = self._functions
            raise InputError(
                f"static_call_update({printable(repr(func))}): the static calls of this scenario go"
                f" to {first} or to {second}; give one of these"
            )

    def begins(self) -> TextIs:
        """Note that an update begins; return what the calls are now."""
        self._updating += 1
        return TextIs.CHANGING

    def ends(self) -> TextIs:
        """Note that an update has returned; return what the calls have to be now."""
        self._updating -= 1
        if self._updating:
            return TextIs.CHANGING
        return TextIs.OLD if self.key.func == self._functions[0] else TextIs.NEW

    @property
    def state(self) -> tuple[Hashable, ...]:
        """Return what decides how updates go on, and what is expected of the calls."""
        return (self.key.func, self._updating) if self._sites else ()
