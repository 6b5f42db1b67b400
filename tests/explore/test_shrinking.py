"""Laws of shrinking, on real code: nothing in a row can be left out of a schedule that is shown."""

from __future__ import annotations

from contextlib import closing

import pytest

import optprobe
from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.x86_setup import X86Setup
from engine.patching.make_experiment import experiment_of_patch
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.search.actor import ActorKind
from engine.search.explorable import ViolationKind
from engine.search.schedule import Segments, parse_schedule, replay, segments_of
from engine.search.shrink import shrink

NOPS = """
g:
    lea eax, [rdi + 2]
    ret
    .p2align 6
f:
    mov eax, edi
    nop
    nop
    nop
    nop
    nop
    add eax, 1
    ret
"""


def five_nops(**fields):
    """Five no-ops of one byte become a call while vCPUs call the function twice."""
    image = optprobe.load_asm(NOPS, "nops.s")
    request = Request(
        image=image,
        call="f",
        arguments=("5",),
        calls=2,
        preempt=True,
        **fields,
    )
    spec = PatchSpec(sites=("f+0x2",), codes=("call:g",), protocol="text_poke_bp")
    return experiment_of_patch(request, spec, X86Setup())


def shorter(segments: Segments):
    """``segments`` without some steps in a row of one actor, in every way."""
    for actor in {actor for actor, _ in segments}:
        total = sum(steps for other, steps in segments if other == actor)
        for begin in range(total):
            for end in range(begin + 1, total + 1):
                yield without(segments, actor, begin, end)


def without(segments: Segments, actor, begin: int, end: int) -> Segments:
    left, at = [], 0
    for other, steps in segments:
        if other != actor:
            left.append((other, steps))
            continue
        gone = max(0, min(end, at + steps) - max(begin, at))
        at += steps
        if gone < steps:
            left.append((other, steps - gone))
    return tuple(left)


def size(segments: Segments) -> tuple[int, int]:
    return len(segments), sum(steps for _, steps in segments)


@pytest.mark.parametrize(
    ("cpus", "schedule"),
    [
        (1, "0*13,c0*5,0"),  # a whole call, and then one to behind the first no-op
        (1, "c0*2,0*13,c0*3,0"),
        (1, "0*5,c0,0*8,c0*4,0"),  # the first call's steps are in two segments
        (2, "1*10,0*13,c0*2,1*10,c0*3,0"),
    ],
)
def test_no_steps_in_a_row_can_be_left_out_of_a_shrunk_schedule(pool, cpus, schedule):
    case = five_nops(cpus=cpus)
    with closing(open_experiment(case, pool)) as system:
        replay(system, parse_schedule(f"v3:00000000:{schedule}").segments)
        assert system.violation is not None
        assert system.violation.kind is ViolationKind.TORN
        segments, violation = shrink(system, segments_of(system.trace), system.violation)
        assert violation.kind is ViolationKind.TORN
        for candidate in shorter(segments):
            replay(system, candidate)
            if system.violation is not None and system.violation.kind is violation.kind:
                assert size(segments_of(system.trace)) >= size(segments), candidate
        # The call takes 10 steps, so a longer segment of a vCPU would have a whole call.
        assert all(steps < 10 for actor, steps in segments if actor.kind is ActorKind.VCPU)
