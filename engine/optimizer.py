"""The delayed optimizer. Answers to kprobe_optimizer() and its lists in kernel/kprobes.c (6274de4984a6).

State of an aggregator = flag OPTIMIZED x the list it is on:

| OPTIMIZED | list | the text holds | meaning |
| --- | --- | --- | --- |
| no | none | int3 | breakpoint only |
| yes | optimizing | int3 | waits to be optimized |
| yes | none | jump | optimized |
| no | unoptimizing | jump | waits to be undone; hits still take the detour |
| no | freeing | int3, or nothing | cleaned, freed at the end of this pass |
"""

from __future__ import annotations

from typing import Final, Protocol

from engine.arch import Arch, MachinePort
from engine.errors import EngineBug
from engine.kprobe import AggrKprobe, KprobeFlag, Queue
from engine.sync import Mutex

__all__ = ("OPTIMIZE_DELAY", "Optimizer", "OptimizerHost")

OPTIMIZE_DELAY: Final = 5
"""Jiffies from the first kick to the pass."""


class OptimizerHost(Protocol):
    """What the optimizer needs of the table."""

    kprobes_all_disarmed: bool
    kprobes_allow_optimization: bool

    def unhash(self, op: AggrKprobe) -> None:
        """Take an unused aggregator out of the table."""
        ...

    def free_aggr_kprobe(self, op: AggrKprobe) -> None:
        """Free an unused aggregator's slot and detour buffer."""
        ...


class Optimizer:
    """Queues and the delayed work. ``passes`` counts how often the work ran."""

    def __init__(self, arch: Arch, port: MachinePort, host: OptimizerHost, locks: tuple[Mutex, ...]) -> None:
        self._arch = arch
        self._port = port
        self._host = host
        self._locks = locks
        # Insertion-ordered sets: taking one out of the middle must not cost a scan.
        self._optimizing: dict[AggrKprobe, None] = {}
        self._unoptimizing: dict[AggrKprobe, None] = {}
        self._pending = False
        self._running = False
        self.passes = 0

    # Queues -----------------------------------------------------------------------------------------------------------

    def queue_optimize(self, op: AggrKprobe) -> None:
        """Put ``op`` on the optimizing list and kick."""
        op.queue = Queue.OPTIMIZING
        self._optimizing[op] = None
        self.kick()

    def queue_unoptimize(self, op: AggrKprobe) -> None:
        """Put ``op`` on the unoptimizing list and kick."""
        op.queue = Queue.UNOPTIMIZING
        self._unoptimizing[op] = None
        self.kick()

    def dequeue(self, op: AggrKprobe) -> None:
        """Take ``op`` off the list it is on."""
        match op.queue:
            case Queue.OPTIMIZING:
                del self._optimizing[op]
            case Queue.UNOPTIMIZING:
                del self._unoptimizing[op]
            case Queue.NONE | Queue.FREEING:
                raise EngineBug(f"{op!r} is not on a list that can be left ({op.queue.value})")
        op.queue = Queue.NONE

    @property
    def idle(self) -> bool:
        """Nothing queued, scheduled or under way."""
        return not (self._pending or self._running or self._optimizing or self._unoptimizing)

    def kick(self) -> None:
        """Schedule a pass, unless one is scheduled already."""
        if not self._pending:
            self._pending = True
            self._port.schedule_delayed_work(self.run_pass, OPTIMIZE_DELAY, "kprobe_optimizer")

    def wait(self) -> None:
        """Until both lists are empty and no pass is scheduled or under way (wait_for_kprobe_optimizer)."""
        self._port.wait_until(lambda: self.idle, "wait_for_kprobe_optimizer")

    # The pass ---------------------------------------------------------------------------------------------------------

    def run_pass(self) -> None:
        """One pass of the delayed work."""
        self._pending = False
        self._running = True
        self.passes += 1
        for lock in self._locks:
            lock.acquire("kprobe_optimizer")
        try:
            # 1. Undo what is listed, so that its probes stop using their detour buffers.
            freeing = self._do_unoptimize()
            # 2. Wait: a CPU may be inside the bytes about to be replaced, or inside a detour buffer about to be freed.
            self._port.synchronize_sched("kprobe_optimizer")
            # 3. Optimize what is listed.
            self._do_optimize()
            # 4. Free what step 1 took out of the table.
            for op in freeing:
                op.queue = Queue.NONE
                self._host.free_aggr_kprobe(op)
        finally:
            for lock in reversed(self._locks):
                lock.release()
            self._running = False
        # 5. More than a batch was listed, or something came meanwhile.
        if self._optimizing or self._unoptimizing:
            self.kick()

    def _batch(self, queue: dict[AggrKprobe, None]) -> list[AggrKprobe]:
        batch = [op for op, _ in zip(queue, range(self._arch.batch_max), strict=False)]
        for op in batch:
            del queue[op]
        return batch

    def _do_unoptimize(self) -> list[AggrKprobe]:
        batch = self._batch(self._unoptimizing)
        if not batch:
            return []
        self._arch.arch_unoptimize_kprobes(batch)
        freeing: list[AggrKprobe] = []
        for op in batch:
            op.queue = Queue.NONE
            if op.disabled:
                self._arch.arch_disarm_kprobe(op)
            if op.unused:
                self._host.unhash(op)
                op.queue = Queue.FREEING
                freeing.append(op)
        return freeing

    def _do_optimize(self) -> None:
        if self._host.kprobes_all_disarmed or not self._host.kprobes_allow_optimization:
            return
        batch = self._batch(self._optimizing)
        if not batch:
            return
        for op in batch:
            if op.disabled or not op.flags & KprobeFlag.OPTIMIZED:
                raise EngineBug(f"{op!r} waits to be optimized but is not live")
        self._arch.arch_optimize_kprobes(batch)
        for op in batch:
            op.queue = Queue.NONE
