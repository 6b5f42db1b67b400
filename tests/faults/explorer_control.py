"""Faults of the explorer: what a state's name leaves out of the core and its control tasks, so that
two states are taken for one; and choices that are not offered.
"""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("CHOICES", "CONTROL_STATES")

_STATES = "engine/patching/states.py"
_WAITS = "engine/patching/waits.py"
_CONTROL_STATE = "engine/patching/control_state.py"
_EXPECTATIONS = "engine/patching/expectations.py"
_BOUNDARIES = "engine/patching/boundaries.py"
_CONTROL_STEPS = "engine/patching/control_steps.py"
_UNPROBED = "arch_x86/explore/unprobed_port.py"
_COPIES = "arch_x86/probes/copies.py"

CONTROL_STATES: Final = (
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
        "told = (control.ledger.state([p.addr for p in control.probes]), control.broken)",
        "told = (0, control.broken)",
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
)

CHOICES: Final = (
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
