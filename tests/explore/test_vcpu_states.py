"""What is part of a state's name of a vCPU beside its registers: for each part the smallest case
that goes wrong without it.

What the explorer itself keeps of a vCPU differs in a sound core only together with something else,
but finding a core that is not sound is what it is for: one part is changed by hand, and what comes
of the two states is compared.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_x86.emu.uc import RDI
from engine.core.profiles import LINUX_6_1
from engine.kprobe import KprobeStatus
from engine.patching.expectations import Life
from engine.patching.hit_in_progress import NO_HIT
from engine.patching.oracles.return_probes import FollowedCall, ReturnProbes
from engine.search.explorable import ViolationKind
from tests.conftest import BASE
from tests.explore.open_systems import (
    BOOSTED,
    PREEMPT,
    follow,
    go_on,
    in_and_out,
    opened,
    oracle,
    waits_for_tasks,
)


def fate(system) -> object:
    """What comes if everybody goes on as before: who can be chosen on the way, and what goes wrong
    in the end.
    """
    way = []
    while choices := system.choices():
        way.append(sorted(choices))
        system.take(choices[0].actor)
    return way, system.violation and system.violation.kind


def without_hits(one):
    """A pass whose hit a fault of the core has lost."""
    return one.passing._replace(seen=())


def not_asked(one):
    """The same, begun while an operation on the probe was under way."""
    return without_hits(one)._replace(lives=((Life.CHANGING, 0),))


def vcpu_with(**fields):
    def change(vcpu):
        for name, make in fields.items():
            setattr(vcpu, name, make(vcpu))

    return change


def interrupted_with(**fields):
    return vcpu_with(
        interrupted=lambda vcpu: vcpu.interrupted._replace(
            **{name: make(vcpu.interrupted) for name, make in fields.items()}
        )
    )


def parked_with(**fields):
    return vcpu_with(
        parked=lambda vcpu: (
            replace(
                vcpu.parked[0], **{name: make(vcpu.parked[0]) for name, make in fields.items()}
            ),
        )
    )


def hit_with(**fields):
    return vcpu_with(hit=lambda vcpu: replace(vcpu.hit, **fields))


def two_sites(k):
    probes = [k.kprobe("f", offset) for offset in (1, 3)]
    for p in probes:
        k.register(p)
    k.unregister(*probes)


def three(k):
    probes = [k.kprobe("f", 1) for _ in range(3)]
    for p in probes:
        k.register(p)
    k.unregister(*probes)


STEPPED = "nop; shl edi, 1; nop; ret"
IN_NMI = {"nmis": True, "profile": LINUX_6_1}
IN_HIT = (KprobeStatus.HIT_ACTIVE.value, *NO_HIT[2:])


@pytest.mark.parametrize(
    ("control", "fields", "schedule", "change", "behind"),
    [
        pytest.param(
            in_and_out,
            {},
            "c0*3 0",
            vcpu_with(block=lambda _: (-1, *IN_HIT)),
            "0",
            id="the kprobes block",
        ),
        pytest.param(
            in_and_out,
            {},
            "c0*3 0*5",
            vcpu_with(passing=without_hits),
            "",
            id="what a pass has seen",
        ),
        pytest.param(
            in_and_out,
            {},
            "c0*3 0*2",
            vcpu_with(passing=lambda vcpu: vcpu.passing._replace(armed=False)),
            "",
            id="whether a pass is over an armed site",
        ),
        pytest.param(
            in_and_out,
            {},
            "c0*3 0*2",
            vcpu_with(passing=lambda vcpu: vcpu.passing._replace(busy=True)),
            "",
            id="whether a pass is inside another hit",
        ),
        pytest.param(
            in_and_out,
            {},
            "c0*3 0*5",
            (vcpu_with(passing=without_hits), vcpu_with(passing=not_asked)),
            "",
            id="what a pass is asked about",
        ),
        pytest.param(
            two_sites,
            {},
            "c0*5 0*5",
            vcpu_with(passing=lambda vcpu: vcpu.passing._replace(addr=BASE + 3)),
            "",
            id="where a pass is",
        ),
        pytest.param(
            in_and_out,
            IN_NMI,
            "c0*4 0*6",
            vcpu_with(stepping=lambda _: False),
            "n0",
            id="a single step",
        ),
        pytest.param(
            in_and_out,
            IN_NMI,
            "c0*4 0*6 n0",
            interrupted_with(stepping=lambda _: False),
            "",
            id="the single step that an NMI has interrupted",
        ),
        pytest.param(
            in_and_out,
            IN_NMI,
            "c0*4 0*6 n0",
            interrupted_with(passing=without_hits),
            "",
            id="the pass that an NMI has interrupted",
        ),
        pytest.param(
            in_and_out,
            IN_NMI,
            "c0*4 0*6 n0",
            interrupted_with(block=lambda _: NO_HIT),
            "",
            id="the block that an NMI has interrupted",
        ),
        pytest.param(
            in_and_out,
            {"resched": (BASE + 1,)},
            "0",
            vcpu_with(quiet=lambda _: False),
            "c0*5",
            id="a task in schedule()",
        ),
        pytest.param(
            waits_for_tasks,
            {**PREEMPT, "resched": (BASE + 1,)},
            "0 c0 s0",
            parked_with(quiet=lambda _: False),
            "c0",
            id="a preempted task in schedule()",
        ),
        pytest.param(
            in_and_out,
            {**PREEMPT, "text": BOOSTED},
            "c0*3 0*6 p0",
            parked_with(passing=without_hits),
            "s0",
            id="a preempted task's pass",
        ),
        pytest.param(
            waits_for_tasks,
            {**PREEMPT, "asleep": (BASE + 1,)},
            "c0 0",
            vcpu_with(asleep=lambda _: ()),
            "c0",
            id="a task asleep",
        ),
        pytest.param(
            in_and_out, {}, "c0*3 0*3", hit_with(probe=0), "", id="the probe that a hit has found"
        ),
        pytest.param(
            three,
            {},
            "c0*5 0*4",
            hit_with(children=()),
            "",
            id="the probes that a hit has still to ask",
        ),
    ],
)
def test_what_is_known_of_a_vcpu_beside_its_registers_is_part_of_a_state(
    pool, control, fields, schedule, change, behind
):
    """What only a core with a fault leaves so is, too: finding that is what this is for."""
    with opened(pool, control=control, **{"text": STEPPED, **fields}) as system:
        keys, fates = [], []
        for make in change if isinstance(change, tuple) else (lambda _: None, change):
            follow(system, schedule)
            make(system.vcpus[0])
            keys.append(system.key())
            go_on(system, behind)
            fates.append(fate(system))
    assert fates[0] != fates[1]
    assert keys[0] != keys[1]


def a_return_probe(k):
    rp = k.kretprobe("f", maxactive=1)
    k.register_return(rp)
    k.unregister_return(rp)


@pytest.mark.parametrize("part", ["instances that are not free", "calls that are open"])
def test_what_is_known_of_return_probes_is_part_of_a_state(pool, part):
    """The core's instances, of which one has leaked here, and the model's open calls, of which one
    is unknown to the core.
    """
    with opened(pool, STEPPED, a_return_probe) as system:
        keys, fates = [follow(system, "c0*3 0")], [fate(system)]
        follow(system, "c0*3 0")
        if part == "instances that are not free":
            system.now.open_calls = ((), ((0, 1, (0,)),))
        else:
            oracle(system, ReturnProbes).opened = ((0, (FollowedCall(0, 1, 0, 0, 0),)),)
        keys.append(system.key())
        fates.append(fate(system))
    assert fates[0] != fates[1]
    assert keys[0] != keys[1]


def test_the_vector_registers_that_an_nmi_has_interrupted_are_part_of_a_state(pool):
    """Its handler has overwritten them, and they do not lie on the stack, as the others do."""
    text = "movd xmm0, edi; mov edi, 5; nop; movd eax, xmm0; ret"
    with opened(pool, text, nmis=True, reduce=False) as system:
        keys, kinds = [], []
        for value in (0, 1):
            follow(system, "0")
            uc = system.port.machine.cpus[0].uc
            uc.load()
            uc.gpr[RDI] ^= value
            uc.store()
            go_on(system, "0*2")
            assert system.port.machine.cpus[0].rip == BASE + 9
            go_on(system, "n0 0")
            while system.port.machine.cpus[0].rip != BASE + 9:
                go_on(system, "0")
            keys.append(system.key())
            kinds.append(fate(system)[1])
    assert kinds == [None, ViolationKind.WRONG_RESULT]
    assert keys[0] != keys[1]
