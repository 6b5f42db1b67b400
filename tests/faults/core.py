"""Faults of the core: ``engine/``."""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("CORE",)

_AGGREGATION, _UNREGISTRATION, _GOING = (
    "engine/core/aggregation.py",
    "engine/core/unregistration.py",
    "engine/core/module_going.py",
)
_KPROBES, _AGGREGATE, _SWITCHES = (
    "engine/core/kprobes.py",
    "engine/core/aggregate.py",
    "engine/core/global_switches.py",
)
_OPTIMIZER, _OPTPROBES, _TRANSITIONS = (
    "engine/core/optimizer.py",
    "engine/core/optprobes.py",
    "engine/core/transitions.py",
)
_ARMING, _RETURNS, _SLOTS, _SYNC = (
    "engine/core/arming.py",
    "engine/core/kretprobes.py",
    "engine/core/insn_slots.py",
    "engine/control/sync.py",
)

_TABLE: Final = (
    Fault(
        "registering while all are disarmed arms the probe",
        _KPROBES,
        "        if not self.kprobes_all_disarmed and not p.disabled:\n"
        "            self.optprobes.arm_kprobe(p)",
        "        if not p.disabled:\n            self.optprobes.arm_kprobe(p)",
        Kind.PROMISE,
    ),
    Fault(
        "a probe that is registered disabled is armed",
        _KPROBES,
        "        if not self.kprobes_all_disarmed and not p.disabled:\n"
        "            self.optprobes.arm_kprobe(p)",
        "        if not self.kprobes_all_disarmed:\n            self.optprobes.arm_kprobe(p)",
        Kind.PROMISE,
    ),
    Fault(
        "a first probe is never listed for the optimizer",
        _AGGREGATION,
        "        self.init_aggr_kprobe(ap, p)\n        self._optprobes.optimize_kprobe(ap)",
        "        self.init_aggr_kprobe(ap, p)",
        Kind.PROGRESS,
    ),
    Fault(
        "an aggregator does not take over that its first probe is disabled",
        _AGGREGATION,
        "        ap.flags = p.flags & ~KprobeFlag.OPTIMIZED",
        "        ap.flags = KprobeFlag(0)",
        Kind.PROMISE,
    ),
    Fault(
        "the newest probe runs last",
        _AGGREGATION,
        "ap.children.insert(0, p)",
        "ap.children.append(p)",
        Kind.ORDER,
    ),
    Fault(
        "a post_handler that joins does not force the jump back",
        _AGGREGATION,
        "            self._optprobes.unoptimize_kprobe(ap, force=True)",
        "            pass",
        Kind.POST,
    ),
    Fault(
        "a post_handler that joins is never called",
        _AGGREGATION,
        "        if p.post_handler is not None:\n"
        "            ap.post_handler = self._handlers.post_handler\n"
        "        if ap.disabled",
        "        if ap.disabled",
        Kind.POST,
    ),
    Fault(
        "an enabled probe that joins a disabled aggregator leaves it disabled",
        _AGGREGATION,
        "        if ap.disabled and not p.disabled:",
        "        if False:",
        Kind.HITS,
    ),
    Fault(
        "an enabled probe that joins a disabled aggregator does not arm it",
        _AGGREGATION,
        "            if not self._host.kprobes_all_disarmed:\n"
        "                self._optprobes.arm_kprobe(ap)",
        "            pass",
        Kind.HITS,
    ),
    Fault(
        "joining a disabled aggregator while all are disarmed arms it",
        _AGGREGATION,
        "            if not self._host.kprobes_all_disarmed:\n"
        "                self._optprobes.arm_kprobe(ap)",
        "            self._optprobes.arm_kprobe(ap)",
        Kind.PROMISE,
    ),
    Fault(
        "a second probe does not know its aggregator",
        _AGGREGATION,
        "        p.parent = ap\n        if p.post",
        "        if p.post",
        Kind.LEAK,
    ),
    Fault(
        "an aggregator that is taken over stays disabled",
        _AGGREGATION,
        "        ap.flags &= ~KprobeFlag.DISABLED\n        self._optprobes.optimize_kprobe(ap)",
        "        self._optprobes.optimize_kprobe(ap)",
        Kind.PROGRESS,
    ),
    Fault(
        "the jump of an aggregator that is taken over is undone all the same",
        _AGGREGATION,
        "        ap.flags &= ~KprobeFlag.DISABLED\n        self._optprobes.optimize_kprobe(ap)",
        "        ap.flags &= ~KprobeFlag.DISABLED",
        Kind.PROGRESS,
    ),
    Fault(
        "an aggregator whose code came back is not prepared anew",
        _AGGREGATION,
        "            self._arch.arch_prepare_kprobe(ap)\n"
        "            self._optprobes.prepare_optimized_kprobe(ap)",
        "            self._arch.arch_prepare_kprobe(ap)",
        Kind.MODULE,
    ),
    Fault(
        "an aggregator whose code came back counts as armed",
        _AGGREGATION,
        "~KprobeFlag.GONE | KprobeFlag.DISABLED",
        "~KprobeFlag.GONE",
        Kind.MODULE,
    ),
    Fault(
        "unregistering does not wait before it frees",
        _KPROBES,
        '            wait("unregister_kprobes")',
        "            pass",
        Kind.WAITS,
    ),
    Fault(
        "unregistering looks up its entry before it has the lock",
        _KPROBES,
        '        with self.locked("unregister_kprobes"):\n'
        "            gone = self.unregistration.unregister_tops(ps)",
        "        found = {p: self.kprobe_table[p.at] for p in ps if self.is_registered(p)}\n"
        '        with self.locked("unregister_kprobes"):\n'
        "            gone = [(p, self.unregistration.unregister_top(p, entry)) for p, entry in "
        "found.items() if self.disable_locked(p)]",
        Kind.LOCKS,
    ),
    Fault(
        "enabling looks up its entry before it has the lock",
        _KPROBES,
        '        with self.locked("enable_kprobe"):\n'
        "            if not self.is_registered(p):\n"
        '                raise KprobeError(errno.EINVAL, f"{p!r} is not registered")\n'
        "            if p.gone:\n"
        '                raise KprobeError(errno.EINVAL, f"the code under {p!r} is gone")\n'
        "            entry = self.kprobe_table[p.at]",
        "        if not self.is_registered(p):\n"
        '            raise KprobeError(errno.EINVAL, f"{p!r} is not registered")\n'
        "        entry = self.kprobe_table[p.at]\n"
        '        with self.locked("enable_kprobe"):',
        Kind.LOCKS,
    ),
    Fault(
        "the aggregator of the last probe stays in the table",
        _UNREGISTRATION,
        "            del table[entry.at]\n            return Bottom.LAST_CHILD",
        "            return Bottom.LAST_CHILD",
        Kind.LEAK,
    ),
    Fault(
        "a lone probe stays in the table",
        _UNREGISTRATION,
        "            del table[entry.at]\n            return Bottom.INDEPENDENT",
        "            return Bottom.INDEPENDENT",
        Kind.LEAK,
    ),
    Fault(
        "the aggregator of the last probe is never freed",
        _UNREGISTRATION,
        "                parent.children.clear()\n"
        "                self._optprobes.free_aggr_kprobe(parent)",
        "                parent.children.clear()",
        Kind.LEAK,
    ),
    Fault(
        "the slot of a lone probe is never freed",
        _UNREGISTRATION,
        "                self._arch.arch_remove_kprobe(p)\n            case Bottom.LAST_CHILD",
        "                pass\n            case Bottom.LAST_CHILD",
        Kind.LEAK,
    ),
    Fault(
        "the last probe of an aggregator is freed while its jump stands",
        _UNREGISTRATION,
        "if len(entry.children) == 1 and entry.disarmed:",
        "if len(entry.children) == 1:",
        Kind.FREED,
    ),
    Fault(
        "an unregistered probe stays its aggregator's child",
        _UNREGISTRATION,
        "        entry.children.remove(p)\n",
        "",
        Kind.LEAK,
    ),
    Fault(
        "the last post_handler goes and the aggregator keeps its own",
        _UNREGISTRATION,
        "            entry.post_handler = None\n        entry.children",
        "            pass\n        entry.children",
        Kind.PROGRESS,
    ),
    Fault(
        "one of two post_handlers goes and the other is not called any more",
        _UNREGISTRATION,
        " and not posts:",
        ":",
        Kind.POST,
    ),
    Fault(
        "a probe that could be optimized again when a post_handler has gone is not",
        _UNREGISTRATION,
        "        if not entry.disabled and not self._host.kprobes_all_disarmed:\n"
        "            self._optprobes.optimize_kprobe(entry)\n",
        "",
        Kind.PROGRESS,
    ),
    Fault(
        "disabling one of several disarms all",
        _KPROBES,
        "all(child.disabled for child in entry.children)",
        "any(child.disabled for child in entry.children)",
        Kind.HITS,
    ),
    Fault(
        "disabling leaves the child enabled",
        _KPROBES,
        "            p.flags |= KprobeFlag.DISABLED\n        if entry is p",
        "            pass\n        if entry is p",
        Kind.HITS,
    ),
    Fault(
        "disabling leaves the aggregator enabled",
        _KPROBES,
        "            entry.flags |= KprobeFlag.DISABLED\n            if disarmed",
        "            if disarmed",
        Kind.PROMISE,
    ),
    Fault(
        "disabling leaves the breakpoint",
        _KPROBES,
        "disarmed = self.optprobes.disarm_kprobe(entry)",
        "disarmed = False",
        Kind.TEXT,
    ),
    Fault(
        "a neighbour is not optimized again when what kept its jump off is disarmed",
        _KPROBES,
        "            if disarmed and self.profile.reoptimizes_neighbour:\n"
        "                self.optprobes.reoptimize_neighbours(entry.at)\n",
        "",
        Kind.PROGRESS,
    ),
    Fault(
        "enabling does not arm",
        _KPROBES,
        "                if not self.kprobes_all_disarmed:\n"
        "                    self.optprobes.arm_kprobe(entry)",
        "                pass",
        Kind.HITS,
    ),
    Fault(
        "enabling leaves the aggregator disabled",
        _KPROBES,
        "                entry.flags &= ~KprobeFlag.DISABLED\n"
        "                if not self.kprobes_all_disarmed",
        "                if not self.kprobes_all_disarmed",
        Kind.PROMISE,
    ),
    Fault(
        "enabling leaves the child disabled",
        _KPROBES,
        "                p.flags &= ~KprobeFlag.DISABLED\n            if entry.disabled",
        "                pass\n            if entry.disabled",
        Kind.HITS,
    ),
    Fault(
        "next: enabling while all are disarmed arms",
        _KPROBES,
        "                if not self.kprobes_all_disarmed:\n"
        "                    self.optprobes.arm_kprobe(entry)",
        "                self.optprobes.arm_kprobe(entry)",
        Kind.PROMISE,
    ),
    Fault(
        "next: what is enabled while all are disarmed sleeps on",
        _KPROBES,
        "            if entry.disabled and (\n"
        "                self.profile.enables_while_disarmed or not self.kprobes_all_disarmed\n"
        "            ):",
        "            if entry.disabled and not self.kprobes_all_disarmed:",
        Kind.PROMISE,
    ),
    Fault(
        "next: a disabled probe that takes over a dying one enables it",
        _AGGREGATION,
        "if p.disabled and not self._profile.rescue_enables:",
        "if False:",
        Kind.PROMISE,
    ),
    Fault(
        "next: a probe leaves the table before its breakpoint has gone",
        _UNREGISTRATION,
        "            self._host.arming.flush()\n            for",
        "            for",
        Kind.FREED,
    ),
    Fault(
        "a probe on the first byte of code that goes away is forgotten",
        _GOING,
        "            if start <= addr < start + size and not p.gone",
        "            if start < addr < start + size and not p.gone",
        Kind.MODULE,
    ),
    Fault(
        "code that goes away takes the aggregator along and not its children",
        _GOING,
        "            child.flags |= KprobeFlag.GONE",
        "            pass",
        Kind.MODULE,
    ),
    Fault(
        "code that goes away leaves its slot",
        _GOING,
        "        core.optprobes.kill_optimized_kprobe(entry)\n"
        "    core.arch.arch_remove_kprobe(entry)",
        "        core.optprobes.kill_optimized_kprobe(entry)",
        Kind.LEAK,
    ),
)

_HANDLERS: Final = (
    Fault(
        "a disabled probe's handler runs behind a breakpoint",
        _AGGREGATE,
        "        if child.pre_handler is not None and not child.disabled:\n"
        "            self._cpu.kprobe_instance = child\n"
        "            if child",
        "        if child.pre_handler is not None:\n"
        "            self._cpu.kprobe_instance = child\n"
        "            if child",
        Kind.HITS,
    ),
    Fault(
        "a disabled probe's handler runs behind a jump",
        _AGGREGATE,
        "        if child.pre_handler is not None and not child.disabled:\n"
        "            self._cpu.kprobe_instance = child\n"
        "            child",
        "        if child.pre_handler is not None:\n"
        "            self._cpu.kprobe_instance = child\n"
        "            child",
        Kind.HITS,
    ),
    Fault(
        "a disabled probe's post_handler runs",
        _AGGREGATE,
        "if child.post_handler is not None and not child.disabled:",
        "if child.post_handler is not None:",
        Kind.POST,
    ),
    Fault(
        "the post_handler of the newest probe alone runs",
        _AGGREGATE,
        "                child.post_handler(child, regs, flags)\n"
        "                self._cpu.kprobe_instance = None",
        "                child.post_handler(child, regs, flags)\n"
        "                self._cpu.kprobe_instance = None\n"
        "                break",
        Kind.POST,
    ),
    Fault(
        "the oldest probe at an address runs first",
        _AGGREGATE,
        "        return tuple(p.children)\n\n    def pre_handler",
        "        return tuple(reversed(p.children))\n\n    def pre_handler",
        Kind.ORDER,
    ),
    Fault(
        "the newest probe at an address is the only one that runs",
        _AGGREGATE,
        "        return tuple(p.children)\n\n    def pre_handler",
        "        return tuple(p.children[:1])\n\n    def pre_handler",
        Kind.ORDER,
    ),
    Fault(
        "a miss is counted on the newest probe alone",
        _AGGREGATE,
        "return tuple(p.children) if",
        "return tuple(p.children[:1]) if",
        Kind.HITS,
    ),
)

_SWITCH: Final = (
    Fault(
        "kprobes-optimization=0 does not wait",
        _SWITCHES,
        "    if not on:\n        _wait(core)\n\n\ndef set_kprobes_enabled",
        "\n\ndef set_kprobes_enabled",
        Kind.PROMISE,
    ),
    Fault(
        "kprobes-optimization=0 waits with the mutex held that the optimizer takes",
        _SWITCHES,
        "if not on and not core.profile.has(SafetyStep.SYSCTL_DEADLOCK):",
        "if not on:",
        Kind.LOCKS,
    ),
    Fault(
        "kprobes-optimization=0 leaves the jumps",
        _SWITCHES,
        "                core.optprobes.unoptimize_kprobe(p)",
        "                pass",
        Kind.PROMISE,
    ),
    Fault(
        "kprobes-optimization=1 lists nothing",
        _SWITCHES,
        "                core.optprobes.optimize_kprobe(p)",
        "                pass",
        Kind.PROGRESS,
    ),
    Fault(
        "enabled=0 does not wait",
        _SWITCHES,
        "        core.kprobes_all_disarmed = not on\n    if not on:\n        _wait(core)",
        "        core.kprobes_all_disarmed = not on",
        Kind.PROMISE,
    ),
    Fault(
        "all_disarmed is set behind the loop",
        _SWITCHES,
        "if not on or core.profile.has(SafetyStep.ENABLED_1_OPTIMIZES):",
        "if False:",
        Kind.PROMISE,
    ),
    Fault(
        "enabled=1 arms the disabled ones, too",
        _SWITCHES,
        "            if p.disabled:\n"
        "                continue\n"
        "            if on:\n"
        "                core.optprobes.arm_kprobe(p)",
        "            if on:\n                core.optprobes.arm_kprobe(p)",
        Kind.PROMISE,
    ),
    Fault(
        "an operation arms the first of its probes alone",
        _ARMING,
        "            self._arch.arch_arm_kprobes(armed)",
        "            self._arch.arch_arm_kprobes(armed[:1])",
        Kind.HITS,
    ),
    Fault(
        "an operation disarms the first of its probes alone",
        _ARMING,
        "            self.disarm_now(disarmed)",
        "            self._arch.arch_disarm_kprobes(disarmed[:1])",
        Kind.TEXT,
    ),
)

_PASS: Final = (
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

_OPTIMIZING: Final = (
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

_CALLS: Final = (
    Fault(
        "a return probe's handler is never called",
        _RETURNS,
        "                ri.rp.handler(ri, regs)\n",
        "",
        Kind.RETURNS,
    ),
    Fault(
        "a return probe's handler is called twice",
        _RETURNS,
        "                ri.rp.handler(ri, regs)\n",
        "                ri.rp.handler(ri, regs)\n                ri.rp.handler(ri, regs)\n",
        Kind.RETURNS,
    ),
    Fault(
        "a return probe's handler is called after it was unregistered",
        _RETURNS,
        "            ri.rp = None\n        rp.instances = ()",
        "            pass\n        rp.instances = ()",
        Kind.RETURNS,
    ),
    Fault(
        "two calls share a return probe's instance",
        _RETURNS,
        "rp.free_instances.pop()",
        "rp.free_instances[-1]",
        Kind.RETURNS,
    ),
    Fault(
        "a return probe's instances are never free again",
        _RETURNS,
        "            ri.rp.free_instances.append(ri)",
        "            pass",
        Kind.RETURNS,
    ),
    Fault(
        "the newest of several return probes alone is asked",
        _RETURNS,
        "                self._arch.arch_set_current_kprobe(None)\n",
        "                self._arch.arch_set_current_kprobe(None)\n                break\n",
        Kind.RETURNS,
    ),
    Fault(
        "the oldest of several return probes is asked first",
        _RETURNS,
        "        for ri in reversed(returning):\n            if rethook",
        "        for ri in returning:\n            if rethook",
        Kind.RETURNS,
    ),
    Fault(
        "a call that finds no free instance is not counted",
        _RETURNS,
        "        if not rp.free_instances:\n            rp.nmissed += 1",
        "        if not rp.free_instances:",
        Kind.RETURNS,
    ),
    Fault(
        "a call that has returned stays open",
        _RETURNS,
        "        del stack[first:]\n",
        "",
        Kind.RETURNS,
    ),
    Fault(
        "of several return probes the newest is asked where to return to",
        _RETURNS,
        "        ret_addr = stack[first].ret_addr",
        "        ret_addr = stack[-1].ret_addr",
        Kind.RETURNS,
    ),
    Fault(
        "6.1: a return handler sees the trampoline's ip",
        _RETURNS,
        "            regs.ip = ret_addr\n",
        "            pass\n",
        Kind.RETURNS,
    ),
    Fault(
        "the hit of a return handler never ends",
        _RETURNS,
        "                self._arch.arch_set_current_kprobe(None)\n",
        "",
        Kind.HITS,
    ),
    Fault(
        "a hit in a return handler is no miss",
        _RETURNS,
        "                self._arch.arch_set_current_kprobe(ri.rp.kp)\n",
        "",
        Kind.RETURNS,
    ),
)

_PLAIN: Final = (
    Fault(
        "two probes share a slot",
        _SLOTS,
        "        slot = page.free.pop()",
        "        slot = page.free[-1]",
        Kind.COPY,
    ),
    Fault(
        "a freed slot is never handed out again",
        _SLOTS,
        "        page.free.append(slot)\n",
        "",
        Kind.LEAK,
    ),
    Fault(
        "a taken lock is taken again",
        _SYNC,
        "        if lock.owner is not None:",
        "        if False:",
        Kind.LOCKS,
    ),
    Fault(
        "synchronize_sched returns at once",
        _SYNC,
        '        self.wait_until(passed, f"synchronize_sched ({why})")',
        "        del passed, why",
        Kind.WAITS,
    ),
    Fault(
        "stop_machine stops nobody",
        _SYNC,
        "        self.wait_until(\n"
        "            lambda: all(idle for idle, _ in self._hardware.quiescent()), "
        'f"stop_machine ({why})"\n'
        "        )",
        "        del why",
        Kind.WAITS,
    ),
)

CORE: Final = (*_TABLE, *_HANDLERS, *_SWITCH, *_PASS, *_OPTIMIZING, *_CALLS, *_PLAIN)
