"""The oracle of pending stores (``--strict``): a vCPU has seen all stores to what it executes.

Where a vCPU executes an instruction to which a store was made since the vCPU last synchronized, it
depends on the processor what the vCPU executes. The field's protocols rely on one exception: the
store of a single byte that puts a breakpoint over the first byte of an instruction, or takes it
away (text_poke_bp() in arch/x86/kernel/alternative.c). Until the CPU has synchronized it may
execute the breakpoint, or what stands there otherwise.
"""

from __future__ import annotations

from engine.brief import count
from engine.patching.fetch_model import Store, fetch_model
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
        window = text.fetched(vcpu.index, ip, text.facts.insn_size_max)
        end = ip + len(window)
        near = [
            store
            for _, stores in vcpu.view
            for store in stores
            if store.addr < end and ip < store.addr + len(store.old)
        ]
        if not near:
            return None
        # While the store of a breakpoint is not seen, the vCPU may execute what stood there before
        # that store, too: then no other store may be left to the bytes of that instruction.
        excepted = [store for store in near if store.addr == ip and self._is_breakpoint(store)]
        fetched = [
            window,
            *(first + window[1:] for one in excepted for first in (one.old, one.new)),
        ]
        for data in fetched:
            insn = data[: text.insn_size(data, ip)]
            for store in near:
                if store.addr < ip + len(insn) and store not in excepted:
                    return self._pending(vcpu, ip, insn, store)
        return None

    def _pending(self, vcpu: VcpuState, ip: int, insn: bytes, store: Store) -> Violation:
        """Return the violation that the vCPU may fetch ``insn`` in spite of ``store``."""
        where = self.now.port.text.where
        unit = fetch_model(self.now.experiment.fetch).unit
        size = 1 if unit is None else unit
        part = f", the part of the store in a unit of {count(size, 'byte')}" if size else ""
        return Violation(
            ViolationKind.TORN,
            vcpu.index,
            ip,
            f"CPU {vcpu.index} executes {where(ip)}, where it may fetch {insn.hex(' ')}, and has"
            f" not synchronized since {store.old.hex(' ')} became {store.new.hex(' ')} at"
            f" {where(store.addr)}{part}",
        )

    def _is_breakpoint(self, store: Store) -> bool:
        """Return whether ``store`` puts a breakpoint over one byte, or takes it away."""
        return self.now.port.text.facts.breakpoint in (store.old, store.new)
