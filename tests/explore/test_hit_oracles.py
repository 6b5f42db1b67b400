"""Each oracle of hits, of their order, and of what handlers are shown finds a one-line fault that
is planted in a running system, and is silent without it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_x86.emu.nested import NestedCall
from arch_x86.emu.uc import RFLAGS, RSP
from arch_x86.isa.constants import FLAG_DF, FLAG_IF
from arch_x86.probes import detour
from arch_x86.probes.breakpoint import BreakpointHandler
from arch_x86.probes.optimized_hit import OptimizedHandler
from arch_x86.probes.stepping import Int3Stepping, TrapFlagStepping
from engine.core.aggregate import AggrHandlers
from engine.core.aggregation import Aggregation
from engine.core.kprobes import Kprobes
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.hit_phases import HitPhase
from engine.kprobe import AggrKprobe, KprobeStatus
from tests.explore.planted import (
    BROKEN,
    EXTRA,
    LOST,
    NO_ROOM,
    STEPPED,
    Fault,
    case,
    found,
    in_and_out,
    nothing,
    shows,
    two_at_once,
)


def two_for_good(k):
    k.register(k.kprobe("f", NO_ROOM))
    k.register(k.kprobe("f", NO_ROOM))


def first_child_only(_core, p):
    for child in p.children[:1] if isinstance(p, AggrKprobe) else [p]:
        child.nmissed += 1


def posts_of_all(_aggr, p, regs, flags):
    for child in p.children:
        child.post_handler(child, regs, flags)


def oldest_first(aggregation, old, p, real=Aggregation.register_aggr_kprobe):
    real(aggregation, old, p)
    p.parent.children.reverse()


def always(*_args):
    return True


def with_interrupts(self, block, ainsn, regs, real=TrapFlagStepping.begin):
    flags = regs.flags & FLAG_IF
    over = real(self, block, ainsn, regs)
    regs.flags |= flags
    return over


def posts_of_misses_too(self, block, p, regs, real=BreakpointHandler._post_process):
    if block.status is KprobeStatus.REENTER and p.post_handler is not None:
        p.post_handler(p, regs, 0)
    real(self, block, p, regs)


def called_with(rflags, rsp):
    def enter(self, addr, integers, real=NestedCall.enter):
        there, uc = real(self, addr, integers), self.vcpu.uc
        uc.gpr[RFLAGS] |= rflags
        uc.gpr[RSP] -= rsp
        uc.store()
        return there

    return enter


FAULTS = {
    "the hit of a jump never ends": Fault(
        OptimizedHandler,
        "done",
        lambda *_: HitPhase.RESUMED,
        in_and_out,
        BROKEN,
        "still in the last hit",
    ),
    "misses count on the first child only": Fault(
        Kprobes,
        "kprobes_inc_nmissed_count",
        first_child_only,
        two_for_good,
        LOST,
        "0 hits and 0 misses",
        bound=1,
        nmis=True,
        restores=False,
    ),
    "a post_handler is never called": Fault(
        AggrHandlers,
        "post_handler",
        nothing,
        lambda k: two_at_once(k, STEPPED, post=True),
        LOST,
        "0 calls of the post_handler, 1 expected",
    ),
    "a disabled child's post_handler is called": Fault(
        AggrHandlers,
        "post_handler",
        posts_of_all,
        lambda k: two_at_once(k, STEPPED, post=True, disable=True),
        EXTRA,
        "1 calls of the post_handler",
    ),
    "handlers run oldest first, behind a breakpoint": Fault(
        Aggregation,
        "register_aggr_kprobe",
        oldest_first,
        lambda k: two_at_once(k, NO_ROOM),
        EXTRA,
        "not newest first",
    ),
    "handlers run oldest first, behind a jump": Fault(
        Aggregation, "register_aggr_kprobe", oldest_first, two_at_once, EXTRA, "not newest first"
    ),
    "6.1: the copy of a probe with a post_handler is boosted": Fault(
        Int3Stepping,
        "wants_jump_back",
        always,
        lambda k: in_and_out(k, NO_ROOM, post=True),
        LOST,
        "0 calls of the post_handler, 1 expected",
        profile=LINUX_6_1,
    ),
    "interrupts come in a single step": Fault(
        TrapFlagStepping,
        "begin",
        with_interrupts,
        lambda k: in_and_out(k, STEPPED),
        BROKEN,
        "a single step begins with interrupts allowed",
    ),
    "a post_handler is called for a miss": Fault(
        BreakpointHandler,
        "_post_process",
        posts_of_misses_too,
        lambda k: in_and_out(k, STEPPED, post=True),
        EXTRA,
        "1 calls of the post_handler, 0 expected",
        profile=LINUX_6_1,
        bound=1,
        nmis=True,
    ),
    "a function that a handler calls begins with DF set": Fault(
        NestedCall,
        "enter",
        called_with(FLAG_DF, 0),
        lambda k: in_and_out(k, NO_ROOM),
        BROKEN,
        "begins with DF set",
        bound=1,
        nmis=True,
    ),
    "a function that a handler calls begins with its stack not aligned": Fault(
        NestedCall,
        "enter",
        called_with(0, 8),
        lambda k: in_and_out(k, NO_ROOM),
        BROKEN,
        "stack was not aligned",
        bound=1,
        nmis=True,
    ),
    "a detour buffer leaves DF as it was": Fault(
        detour,
        "PLAIN",
        replace(detour.PLAIN, enter=detour.PLAIN.enter.replace(b"\xfc", b"\x90")),
        in_and_out,
        BROKEN,
        "with DF set",
        image=(
            "std; mov eax, edi; nop; nop; lea ecx, [rax + rax*2]; add eax, ecx; "
            "xor eax, 0x55; cld; ret"
        ),
    ),
    "a detour buffer calls with the stack as it was": Fault(
        detour,
        "PLAIN",
        replace(
            detour.PLAIN, enter=detour.PLAIN.enter.replace(b"\x48\x83\xe4\xf0", b"\x0f\x1f\x40\x00")
        ),
        in_and_out,
        BROKEN,
        "is not aligned",
        image=(
            "push rdi; mov eax, edi; nop; lea ecx, [rax + rax*2]; add eax, ecx; xor eax, 0x55; "
            "pop rdi; ret"
        ),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_sound_code_is_not_accused(pool, monkeypatch, name):
    shows(pool, monkeypatch, FAULTS[name])


def test_a_post_handler_that_joins_a_boosted_copy_is_called_in_2010_not_in_6_1(pool):
    def main(k):
        k.register(k.kprobe("f", NO_ROOM))
        k.register(k.kprobe("f", NO_ROOM, post=True))

    for profile in (LINUX_2010, LINUX_6_1):
        assert found(pool, case(main, profile=profile, restores=False), 0) == []
