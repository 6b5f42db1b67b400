"""The oracle of text: in the end the text is the original, but for the sites of new code.

A patch protocol, static branches and static calls have such sites.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.patching.oracles.oracle import Oracle
from engine.patching.patched_sites import TextIs
from engine.search.explorable import Violation, ViolationKind

__all__ = ("RestoredText",)


class RestoredText(Oracle):
    """At the end of a schedule all text but slots and detour buffers is what it has to be."""

    def schedule_ended(self, waiting: Sequence[str]) -> Violation | None:
        """Report the first byte that differs, if the experiment has to leave a known text.

        That is the original, with the new code at each site where the new code stays.
        """
        experiment, text_is = self.now.experiment, self.now.node.text_is
        by_protocol = bool(experiment.patches) and not experiment.switched
        if not experiment.restores or (by_protocol and text_is is TextIs.CHANGING):
            return None
        text, version = self.now.port.text, self.now.node.version
        new = text_is is TextIs.NEW
        codes = {site.addr: site.new if new else site.again for site in self.now.patches}
        for addr, code in codes.items():
            there = text.read(version, addr, len(code))
            if there != code:
                told = f"{text.where(addr)} holds {there.hex(' ')} at the end, in place of"
                return self._violation(addr, f"{told} {code.hex(' ')}")
        change = text.first_change(version, codes)
        if change is None:
            return None
        addr, byte, original = change
        told = f"{text.where(addr)} holds {byte:#04x} at the end, originally {original:#04x}"
        return self._violation(addr, told)

    def _violation(self, addr: int, told: str) -> Violation:
        return Violation(ViolationKind.NOT_RESTORED, None, addr, told)
