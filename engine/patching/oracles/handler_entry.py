"""What a handler, a single step, and a function that a handler calls may rely on where they
begin.
"""

from __future__ import annotations

from engine.patching.oracles.oracle import Oracle
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("HandlerEntry",)


class HandlerEntry(Oracle):
    """The flags and the stack are as the kernel and the calling convention have them."""

    def handlers_asked(self, vcpu: VcpuState) -> Violation | None:
        """See :class:`Oracle`."""
        return self._told(vcpu, self.now.port.hits.wrong_entry(vcpu.index))

    def step_begun(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """See :class:`Oracle`."""
        return self._told(vcpu, wrong)

    def function_entered(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """See :class:`Oracle`."""
        return self._told(vcpu, wrong)

    def _told(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        if wrong is None:
            return None
        return Violation(
            ViolationKind.INVARIANT,
            vcpu.index,
            self.now.port.cpus.ip(vcpu.index),
            f"CPU {vcpu.index}: {wrong}",
        )
