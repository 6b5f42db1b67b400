"""Faults of the explorer itself: a part of a state's name left out, so that two states are taken
for one, and choices that are not offered.
"""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("EXPLORER",)

_STATES = "engine/patching/states.py"
_MEMORY = "arch_x86/explore/memory_port.py"
_VCPU = "engine/patching/vcpu.py"
_PARKED = "engine/patching/parked_task.py"
_WAITS = "engine/patching/waits.py"
_HIT = "engine/patching/hit_in_progress.py"
_PASSES = "engine/patching/passes.py"
_CONTROL_STATE = "engine/patching/control_state.py"
_EXPECTATIONS = "engine/patching/expectations.py"
_BOUNDARIES = "engine/patching/boundaries.py"
_CONTROL_STEPS = "engine/patching/control_steps.py"
_CALL_RESULTS = "engine/patching/oracles/call_results.py"
_RETURN_PROBES = "engine/patching/oracles/return_probes.py"
_UNPROBED = "arch_x86/explore/unprobed_port.py"
_COPIES = "arch_x86/probes/copies.py"

EXPLORER: Final = (
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
        "return (tuple(sorted((*here, *away))), asleep)",
        "return (tuple(sorted((*away,))), asleep)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: tasks asleep",
        _VCPU,
        "return (tuple(sorted((*here, *away))), asleep)",
        "return (tuple(sorted((*here, *away))), 0)",
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
        "    return (\n"
        "        one.addr,\n"
        "        one.armed,\n"
        "        one.busy,\n"
        "        asked,\n"
        "        tuple((seen.value, n) for seen, n in one.seen if n in asked),\n"
        "    )",
        "    return (one.addr, one.armed, one.busy, asked)",
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
    Fault(
        "not part of a state: the text",
        _CONTROL_STATE,
        "(self.text.current.name, table, lists, switches, probes, room)",
        "(0, table, lists, switches, probes, room)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the table",
        _CONTROL_STATE,
        "(self.text.current.name, table, lists, switches, probes, room)",
        "(self.text.current.name, 0, lists, switches, probes, room)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the optimizer's lists",
        _CONTROL_STATE,
        "(self.text.current.name, table, lists, switches, probes, room)",
        "(self.text.current.name, table, 0, switches, probes, room)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the probes",
        _CONTROL_STATE,
        "(self.text.current.name, table, lists, switches, probes, room)",
        "(self.text.current.name, table, lists, switches, 0, room)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: what waits to be armed",
        _CONTROL_STATE,
        "            waiting,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: how many aggregators there were",
        _CONTROL_STATE,
        "            len(self._aggregators),",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the switch for optimization",
        _CONTROL_STATE,
        "            core.kprobes_allow_optimization,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the switch for all probes",
        _CONTROL_STATE,
        "            core.kprobes_all_disarmed,",
        "            0,",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the optimizer's pass",
        _CONTROL_STATE,
        "            *core.optimizer.due,\n        )",
        "        )",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: that a pass is over",
        _CONTROL_STATE,
        "(*switches, core.optimizer.completed)",
        "(*switches, 0)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a probe's flags",
        _CONTROL_STATE,
        "own = (self.name_of(p), p.flags.value, slot, p.post_handler is not None)",
        "own = (self.name_of(p), 0, slot, p.post_handler is not None)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a probe's slot",
        _CONTROL_STATE,
        "own = (self.name_of(p), p.flags.value, slot, p.post_handler is not None)",
        "own = (self.name_of(p), p.flags.value, 0, p.post_handler is not None)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whether a probe has a post_handler",
        _CONTROL_STATE,
        "own = (self.name_of(p), p.flags.value, slot, p.post_handler is not None)",
        "own = (self.name_of(p), p.flags.value, slot, 0)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: an aggregator's detour buffer",
        _CONTROL_STATE,
        "return (*own, detour, ",
        "return (*own, 0, ",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: an aggregator's probes",
        _CONTROL_STATE,
        "return (*own, detour, tuple(self.name_of(child) for child in p.children))",
        "return (*own, detour, 0)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: which slots are free",
        _CONTROL_STATE,
        "room = (self.arch.slots.state, self.arch.detours.state, self.arch.poke.state)",
        "room = (0, self.arch.detours.state, self.arch.poke.state)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: which detour buffers are free",
        _CONTROL_STATE,
        "room = (self.arch.slots.state, self.arch.detours.state, self.arch.poke.state)",
        "room = (self.arch.slots.state, 0, self.arch.poke.state)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the poke's descriptor",
        _CONTROL_STATE,
        "room = (self.arch.slots.state, self.arch.detours.state, self.arch.poke.state)",
        "room = (self.arch.slots.state, self.arch.detours.state, 0)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: probes' lives",
        _CONTROL_STATE,
        "return (control.ledger.state([p.addr for p in control.probes]), control.broken)",
        "return (0, control.broken)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: a broken promise",
        _CONTROL_STATE,
        "for p in control.probes]), control.broken)",
        "for p in control.probes]), 0)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: what ended a task",
        _CONTROL_STATE,
        "task.again is not None, repr(task.error), self",
        "task.again is not None, 0, self",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: that work was asked for again",
        _CONTROL_STATE,
        "task.again is not None, repr(task.error), self",
        "0, repr(task.error), self",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the name of delayed work",
        _CONTROL_STATE,
        "_digest((task.name, task",
        "_digest((0, task",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: what operations have answered",
        _CONTROL_STATE,
        "return ((0, answers[-_ANSWERS:]) if tries_again else (begun, answers), frames)",
        "return frames",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: how many operations there were on a probe",
        _EXPECTATIONS,
        "told = (self.lives, tuple(sorted(facts.items())), tuple(self._registrations), places)",
        "told = (0, tuple(sorted(facts.items())), tuple(self._registrations), places)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: what operations have left",
        _EXPECTATIONS,
        "told = (self.lives, tuple(sorted(facts.items())), tuple(self._registrations), places)",
        "told = (self.lives, 0, tuple(self._registrations), places)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: how often a probe was registered",
        _EXPECTATIONS,
        "told = (self.lives, tuple(sorted(facts.items())), tuple(self._registrations), places)",
        "told = (self.lives, tuple(sorted(facts.items())), 0, places)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: which probes had a jump",
        _EXPECTATIONS,
        "        places = (\n"
        "            tuple(sorted(self.jumped)),\n"
        "            tuple(sorted(self.rearmed)),\n"
        "            tuple(sorted(self.copied_for_post.items())),\n"
        "        )",
        "        places = ((), tuple(sorted(self.rearmed)), "
        "tuple(sorted(self.copied_for_post.items())))",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: where a breakpoint was written again over a jump",
        _EXPECTATIONS,
        "        places = (\n"
        "            tuple(sorted(self.jumped)),\n"
        "            tuple(sorted(self.rearmed)),\n"
        "            tuple(sorted(self.copied_for_post.items())),\n"
        "        )",
        "        places = (tuple(sorted(self.jumped)), (), "
        "tuple(sorted(self.copied_for_post.items())))",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: whom a copy was made for",
        _EXPECTATIONS,
        "        places = (\n"
        "            tuple(sorted(self.jumped)),\n"
        "            tuple(sorted(self.rearmed)),\n"
        "            tuple(sorted(self.copied_for_post.items())),\n"
        "        )",
        "        places = (tuple(sorted(self.jumped)), tuple(sorted(self.rearmed)), ())",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: which operation had the mutex last",
        _EXPECTATIONS,
        "return (told, ages, pending)",
        "return (told, ages, 0)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: which probe is older",
        _EXPECTATIONS,
        "return (told, ages, pending)",
        "return (told, 0, pending)",
        Kind.EXPLORER,
    ),
    Fault(
        "slots have no choice points",
        _COPIES,
        "                yield start, start + self.slot_size\n",
        "                pass\n",
        Kind.EXPLORER,
    ),
    Fault(
        "the copies in a detour buffer have no choice points",
        _COPIES,
        "                yield p.optinsn.copied, start + len(p.optinsn.detour.code)\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "a preempted task is not waited for",
        _BOUNDARIES,
        "inside = {one.task for one in away if one.in_call}",
        "inside = set[int]()",
        Kind.EXPLORER,
    ),
    Fault(
        "a preempted task is not in flight when text is written",
        _CONTROL_STEPS,
        "            passing = vcpu.passing is not None or any(\n"
        "                one.passing is not None for one in vcpu.parked\n"
        "            )",
        "            passing = vcpu.passing is not None",
        Kind.EXPLORER,
    ),
    Fault(
        "shared writes are taken for a task's own",
        _UNPROBED,
        "seen.shares = seen.shares or not own_writes(",
        "seen.shares = False and own_writes(",
        Kind.EXPLORER,
    ),
    Fault(
        "the wait for traps waits for nobody",
        _WAITS,
        "            return not any(\n"
        "                vcpu.hit is not None and vcpu.hit.phase is HitPhase.POKE for vcpu "
        "in self._vcpus\n"
        "            )",
        "            return True",
        Kind.EXPLORER,
    ),
)
