"""The oracle of text: when all probes are unregistered, the text is the original, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.oracles.oracle import Oracle
from engine.patching.patched_sites import TextIs
from engine.search.explorable import Violation, ViolationKind

__all__ = ("RestoredText",)


class RestoredText(Oracle):
    """At the end of a schedule all text but slots and detour buffers is the original."""

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """Report the first byte that differs, if the experiment is to restore the text.

        Where a static branch is still needed, its jump stays.
        """
        needed = self.now.node.state.control.text_is is TextIs.NEW
        if needed or not self.now.experiment.restores:
            return None
        text = self.now.port.text
        change = text.first_change(self.now.node.version)
        if change is None:
            return None
        addr, byte, original = change
        told = f"{text.where(addr)} holds {byte:#04x} at the end, originally {original:#04x}"
        return Violation(ViolationKind.NOT_RESTORED, None, addr, told)
