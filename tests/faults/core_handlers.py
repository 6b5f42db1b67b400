"""Faults of what calls handlers, of the switches for all probes, of return probes, and of what
the core allocates, locks and waits for.
"""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("HANDLERS", "RESOURCES", "RETURNS", "SWITCHES")

_AGGREGATE = "engine/core/aggregate.py"
_SWITCHES = "engine/core/global_switches.py"
_ARMING = "engine/core/arming.py"
_RETURNS = "engine/core/kretprobes.py"
_SLOTS = "engine/core/insn_slots.py"
_SYNC = "engine/control/sync.py"

HANDLERS: Final = (
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


SWITCHES: Final = (
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


RETURNS: Final = (
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


RESOURCES: Final = (
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
