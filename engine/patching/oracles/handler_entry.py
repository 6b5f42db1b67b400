"""The oracle of entries: what code may rely on where it begins.

It is about handlers, single steps, and the functions that handlers call.
"""

from __future__ import annotations

from engine.patching.oracles.oracle import Oracle
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("HandlerEntry",)


class HandlerEntry(Oracle):
    """Flags and stack are as the kernel and the calling convention promise.

    docs/explore.md says what is promised where ("Where a handler is called").
    """

    def handlers_asked(self, vcpu: VcpuState) -> Violation | None:
        """Ask the architecture layer what is wrong where a handler is about to be called."""
        return self._told(vcpu, self.now.port.hits.wrong_entry(vcpu.index))

    def step_begun(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """Report what is wrong where a single step begins."""
        return self._told(vcpu, wrong)

    def function_entered(self, vcpu: VcpuState, wrong: str | None) -> Violation | None:
        """Report what is wrong where the handler of an NMI calls a function."""
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
