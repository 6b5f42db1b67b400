"""Where a vCPU can fetch what was there before, and how schedules say so: laws of the choice f0."""

from __future__ import annotations

from contextlib import closing

import pytest

from arch_x86.explore.open_experiment import open_experiment
from engine.core.profiles import LINUX_6_1
from engine.errors import InputError
from engine.patching.experiment import Experiment
from engine.patching.search_options import Search
from engine.search.actor import Actor, ActorKind, actor_from
from engine.search.schedule import Schedule
from tests.conftest import asm_image
from tests.explore.experiments import check, experiment, replay_experiment

BASE = 0x1000_0000
SITE = "lea eax, [rdi + rdi]; lea ecx, [rax + 1]; ret"
VCPU, CONTROL, FETCH, INTERRUPT, NMI = map(actor_from, ("0", "c0", "f0", "i0", "n0"))
IRET = (
    "mov rax, rsp; mov ecx, ss; push rcx; push rax; pushfq; mov ecx, cs; push rcx;"
    " lea rcx, [rip + 3]; push rcx; iretq"
)
"""An IRET to the instruction behind it. ``lea`` is relative to its own end, and ``push`` and
``iretq`` have one and two bytes.
"""
FRESH = {"CPUID": "cpuid", "IRET": IRET}
NOT_FRESH = {
    "no instruction": "",
    "NOP": "nop",
    "LOCK": "lock add dword ptr [rsp - 8], 0",
    "XCHG with memory": "xchg [rsp - 8], rax",
    "MFENCE": "mfence",
    "LFENCE": "lfence",
    "a jump": ".byte 0xeb, 0",
    "MOV from CR2": "mov rax, cr2",
    "PAUSE": "pause",
}


def in_and_out(k, offset: int = 0):
    p = k.kprobe("f", offset)
    k.register(p)
    k.settle()
    k.unregister(p)
    k.settle()


def broken(**fields) -> Experiment:
    """A life without the sync behind a jump's tail."""
    fields = {"fetch": "torn", "steps": ["bp-sync-2"], "interrupts": False, **fields}
    return experiment(asm_image(SITE), in_and_out, profile=LINUX_6_1, **fields)


def actors(system) -> set[Actor]:
    return {choice.actor for choice in system.choices()}


def at_the_site(pool, front: str, *, late: bool = True, event: Actor | None = None) -> set[Actor]:
    """What can be chosen where a vCPU stands at the site, while it has not synchronized since the
    breakpoint was stored there: the vCPU was in the call already, in front of ``front``.
    """
    image = asm_image(f"nop; {front or 'nop'}; {SITE}")
    (symbol,) = image.symbols
    site = symbol.size - len(asm_image(SITE).segments[0].data)
    one = experiment(
        image,
        lambda k: in_and_out(k, site),
        profile=LINUX_6_1,
        fetch="torn" if late else "coherent",
        nmis=event == NMI,
        reduce=False,
    )
    with closing(open_experiment(one, pool)) as system:
        cpus = system.port.cpus
        system.take(VCPU, 1)
        while cpus.ip(0) != BASE + 1:
            assert cpus.ip(0) < BASE + site
            system.take(VCPU, 1)
        while system.port.text.read(system.node.version, BASE + site, 1) != b"\xcc":
            system.take(CONTROL)
        if event is not None:
            system.take(event)
        while cpus.ip(0) != BASE + site or system.vcpus[0].nmi:
            # An NMI makes the call, too. It fetches the old text, since the trap of a breakpoint
            # ends in an IRET.
            if cpus.ip(0) == BASE + site and FETCH in actors(system):
                system.take(FETCH)
            system.take(VCPU, 1)
        return actors(system)


@pytest.mark.parametrize("front", FRESH)
def test_behind_an_instruction_that_synchronizes_a_fetch_is_fresh(pool, front):
    assert FETCH not in at_the_site(pool, FRESH[front])


@pytest.mark.parametrize("front", NOT_FRESH)
def test_behind_any_other_instruction_a_fetch_may_be_of_the_old_text(pool, front):
    assert FETCH in at_the_site(pool, NOT_FRESH[front])


@pytest.mark.parametrize("event", [INTERRUPT, NMI], ids=str)
def test_behind_an_interrupt_or_nmi_a_fetch_is_fresh(pool, event):
    assert FETCH not in at_the_site(pool, "nop", event=event)


def test_a_coherent_fetch_is_no_choice(pool):
    assert FETCH not in at_the_site(pool, "nop", late=False)


# Schedules ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(pool) -> Schedule:
    (report,) = check(broken(), Search(preemptions=0), pool=pool).violations
    assert ",f0" in str(report.schedule)
    return report.schedule


def test_a_schedule_with_old_fetches_replays_to_the_same_timeline(pool, found):
    first, second = (replay_experiment(broken(), found, pool=pool) for _ in range(2))
    assert first == second
    assert first[0] is not None
    assert any("-- fetches e9 " in line for line in first[1])


@pytest.mark.parametrize("other", [{"fetch": "stale"}, {"fetch": "coherent"}, {"strict": True}])
def test_a_schedule_of_one_fetch_model_is_refused_with_another(pool, found, other):
    with pytest.raises(InputError, match="options are not those"):
        replay_experiment(broken(**other), found, pool=pool)


def test_more_ways_to_fetch_than_there_are_is_refused(pool, found):
    segments = tuple(
        (actor, 99 if actor.kind is ActorKind.FETCH else steps) for actor, steps in found.segments
    )
    with pytest.raises(InputError, match="not possible"):
        replay_experiment(broken(), Schedule(found.fingerprint, segments), pool=pool)


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_schedules_that_are_drawn_have_old_fetches_too(pool, strategy):
    result = check(broken(), Search(strategy=strategy, max_schedules=2000), pool=pool)
    (report,) = result.violations
    kinds = {actor.kind for actor, _ in report.schedule.segments}
    assert ActorKind.FETCH in kinds
