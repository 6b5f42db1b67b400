"""Faults of the explorer: what a state's name leaves out of vCPUs, calls, memory and waits, so that
two states are taken for one.
"""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("CALL_STATES",)

_STATES = "engine/patching/states.py"
_MEMORY = "arch_x86/explore/memory_port.py"
_VCPU = "engine/patching/vcpu.py"
_PARKED = "engine/patching/parked_task.py"
_WAITS = "engine/patching/waits.py"
_HIT = "engine/patching/hit_in_progress.py"
_PASSES = "engine/patching/passes.py"
_CALL_RESULTS = "engine/patching/oracles/call_results.py"
_RETURN_PROBES = "engine/patching/oracles/return_probes.py"

CALL_STATES: Final = (
    Fault(
        "not part of a state: registers",
        _MEMORY,
        "        digest.update(uc.gpr)\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: vector registers",
        _MEMORY,
        "        digest.update(uc.extended.vector_state())\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: x87 registers",
        _MEMORY,
        "        digest.update(uc.extended.fpu_state())\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the interrupt shadow",
        _MEMORY,
        '        digest.update(b"\\1" if vcpu.in_shadow else b"\\0")\n',
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the stack",
        _MEMORY,
        "        digest.update(self._live_stack(uc.gpr[RSP], "
        "self._machine.tasks[cpu].stack_top))\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a preempted task's stack",
        _MEMORY,
        "digest.update(self._live_stack(parked.registers[RSP], parked.stack_top))",
        "pass",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: memory",
        _STATES,
        '        digest.update(b"".join(now.data.names()))\n',
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: where calls stand",
        _STATES,
        "            ips,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whom a wait waits for",
        _STATES,
        "        told = (\n"
        "            ips,\n"
        "            self.vcpu_names(),\n"
        "            self._waits.key(),\n"
        "            now.node.name,\n"
        "            who,\n"
        "            now.open_calls,\n"
        "            self._judge.key(),\n"
        "        )",
        "        told = (ips, self.vcpu_names(), 0, now.node.name, who, now.open_calls, "
        "self._judge.key())",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the control state",
        _STATES,
        "            now.node.name,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: who went on last",
        _STATES,
        "            who,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: instances of return probes",
        _STATES,
        "        told = (\n"
        "            ips,\n"
        "            self.vcpu_names(),\n"
        "            self._waits.key(),\n"
        "            now.node.name,\n"
        "            who,\n"
        "            now.open_calls,\n"
        "            self._judge.key(),\n"
        "        )",
        "        told = (ips, self.vcpu_names(), self._waits.key(), now.node.name, who, 0, "
        "self._judge.key())",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: open calls with return probes",
        _RETURN_PROBES,
        "    def key(self) -> FollowedCalls:\n"
        '        """The calls that are open, on which later verdicts depend."""\n'
        "        return self.opened\n",
        "    def key(self) -> FollowedCalls:\n        return ()\n",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: what calls have left",
        _CALL_RESULTS,
        "return sorted(self.left.items())",
        "return ()",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: how many calls are made, in a call",
        _VCPU,
        "return (\n            self.calls,",
        "return (\n            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: preempted tasks",
        _VCPU,
        "            away,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: how far a hit has come",
        _VCPU,
        "            hit,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a CPU's kprobes block",
        _VCPU,
        "asleep,\n            hit,\n            self.block,",
        "asleep,\n            hit,\n            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whether a task is in schedule()",
        _VCPU,
        "self.quiet,\n            passing,",
        "0,\n            passing,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the pass in progress",
        _VCPU,
        "            passing,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whether a step is under way",
        _VCPU,
        "self.stepping,\n            nmi,",
        "0,\n            nmi,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: how many calls are made, between calls",
        _VCPU,
        "return (tuple(sorted((*here, *away))), asleep, ",
        "return (tuple(sorted((*away,))), asleep, ",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: tasks asleep",
        _VCPU,
        "return (tuple(sorted((*here, *away))), asleep, ",
        "return (tuple(sorted((*here, *away))), 0, ",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: an NMI's interrupted hit",
        _VCPU,
        "            nmi = (\n"
        "                before.key if before is not None else 0,\n"
        "                pass_key(passing, lives),\n"
        "                stepping,\n"
        "                block,\n"
        "                vectors,\n"
        "            )",
        "            nmi = (0, pass_key(passing, lives), stepping, block, vectors)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: an NMI's interrupted pass",
        _VCPU,
        "            nmi = (\n"
        "                before.key if before is not None else 0,\n"
        "                pass_key(passing, lives),\n"
        "                stepping,\n"
        "                block,\n"
        "                vectors,\n"
        "            )",
        "            nmi = (before.key if before is not None else 0, 0, stepping, block, vectors)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: an NMI's interrupted step",
        _VCPU,
        "                stepping,",
        "                0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: an NMI's interrupted block",
        _VCPU,
        "                block,",
        "                0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: an NMI's interrupted vectors",
        _VCPU,
        "                vectors,",
        "                0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a preempted task's pass",
        _PARKED,
        "return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, "
        "self.vectors)",
        "return (self.task, self.calls, 0, self.quiet, self.rip, self.registers, self.vectors)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whether a preempted task is in schedule()",
        _PARKED,
        "return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, "
        "self.vectors)",
        "return (self.task, self.calls, passing, 0, self.rip, self.registers, self.vectors)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a preempted task's place",
        _PARKED,
        "return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, "
        "self.vectors)",
        "return (self.task, self.calls, passing, self.quiet, 0, self.registers, self.vectors)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a preempted task's registers",
        _PARKED,
        "return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, "
        "self.vectors)",
        "return (self.task, self.calls, passing, self.quiet, self.rip, 0, self.vectors)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a preempted task's vectors",
        _PARKED,
        "return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, "
        "self.vectors)",
        "return (self.task, self.calls, passing, self.quiet, self.rip, self.registers, 0)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the probe that a hit has found",
        _HIT,
        "self.at, self.probe, self.argument",
        "self.at, 0, self.argument",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the probes that a hit has still to ask",
        _HIT,
        "self.argument, *self.children)",
        "self.argument)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whether a pass is over an armed site",
        _PASSES,
        "        one.armed,",
        "        0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whether a pass is inside another hit",
        _PASSES,
        "        one.busy,",
        "        0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: what a pass is asked about",
        _PASSES,
        "        asked,",
        "        0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: what a pass has seen",
        _PASSES,
        "tuple((seen.value, n) for seen, n in one.seen if n in asked and seen",
        "tuple((seen.value, n) for seen, n in () if n in asked and seen",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: where a pass is",
        _PASSES,
        "        one.addr,",
        "        0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whom a wait still waits for",
        _WAITS,
        "(task, tuple(sorted(left)))",
        "(task, ())",
        Kind.EXPLORER,
    ),
)
