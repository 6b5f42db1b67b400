"""Faults of the core's table of probes: registering, unregistering, enabling and disabling."""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("TABLE",)

_AGGREGATION = "engine/core/aggregation.py"
_UNREGISTRATION = "engine/core/unregistration.py"
_GOING = "engine/core/module_going.py"
_KPROBES = "engine/core/kprobes.py"

TABLE: Final = (
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
