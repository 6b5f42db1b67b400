"""Faults of the optimizer: its pass, its lists, and what may be optimized."""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("OPTIMIZING", "PASS")

_OPTIMIZER = "engine/core/optimizer.py"
_OPTPROBES = "engine/core/optprobes.py"
_TRANSITIONS = "engine/core/transitions.py"

PASS: Final = (
    Fault(
        "the pass does not wait before it writes jumps",
        _OPTIMIZER,
        "if self._profile.has(SafetyStep.QUIESCENCE):\n                    self._wait()",
        "if self._profile.has(SafetyStep.QUIESCENCE):\n                    pass",
        Kind.WAITS,
    ),
    Fault(
        "a detour buffer is freed before the wait",
        _OPTIMIZER,
        "if not self._profile.has(SafetyStep.FREE_WAIT):",
        "if True:",
        Kind.FREED,
    ),
    Fault(
        "the pass runs without the locks of the tables",
        _OPTIMIZER,
        'with self._host.locked_tables("kprobe_optimizer"), self._text(whole_pass=True):',
        "with self._text(whole_pass=True):",
        Kind.LOCKS,
    ),
    Fault(
        "the pass optimizes without the lock of the text",
        _OPTIMIZER,
        "                with self._text(whole_pass=False):\n"
        "                    self._do_optimize()",
        "                self._do_optimize()",
        Kind.LOCKS,
    ),
    Fault(
        "the wait for the optimizer returns while a pass is under way",
        _OPTIMIZER,
        "not (self._pending or self._running or self.waiting)",
        "not (self._pending or self.waiting)",
        Kind.PROMISE,
    ),
    Fault(
        "the wait for the optimizer returns while a pass is scheduled",
        _OPTIMIZER,
        "not (self._pending or self._running or self.waiting)",
        "not self._running",
        Kind.PROMISE,
    ),
    Fault(
        "what a pass leaves on a list waits for ever",
        _OPTIMIZER,
        "        if self.waiting:\n            self.kick()",
        "        pass",
        Kind.PROGRESS,
    ),
    Fault(
        "what is undone keeps its breakpoint",
        _OPTIMIZER,
        "            self._do_disarm(group)",
        "            pass",
        Kind.TEXT,
    ),
    Fault(
        "the pass leaves the breakpoint of a disabled probe",
        _OPTIMIZER,
        "if not op.gone and (op.disabled or",
        "if not op.gone and (False or",
        Kind.TEXT,
    ),
    Fault(
        "enabled=0 leaves the breakpoint of what waits for the optimizer",
        _OPTIMIZER,
        "or all_go)",
        "or False)",
        Kind.PROMISE,
    ),
    Fault(
        "the pass writes the text of code that is gone",
        _OPTIMIZER,
        "if not op.gone and (op.disabled or all_go)]",
        "if op.disabled or all_go]",
        Kind.MODULE,
    ),
    Fault(
        "an unused aggregator stays in the table when it is freed",
        _OPTIMIZER,
        "                self._host.unhash(op)\n            else:",
        "                pass\n            else:",
        Kind.LEAK,
    ),
    Fault(
        "the pass takes what is in use again out of the table",
        _OPTIMIZER,
        "            if op.unused:\n                self._host.unhash(op)",
        "            if True:\n                self._host.unhash(op)",
        Kind.FREED,
    ),
    Fault(
        "an unused aggregator is never freed",
        _OPTIMIZER,
        "if op.unused:\n                self._host.free_aggr_kprobe(op)",
        "if False:\n                self._host.free_aggr_kprobe(op)",
        Kind.LEAK,
    ),
    Fault(
        "OPTIMIZED stays when the jump is undone",
        _OPTIMIZER,
        "            self._profile.transitions.restored(op)",
        "            pass",
        Kind.FREED,
    ),
    Fault(
        "next: nobody is asked when a neighbour's jump is undone",
        _OPTIMIZER,
        "if self._profile.reoptimizes_later:",
        "if False:",
        Kind.PROGRESS,
    ),
    Fault(
        "a probe that leaves a list says that it is still on it",
        _OPTIMIZER,
        "        del self.lists[op.queue][op]\n        op.queue = Queue.NONE",
        "        del self.lists[op.queue][op]",
        Kind.PROGRESS,
    ),
    Fault(
        "code that is gone leaves its probes on the optimizer's lists",
        _OPTPROBES,
        "if op.queued:\n            self._optimizer.dequeue(op)\n        op.flags",
        "if False:\n            self._optimizer.dequeue(op)\n        op.flags",
        Kind.MODULE,
    ),
    Fault(
        "code that is gone leaves OPTIMIZED set",
        _OPTPROBES,
        "        op.flags &= ~KprobeFlag.OPTIMIZED\n        if op.unused",
        "        if op.unused",
        Kind.MODULE,
    ),
    Fault(
        "the unused aggregator of code that is gone stays in the table",
        _OPTPROBES,
        "            self._table.unhash(op)\n            self._optimizer.put",
        "            self._optimizer.put",
        Kind.LEAK,
    ),
    Fault(
        "the number of a freed aggregator stays in use",
        _OPTPROBES,
        "        self._arch.arch_remove_kprobe(op)\n        self.by_id.pop(op.op_id, None)",
        "        self._arch.arch_remove_kprobe(op)",
        Kind.LEAK,
    ),
    Fault(
        "the detour buffer of a freed aggregator stays in use",
        _OPTPROBES,
        "        self._arch.arch_remove_optimized_kprobe(op)\n"
        "        self._arch.arch_remove_kprobe(op)",
        "        self._arch.arch_remove_kprobe(op)",
        Kind.LEAK,
    ),
    Fault(
        "the slot of a freed aggregator stays in use",
        _OPTPROBES,
        "        self._arch.arch_remove_optimized_kprobe(op)\n"
        "        self._arch.arch_remove_kprobe(op)",
        "        self._arch.arch_remove_optimized_kprobe(op)",
        Kind.LEAK,
    ),
)


OPTIMIZING: Final = (
    Fault(
        "a new probe does not force back the jump it lies in",
        _OPTPROBES,
        "                self.unoptimize_kprobe(neighbour, force=True)",
        "                pass",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "another probe in the bytes does not keep the jump off",
        _OPTPROBES,
        "if self._arch.arch_check_optimized_kprobe(p):",
        "if True:",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "a probe one byte behind an optimized one does not force its jump back",
        _OPTPROBES,
        "range(1, self._arch.max_optimized_len)",
        "range(2, self._arch.max_optimized_len)",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "a probe with a post_handler is optimized",
        _OPTPROBES,
        "        if (\n"
        "            p.disabled\n"
        "            or table.kprobes_all_disarmed\n"
        "            or p.post_handler is not None\n"
        "            or p.break_handler is not None\n"
        "        ):",
        "        if p.disabled or table.kprobes_all_disarmed or p.break_handler is not None:",
        Kind.POST,
    ),
    Fault(
        "a disabled probe is optimized",
        _OPTPROBES,
        "        if (\n"
        "            p.disabled\n"
        "            or table.kprobes_all_disarmed\n"
        "            or p.post_handler is not None\n"
        "            or p.break_handler is not None\n"
        "        ):",
        "        if table.kprobes_all_disarmed or p.post_handler is not None or "
        "p.break_handler is not None:",
        Kind.PROMISE,
    ),
    Fault(
        "a probe is listed for the optimizer while all are disarmed",
        _OPTPROBES,
        "        if (\n"
        "            p.disabled\n"
        "            or table.kprobes_all_disarmed\n"
        "            or p.post_handler is not None\n"
        "            or p.break_handler is not None\n"
        "        ):",
        "        if p.disabled or p.post_handler is not None or p.break_handler is not None:",
        Kind.PROMISE,
    ),
    Fault(
        "a probe is listed for the optimizer while kprobes-optimization is 0",
        _OPTPROBES,
        " or not table.kprobes_allow_optimization:",
        ":",
        Kind.PROMISE,
    ),
    Fault(
        "what is armed is not listed for the optimizer",
        _OPTPROBES,
        "            self._table.arming.arm(p)\n        self.optimize_kprobe(p)",
        "            self._table.arming.arm(p)",
        Kind.PROGRESS,
    ),
    Fault(
        "arming again puts a breakpoint over a jump that could stay",
        _OPTPROBES,
        "        if not (\n"
        "            jumps\n"
        "            and self._profile.rearms_whole\n"
        "            and self._profile.has(SafetyStep.COMMIT_F66C0447CCA1)\n"
        "        ):",
        "        if not (jumps and False and self._profile.has(SafetyStep.COMMIT_F66C0447CCA1)):",
        Kind.PROGRESS,
    ),
    Fault(
        "disarming leaves the breakpoint",
        _OPTPROBES,
        "        self._table.arming.disarm(p)\n        return True",
        "        return True",
        Kind.TEXT,
    ),
    Fault(
        "disarming writes the first byte of a jump that the optimizer is to undo",
        _OPTPROBES,
        "        if isinstance(p, AggrKprobe) and p.queued:\n            return False",
        "        if False:\n            return False",
        Kind.TEXT,
    ),
    Fault(
        "2010: a probe that waits for its jump stays listed when it is taken back",
        _TRANSITIONS,
        "        op.flags &= ~KprobeFlag.OPTIMIZED\n"
        "        if op.queued:\n"
        "            queues.dequeue(op)\n"
        "        elif force:",
        "        op.flags &= ~KprobeFlag.OPTIMIZED\n"
        "        if op.queued:\n"
        "            pass\n"
        "        elif force:",
        Kind.PROGRESS,
    ),
    Fault(
        "2010: a probe that is forced back while its jump waits to be undone stays listed",
        _TRANSITIONS,
        "            if force and op.queued:\n                queues.dequeue(op)",
        "            if force and op.queued:\n                pass",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "2010: a disabled probe that is forced back keeps its breakpoint",
        _TRANSITIONS,
        "        if op.disabled or queues.leaves_no_breakpoints:\n            queues.disarm(op)",
        "        pass",
        Kind.TEXT,
    ),
    Fault(
        "2010: OPTIMIZED stays set on a probe that waits to be undone",
        _TRANSITIONS,
        "            return\n        op.flags &= ~KprobeFlag.OPTIMIZED\n        if op.queued:",
        "            return\n        if op.queued:",
        Kind.FREED,
    ),
    Fault(
        "6.1: a probe that waits to be undone and is wanted again is undone all the same",
        _TRANSITIONS,
        "            if op.queue is Queue.UNOPTIMIZING:\n"
        "                queues.dequeue(op)\n"
        "            return",
        "            return",
        Kind.PROGRESS,
    ),
    Fault(
        "6.1: a probe that is forced back while it waits to be undone is not listed for freeing",
        _TRANSITIONS,
        "                queues.dequeue(op)\n                queues.put(op, Queue.FREEING)",
        "                queues.dequeue(op)",
        Kind.LEAK,
    ),
    Fault(
        "6.1: OPTIMIZED stays set on a probe that waited for its jump and is taken back",
        _TRANSITIONS,
        "            queues.dequeue(op)\n            op.flags &= ~KprobeFlag.OPTIMIZED",
        "            queues.dequeue(op)",
        Kind.FREED,
    ),
    Fault(
        "6.1: OPTIMIZED stays set on a probe that is forced back",
        _TRANSITIONS,
        "        queues.force_unoptimize(op)\n        self.restored(op)",
        "        queues.force_unoptimize(op)",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "next: a probe that was forced back and is in use again never gets its jump",
        _TRANSITIONS,
        "        if op.queue is Queue.FREEING:\n            queues.dequeue(op)\n",
        "",
        Kind.PROGRESS,
    ),
)
