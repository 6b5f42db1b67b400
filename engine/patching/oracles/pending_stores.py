"""The oracle of pending stores (``--strict``): a vCPU has seen all stores to what it executes.

Where a vCPU executes an instruction to which a store was made since the vCPU last synchronized, it
depends on the processor what the vCPU executes. The field's protocols rely on one exception: the
store of a single byte that puts a breakpoint over the first byte of an instruction, or takes it
away (text_poke_bp() in arch/x86/kernel/alternative.c).
"""

from __future__ import annotations

from engine.patching.fetch_model import Store
from engine.patching.oracles.oracle import Oracle
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("PendingStores",)


class PendingStores(Oracle):
    """Near a site, a vCPU has seen all stores to the instruction that it executes."""

    def instruction(self, vcpu: VcpuState, ip: int) -> Violation | None:
        """Look for a store to the instruction at ``ip`` that the vCPU has not seen."""
        if not vcpu.view or not self.now.experiment.strict:
            return None
        text = self.now.port.text
        fetched = text.fetched(vcpu.index, ip, text.facts.insn_size_max)
        end = ip + text.insn_size(fetched, ip)
        for _, stores in vcpu.view:
            for store in stores:
                if store.addr < end and ip < store.addr + len(store.old):
                    if store.addr == ip and self._is_breakpoint(store):
                        continue
                    return Violation(
                        ViolationKind.TORN,
                        vcpu.index,
                        ip,
                        f"CPU {vcpu.index} executes {text.where(ip)}, and has not synchronized"
                        f" since {store.old.hex(' ')} became {store.new.hex(' ')} at"
                        f" {text.where(store.addr)}",
                    )
        return None

    def _is_breakpoint(self, store: Store) -> bool:
        """Return whether ``store`` puts a breakpoint over one byte, or takes it away."""
        return self.now.port.text.facts.breakpoint in (store.old, store.new)
