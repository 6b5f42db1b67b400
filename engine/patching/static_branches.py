"""The static branches of a scenario's program, with what is expected of them.

A branch has to be taken from when an operation that needs it returns to when one begins that takes
the need back. While nobody needs it and no operation is under way it is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from engine.core.jump_label import StaticKey
from engine.core.kprobes import Kprobes
from engine.patching.patched_sites import PatchedSite, TextIs

__all__ = ("StaticBranches",)


class StaticBranches:
    """All static branches of the program, which one key switches.

    :param core: has ``text_mutex``, and the control plane.
    :param transform: writes the code of branches: the address, and the code of each.
    :ivar key: the static key.
    """

    def __init__(
        self,
        core: Kprobes,
        sites: Sequence[PatchedSite],
        transform: Callable[[Sequence[tuple[int, bytes]]], None],
    ) -> None:
        self._core = core
        self._sites = sites
        self._transform = transform
        self.key = StaticKey(core.plane, self._patch)
        self._needed = 0
        self._switching = 0

    def _patch(self, taken: bool) -> None:
        """Patch all branches: a jump where they are taken, and a no-op where not."""
        with self._core.text_mutex:
            self._transform([(site.addr, site.new if taken else site.old) for site in self._sites])

    # What is expected, where an operation begins or ends ------------------------------------------

    def needed_more(self) -> TextIs:
        """Note that an operation begins which needs the branches; return what they are now."""
        self._switching += 1
        return self._now()

    def is_needed(self) -> TextIs:
        """Note that this operation has returned; return what the branches have to be now."""
        self._switching -= 1
        self._needed += 1
        return self._now()

    def needed_less(self) -> TextIs:
        """Note that an operation begins which takes a need back, if there is one.

        A need is there from when the operation that asks for it has returned. So an operation that
        begins while another one still asks for the branches takes nothing back from that one: when
        both have returned, the branches have to be taken. No kernel can tell whose count it takes
        from a key. Where it takes the other one's, that is a violation, and the fault of the code
        that takes back what it has not asked for.
        """
        self._switching += 1
        self._needed = max(0, self._needed - 1)
        return self._now()

    def is_switched(self) -> TextIs:
        """Note that this operation has returned."""
        self._switching -= 1
        return self._now()

    def _now(self) -> TextIs:
        if self._needed:
            return TextIs.NEW
        return TextIs.CHANGING if self._switching else TextIs.OLD

    @property
    def state(self) -> tuple[Hashable, ...]:
        """Return what decides how the key goes on, and what is expected of the branches."""
        if not self._sites:
            return ()
        return (self.key.enabled, self.key.warned, self._needed, self._switching)
