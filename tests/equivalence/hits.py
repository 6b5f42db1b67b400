"""Unprobed cells against probed ones, by every method that a cell allows, through the machine's
real hit path.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from arch_x86.emu.uc import RSP
from arch_x86.isa.insn import Branch, Insn
from arch_x86.lab.bench import Workbench
from arch_x86.probes.eligibility import can_probe
from engine.core.profiles import LINUX_2010, Profile
from engine.image import ExceptionEntry
from engine.kprobe import AggrKprobe, Kprobe, Method
from tests.equivalence.forms import address_of
from tests.equivalence.guest import CONFIG, Guest, Outcome
from tests.equivalence.states import State, random_state
from tests.equivalence.world import Places, at_cell, functions_image, place

_RED_ZONE = 128
_SCRIBBLE = (
    1024  # what a trap frame, its pt_regs and a detour's pt_regs take at most, below the red zone
)
_ATTEMPTS = 40
_STEPPED = (Method.INT3, Method.EMULATED)  # what a post_handler makes of a probe


class Trial(NamedTuple):
    """A state and what the unprobed cell makes of it. ``dead``: memory below the red zone that any
    interrupt may overwrite.
    """

    world: int
    state: State
    want: Outcome
    dead: list[tuple[int, int]]


class HitBench:
    """Each of ``raws`` in a cell of its own, which is a function; code may use the red zone.

    ``fixed_up``: whoever faults goes on at landing pad 15, by the exception table. ``profile``: how
    what is not boosted runs.
    """

    def __init__(
        self,
        raws: Sequence[bytes],
        pool,
        places: Places,
        *,
        worlds: int = 4,
        seed: int = 1,
        fixed_up: bool = False,
        profile: Profile = LINUX_2010,
    ) -> None:
        self.insns = [place(raw, at_cell(i, places), places) for i, raw in enumerate(raws)]
        table = tuple(ExceptionEntry(insn.addr, places.pad(15)) for insn in self.insns if fixed_up)
        image = functions_image(self.insns, places, red_zone=True, exception_table=table)
        self.bench = Workbench(image, pool=pool, config=CONFIG, profile=profile)
        self.guest = Guest(
            self.bench.machine, places, worlds=worlds, seed=seed, executor=self.bench.executor
        )
        self.probes: dict[int, Kprobe] = {}
        self.hits = 0
        self.posts = 0
        self._seed = seed

    # Unprobed -------------------------------------------------------------------------------------

    def can_probe(self, number: int) -> bool:
        """Whether a probe goes there."""
        return not can_probe(self.bench.arch.code, self.insns[number].addr).errno

    def trials(self, number: int, count: int) -> list[Trial]:
        """``count`` states (fewer where they are hard to find) that leave RSP on the stack, as the
        trap's own frames need it.
        """
        found: list[Trial] = []
        if reads_dead_stack(self.insns[number]):
            return found
        for turn in range(_ATTEMPTS):
            trial = self.trial(number, turn, self.state(number, turn))
            if trial is not None:
                found.append(trial)
                if len(found) == count:
                    break
        return found

    def state(self, number: int, turn: int) -> State:
        """Random state ``turn`` for instruction ``number``."""
        insn, guest = self.insns[number], self.guest
        return random_state(
            insn, Random(f"{self._seed}:{insn.raw.hex()}:{turn}"), guest.places, guest.bases
        )

    def trial(self, number: int, world: int, state: State) -> Trial | None:
        """The unprobed run; None where it leaves RSP off the stack."""
        stack = self.guest.places.stack
        self.guest.start(world, state, self.insns[number].addr)
        want = self.guest.run()
        if want.fault:  # as the machine reports it
            self.guest.start(world, state, self.insns[number].addr)
            want = self.guest.run_probed()
        before, after = state.gpr[RSP], want.registers[RSP]
        if not all(
            stack.addr + _SCRIBBLE + _RED_ZONE < rsp <= stack.end for rsp in (before, after)
        ):
            return None
        dead = [(rsp - _RED_ZONE - _SCRIBBLE, rsp - _RED_ZONE) for rsp in (before, after)]
        return Trial(world, state, self.guest.forget(want, dead), dead)

    # Probed ---------------------------------------------------------------------------------------

    def register(self, method: Method, numbers: Sequence[int]) -> list[int]:
        """Probe the cells that allow ``method`` by it; returns which."""
        kprobes = self.bench.kprobes
        kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
        post = self._post if method in _STEPPED else None
        self.probes = {
            n: Kprobe(addr=self.insns[n].addr, pre_handler=self._pre, post_handler=post)
            for n in numbers
        }
        for probe in self.probes.values():
            kprobes.register_kprobe(probe)
        kprobes.wait_for_kprobe_optimizer()
        return [n for n, probe in self.probes.items() if self.bench.method(probe) is method]

    def unregister(self) -> None:
        """Take all probes away."""
        self.bench.kprobes.unregister_kprobes(list(self.probes.values()))
        self.bench.kprobes.wait_for_kprobe_optimizer()
        self.probes = {}

    def _pre(self, _p: Kprobe, _regs: object) -> int:
        self.hits += 1
        return 0

    def _post(self, _p: Kprobe, _regs: object, _flags: int) -> None:
        self.posts += 1

    def difference(self, number: int, method: Method, trial: Trial) -> str:
        """What the probed run did otherwise; "" when nothing."""
        insn, guest = self.insns[number], self.guest
        self.hits = self.posts = 0
        guest.start(trial.world, trial.state, insn.addr)
        got = guest.forget(guest.run_probed(), trial.dead).seen_from(
            self._copy(number, method), insn.addr
        )
        found = guest.explain(
            got._replace(retired=0), trial.want._replace(retired=0)
        ) or self._handlers(number, method, trial)
        return (
            f"{insn.raw.hex(' ')} ({insn.text}) {method} world {trial.world}: {found}"
            if found
            else ""
        )

    def _copy(self, number: int, method: Method) -> int:
        entry = self.bench.kprobes.get_kprobe(self.insns[number].addr)
        assert entry is not None
        if method is Method.OPTIMIZED:
            assert isinstance(entry, AggrKprobe)
            return entry.optinsn.copied
        return entry.ainsn.slot

    def _handlers(self, number: int, method: Method, trial: Trial) -> str:
        """Once a pass; stepped by TF, a REP instruction is hit anew before each iteration."""
        many = (
            method is Method.INT3
            and is_rep(self.insns[number])
            and not self.bench.arch.profile.steps_by_int3
        )
        if self.hits < 1 or (self.hits > 1 and not many):
            return f"{self.hits} hits"
        faults = trial.want.fault != "" or trial.want.rip == self.guest.places.pad(15) + 1
        if method in _STEPPED and self.posts not in (self.hits, self.hits - faults):
            return f"{self.posts} post_handlers after {self.hits} hits"
        return ""


def is_rep(insn: Insn) -> bool:
    """A string instruction with a repeat prefix."""
    return (
        len(insn.opcode) == 1
        and not insn.vex
        and insn.opcode[0] in _STRING
        and bool({0xF2, 0xF3} & set(insn.prefixes))
    )


def reads_dead_stack(insn: Insn) -> bool:
    """The operand lies below the red zone (as in a stack probe), where an interrupt may write at
    any time.
    """
    address = address_of(insn)
    return (
        address is not None
        and address.base == RSP
        and address.index is None
        and insn.displacement < -_RED_ZONE
        and insn.branch is Branch.NONE
    )


_STRING = frozenset((*range(0xA4, 0xA8), *range(0xAA, 0xB0)))
