"""What is part of a state's name: for each part the smallest case that goes wrong without it.

Without a part two states are taken for one, and what follows from the second is never seen. What
registers, stacks and memory hold is shown by two schedules of calls that share data, behind which
the calls leave different things. What the explorer itself keeps of a vCPU differs in a sound core
only together with something else, but finding a core that is not sound is what it is for: there one
part is changed by hand, and what comes of the two states is compared. Of control states two tasks
are shown of which the one that comes first decides.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from arch_x86.emu.uc import RDI
from arch_x86.explore.open_experiment import open_experiment
from engine.control.stepped_plane import MachineWait, WaitKind
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.errors import InputError
from engine.hit import HitPhase
from engine.kprobe import KprobeFlag, KprobeStatus, Queue
from engine.patching.expectations import Effect, Life, Operation
from engine.patching.experiment import Experiment
from engine.patching.hit_in_progress import NO_HIT
from engine.patching.oracles.call_results import CallResults
from engine.patching.oracles.return_probes import FollowedCall, ReturnProbes
from engine.patching.parked_task import Mode
from engine.search.actor import actor_from
from engine.search.explorable import ViolationKind
from engine.syntax.arguments import parse_argument
from tests.conftest import BASE, asm_image
from tests.explore.shared_functions import SharedFunction, probed

STORE = "mov qword ptr [G], 7; cmp qword ptr [G], 7"
"""Behind it two calls that have loaded different things stand at the same place, at an access of
what they share.
"""
KEPT = {
    "a register": f"mov rax, [G]; {STORE}; ret",
    "a vector register": f"movq xmm0, [G]; {STORE}; movq rax, xmm0; pxor xmm0, xmm0; ret",
    "an x87 register": (
        f"fild qword ptr [G]; {STORE}; sub rsp, 8; fistp qword ptr [rsp]; pop rax; ret"
    ),
    "the stack": f"push qword ptr [G]; {STORE}; pop rax; ret",
}
"""By where a call keeps what it loads while others come in between: a function that returns it."""
BRANCH = (
    "mov rsi, G; mov rcx, [rsi]; mov qword ptr [rsi], 7; jrcxz z; "
    "mov ecx, 0; cmp [rsi], ecx; mov eax, 7; jmp out; z: cmp [rsi], ecx; mov eax, 0; out: ret"
)
SHADOW = (
    "mov rsi, G; mov rcx, [rsi]; mov qword ptr [rsi], 7; mov eax, ss; jrcxz z; mov ecx, 0; "
    "mov ss, eax; z: mov edx, [rsi]; ret"
)
LOST = "mov rax, [G]; inc rax; mov [G], rax; mov eax, 0; cmp qword ptr [G], 0; ret"


@contextmanager
def sharing(pool, text, **fields):
    """Tasks that make calls of ``text``, which share memory, and no probe."""
    case = replace(probed(SharedFunction("f", text), 0, **fields), code=[("main", lambda k: None)])
    with closing(open_experiment(case, pool)) as system:
        yield system


def follow(system, schedule: str) -> int:
    """The name of the state that ``schedule`` leads to: ``0*3 c1``, actors with the number of
    choices that each makes.
    """
    system.reset()
    go_on(system, schedule)
    return system.key()


def go_on(system, schedule: str) -> None:
    for word in schedule.split():
        actor, _, times = word.partition("*")
        for _ in range(int(times or "1")):
            assert actor in actors(system), (schedule, word)
            system.take(actor_from(actor))


def actors(system) -> set[str]:
    return {str(choice.actor) for choice in system.choices()}


def oracle(system, kind):
    return next(one for one in system.judge.oracles if isinstance(one, kind))


def left(system) -> dict[int, tuple[int, ...]]:
    """Of each task, RAX of each call that it has ended."""
    rax = {
        call: {name: outcome[0][0] for name, outcome in known.items()}
        for call, known in system.orders.calls.items()
    }
    return {
        task: tuple(rax[task, n][name] for n, name in enumerate(names))
        for task, names in oracle(system, CallResults).left.items()
    }


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_a_call_has_loaded_is_part_of_a_state_wherever_it_keeps_it(pool, text):
    """vCPU 1 makes its call before vCPU 0 loads, or between that and the store."""
    with sharing(pool, text, cpus=2) as system:
        keys = []
        for schedule, loaded in (("1*3 0*2", 7), ("0 1*3 0", 0)):
            keys.append(follow(system, schedule))
            assert left(system) == {2: (0,)}
            go_on(system, "0")
            assert left(system) == {2: (0,), 0: (loaded,)}
    assert keys[0] != keys[1]


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_a_preempted_call_has_loaded_is_part_of_a_state_wherever_it_keeps_it(pool, text):
    """The other task makes a call before it loads, or between that and the store."""
    with sharing(pool, text, preempt=True, calls=2) as system:
        keys = []
        for schedule, loaded in (("0*3 s0 0*2 p0", 7), ("s0 0 p0 0*3 s0 0*2 p0", 0)):
            keys.append(follow(system, schedule))
            assert left(system) == {0: (0,)}
            go_on(system, "s0 0*2")
            assert left(system) == {0: (0,), 1: (loaded,)}
    assert keys[0] != keys[1]


def two_states(system, *ways: tuple[str, str]) -> list[object]:
    """Two ways, each a schedule and one behind it, lead to states of two names; returns where they
    lead to: what can be chosen there, what calls have left, and what has gone wrong.
    """
    keys, ends = [], []
    for schedule, behind in ways:
        keys.append(follow(system, schedule))
        go_on(system, behind)
        ends.append(
            (
                actors(system),
                left(system) if system.orders else {},
                system.violation and system.violation.kind,
            )
        )
    assert keys[0] != keys[1]
    return ends


@pytest.mark.parametrize(
    ("text", "fields", "ways", "told"),
    [
        pytest.param(
            BRANCH,
            {"cpus": 2},
            (("0*2 1*4 0", "0"), ("1*4 0*3", "0")),
            ({0: (0,), 2: (0,)}, {0: (7,), 2: (0,)}),
            id="where a call stands",
        ),
        pytest.param(
            BRANCH,
            {"preempt": True, "calls": 2},
            (("s0 0*2 p0 0*4 s0 0*2 p0", "s0 0*2"), ("0*4 s0 0*3 p0", "s0 0*2")),
            ({0: (0,), 1: (0,)}, {0: (0,), 1: (7,)}),
            id="where a preempted call goes on",
        ),
        pytest.param(
            BRANCH,
            {"preempt": True, "calls": 2, "resched": (BASE + 0x18, BASE + 0x21)},
            (("s0 0*2 p0 0*4 s0 0*2 s0", "0*4 s0 0"), ("0*4 s0 0*3 s0", "0*4 s0 0")),
            ({0: (0, 7), 1: (0,)}, {0: (0, 7), 1: (7,)}),
            id="where a call in schedule() goes on",
        ),
        pytest.param(
            KEPT["a register"],
            {"cpus": 2},
            (("1 0 1 0*2", "1"), ("1*2 0*3", "1")),
            ({0: (0,), 2: (0,)}, {0: (7,), 2: (0,)}),
            id="what a call has left",
        ),
    ],
)
def test_states_from_which_calls_leave_different_things_are_two(pool, text, fields, ways, told):
    with sharing(pool, text, **fields) as system:
        assert tuple(known for _, known, _ in two_states(system, *ways)) == told


def test_memory_is_part_of_a_state(pool):
    """An update is lost or not, and all else is the same."""
    with sharing(pool, LOST, cpus=2) as system:
        keys, ends = [], []
        for schedule in ("0 1*3 0", "1*3 0*2"):
            keys.append(follow(system, schedule))
            go_on(system, "0")
            ends.append((left(system), system.now.data.changed()))
    assert ends[0][0] == ends[1][0]
    assert ends[0][1] != ends[1][1]
    assert keys[0] != keys[1]


def test_the_shadow_of_mov_ss_is_part_of_a_state(pool):
    """One way jumps over it; behind it no interrupt comes."""
    with sharing(pool, SHADOW, cpus=2, reduce=False) as system:
        (one, *_), (other, *_) = two_states(system, ("0*3 1*9 0*3", ""), ("1*9 0*8", ""))
    assert one - other == {"i0"}


def nothing(k):
    """No probe."""


def in_and_out(k):
    p = k.kprobe("f", 1)
    k.register(p)
    k.unregister(p)


@contextmanager
def opened(pool, text, control=nothing, **fields):
    """Calls of ``text``, which share nothing, and the control task ``control``."""
    fields = {
        "calls": 1,
        "profile": LINUX_2010,
        "arguments": (parse_argument("5"),),
        "interrupts": False,
        "apart": False,
        **fields,
    }
    case = Experiment(image=asm_image(text), call="f", code=[("main", control)], tag="t", **fields)
    with closing(open_experiment(case, pool)) as system:
        yield system


BOOSTED = "nop; push rdi; pop rax; ret"


@pytest.mark.parametrize(
    ("control", "fields", "ways", "only"),
    [
        pytest.param(
            in_and_out, {"cpus": 2}, (("0 c0", ""), ("c0 0", "")), None, id="who went on last"
        ),
        pytest.param(
            in_and_out,
            {"interrupts": True},
            (("0 c0*2", "0"), ("0 c0*3", "0")),
            "i0",
            id="the control state",
        ),
        pytest.param(
            in_and_out, {}, (("0 c0*5 0", ""), ("c0*5 0*2", "")), None, id="whom a wait waits for"
        ),
        pytest.param(
            in_and_out, {}, (("c0", ""), ("0*3 c0", "")), "0", id="whether calls are made"
        ),
        pytest.param(
            in_and_out,
            {"calls": 2},
            (("0 c0", "0*2"), ("0*4 c0", "0*2")),
            "0",
            id="how many calls are made before the one under way",
        ),
        pytest.param(
            in_and_out,
            {"preempt": True, "interrupts": True},
            (("s0", ""), ("0*3 s0", "")),
            "p0",
            id="what the other task has left to do",
        ),
        pytest.param(
            in_and_out,
            {"nmis": True},
            (("0 c0*3 0 n0", "0*2 c0*2 0*7"), ("0 c0*3 0*2 n0", "0*2 c0*2 0*7")),
            None,
            id="the hit that an NMI has interrupted",
        ),
        pytest.param(
            in_and_out,
            {"interrupts": True},
            (("0 c0*3 0", "0*3"), ("0 c0*3 0*2", "0*3")),
            "i0",
            id="how far a hit has come",
        ),
    ],
)
def test_states_from_which_different_ones_can_go_on_are_two(pool, control, fields, ways, only):
    with opened(pool, BOOSTED, control, **fields) as system:
        (one, *_), (other, *_) = two_states(system, *ways)
        assert one ^ other == {only} if only else True
        costs = []
        for schedule, behind in ways:
            follow(system, schedule)
            go_on(system, behind)
            costs.append(sorted(system.choices()))
    assert costs[0] != costs[1]


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


def waits_for_tasks(k):
    k.core.plane.point("before")
    k.core.plane.synchronize_rcu_tasks("test")


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
PREEMPT = {"preempt": True, "interrupts": True}


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


# Who can go on where ------------------------------------------------------------------------------


def jumped(k):
    p = k.kprobe("f", 4)
    k.register(p)
    k.settle()
    k.unregister(p)
    k.settle()


def places(system, schedule: str) -> set[tuple[str, int]]:
    """From ``schedule`` on vCPU 0 alone goes on, to the end of its call: where it stops in buffers,
    as offsets into them.
    """
    follow(system, schedule)
    seen = set()
    while system.vcpus[0].mode is not Mode.DONE:
        system.take(actor_from("0"))
        rip = system.port.machine.cpus[0].rip
        if rip in system.port.text.buffers and "c0" in actors(system):
            kind = system.where(rip).split(" 0x")[0]
            seen.add(
                (
                    kind,
                    (
                        rip % 0x100
                        if kind == "slot"
                        else rip - next(start for start, _ in system.node.state.arch.watch_ranges())
                    ),
                )
            )
    return seen


def test_each_instruction_of_a_slot_is_a_choice_point(pool):
    with opened(pool, BOOSTED, in_and_out) as system:
        assert places(system, "c0*3") == {("slot", 0), ("slot", 1)}  # the copy, and the jump back


def test_the_copies_in_a_detour_buffer_are_choice_points_each(pool):
    text = "mov eax, edi; inc eax; lea ecx, [rax + rax*2]; add eax, ecx; ret"
    with opened(pool, text, jumped) as system:
        system.reset()
        while system.port.machine.text.store.read(system.node.version, BASE + 4, 1) != b"\xe9":
            system.take(actor_from(min(actors(system) - {"0"})))
        (op,) = system.node.state.core.kprobe_table.values()
        copied = op.optinsn.copied - op.optinsn.detour.addr
        seen = set()
        while system.vcpus[0].mode is not Mode.DONE:
            rip = system.port.machine.cpus[0].rip
            if rip in system.port.text.buffers:
                seen.add(rip - op.optinsn.detour.addr)
            system.take(actor_from("0"))
    assert {0, copied, copied + 3, copied + 5} <= seen  # its entry, two copies, and the jump back


def test_a_preempted_task_is_waited_for_and_in_flight(pool):
    """By synchronize_rcu_tasks(), and by who counts the writes that found somebody in flight."""
    with opened(pool, BOOSTED, waits_for_tasks, **PREEMPT, reduce=False) as system:
        follow(system, "c0 0*2 p0 c0")
        assert "c0" not in actors(system)
        go_on(system, "s0 0*5")
        assert (system.vcpus[0].mode, "c0" in actors(system)) == (Mode.DONE, True)
    with opened(pool, BOOSTED, in_and_out, **PREEMPT) as system:
        follow(system, "c0*3 0*6 p0")
        before = system.coverage.in_flight_at_write
        go_on(system, "c0*2")
        assert system.coverage.in_flight_at_write == before + 1


def test_traps_over_waits_for_a_trap_that_has_not_read_its_poke(pool):
    with opened(pool, BOOSTED, in_and_out, profile=LINUX_6_1) as system:
        follow(system, "c0*3 0*2")
        vcpu = system.vcpus[0]
        for phase in HitPhase:
            vcpu.hit = replace(vcpu.hit, phase=phase)
            system.waits.left = {0: (MachineWait(WaitKind.TRAPS, "test", 0), frozenset())}
            assert system.waits.over(0) is (phase is not HitPhase.POKE)


@pytest.mark.parametrize(
    ("text", "shares"),
    [("push rdi; pop rax; ret", False), ("mov rax, [G]; ret", False), ("mov [G], rdi; ret", True)],
)
def test_who_writes_where_others_read_shares(pool, text, shares):
    with sharing(pool, text, cpus=2) as system:
        assert system.shares is shares


# Control states -----------------------------------------------------------------------------------

FIRST, SECOND, LAST = BASE + 4, BASE + 9, BASE + 15
TWO = (
    "mov eax, edi; inc eax; lea ecx, [rax + rax*2]; add eax, ecx; mov edx, eax; mov esi, eax; "
    "mov edi, eax; ret"
)


def both(k):
    """Two probes that wait to be optimized; two more at the first one's address, and one on the
    last instruction, are not registered.
    """
    probes = [k.kprobe(None, addr=addr) for addr in (FIRST, SECOND, FIRST, FIRST, LAST)]
    for p in probes[:2]:
        k.register(p)


def aggregators(k):
    return [k.core.kprobe_table[addr] for addr in (FIRST, SECOND)]


def moved(k, n: int) -> None:
    """One of the aggregators comes to the head of its list."""
    op = aggregators(k)[n]
    k.core.optimizer.dequeue(op)
    k.core.optimizer.put(op, Queue.OPTIMIZING)


def ends(k, *operations, done: bool = True) -> None:
    """For the oracles these operations begin and end, of which the core knows nothing."""
    for numbers, effect in operations:
        k.ledger.begin("test", numbers, effect)
        k.ledger.end("test", done=done)


def begin(k, *locked: int) -> None:
    """For the oracles an operation on each of two probes is under way, and they have had the mutex
    in the order ``locked``.
    """
    for number in (0, 1):
        k.ledger.begin(f"on probe {number}", [number], Effect(disabled=True))
    for number in locked:
        k.ledger.locked(k.ledger.under_way[f"on probe {number}"])


def sets(one, name: str, value):
    return lambda k: setattr(one(k), name, value)


def elsewhere(op) -> None:
    """Its detour buffer is said to lie at another address."""
    op.optinsn = replace(
        op.optinsn, detour=replace(op.optinsn.detour, addr=op.optinsn.detour.addr + 16)
    )


def core(k):
    return k.core


def probe(k):
    return k.probes[0]


def aggregator(k):
    return aggregators(k)[0]


def optimizer(k):
    return k.core.optimizer


def schedules(k, name: str) -> None:
    k.core.plane.schedule_delayed_work(lambda: None, 0, name)


def fails(k) -> None:
    raise InputError("no")


def plain(k) -> None:
    """Nothing is done."""


ON, OFF = Effect(optimizing=True), Effect(optimizing=False)
REGISTERED = Effect(registered=True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            lambda k: k._text.write(BASE + 18, b"\x91", reason="a"),
            lambda k: k._text.write(BASE + 18, b"\x92", reason="b"),
            id="text",
        ),
        pytest.param(lambda k: k.core.kprobe_table.pop(FIRST), plain, id="the table"),
        pytest.param(
            lambda k: moved(k, 0), lambda k: moved(k, 1), id="the order of the optimizer's lists"
        ),
        pytest.param(
            lambda k: k.core.arming.waiting.update({FIRST: (k.probes[0], True)}),
            lambda k: k.core.arming.waiting.update({FIRST: (k.probes[0], False)}),
            id="what waits to be armed",
        ),
        pytest.param(
            lambda k: k.core.optprobes.alloc_aggr_kprobe(k.probes[4]),
            plain,
            id="how many aggregators there were",
        ),
        pytest.param(
            sets(core, "kprobes_allow_optimization", False),
            plain,
            id="whether optimization is allowed",
        ),
        pytest.param(
            sets(core, "kprobes_all_disarmed", True), plain, id="whether all are disarmed"
        ),
        pytest.param(sets(optimizer, "_pending", True), plain, id="whether a pass is due"),
        pytest.param(sets(optimizer, "_running", False), plain, id="whether a pass is under way"),
        pytest.param(sets(optimizer, "_completed", True), plain, id="whether a pass is over"),
        pytest.param(sets(probe, "flags", KprobeFlag.DISABLED), plain, id="a probe's flags"),
        pytest.param(sets(probe, "ainsn", None), plain, id="a probe's slot"),
        pytest.param(
            sets(probe, "post_handler", print), plain, id="whether a probe has a post_handler"
        ),
        pytest.param(
            lambda k: elsewhere(aggregators(k)[0]), plain, id="an aggregator's detour buffer"
        ),
        pytest.param(sets(aggregator, "children", []), plain, id="an aggregator's probes"),
        pytest.param(lambda k: k.core.arch.slots.get(), plain, id="which slots are free"),
        pytest.param(
            lambda k: k.core.arch.detours.get(), plain, id="which detour buffers are free"
        ),
        pytest.param(
            sets(lambda k: k.core.arch.poke, "_last", "another"), plain, id="a poke's descriptor"
        ),
        pytest.param(
            lambda k: ends(k, ([], OFF)),
            lambda k: ends(k, ([], ON)),
            id="what operations have left",
        ),
        pytest.param(
            lambda k: ends(k, ([0], Effect()), ([0], Effect()), done=False),
            lambda k: ends(k, ([0], Effect()), done=False),
            id="how many operations there were on a probe",
        ),
        pytest.param(
            lambda k: k.ledger.locked(Operation([0], REGISTERED, everything=False)),
            plain,
            id="how often a probe was registered",
        ),
        pytest.param(lambda k: k.ledger.jumped.add(0), plain, id="which probes had a jump"),
        pytest.param(
            lambda k: k.ledger.rearmed.add(FIRST),
            plain,
            id="where a breakpoint was written again over a jump",
        ),
        pytest.param(
            lambda k: k.ledger.copied_for_post.update({FIRST: True}),
            plain,
            id="whom a copy was made for",
        ),
        pytest.param(
            lambda k: begin(k, 0, 1),
            lambda k: begin(k, 1, 0),
            id="which operation had the mutex last",
        ),
        pytest.param(
            sets(lambda k: k, "broken", "a promise"), plain, id="a promise that was broken"
        ),
        pytest.param(
            lambda k: schedules(k, "one"),
            lambda k: schedules(k, "other"),
            id="the name of delayed work",
        ),
        pytest.param(
            lambda k: schedules(k, "kprobe_optimizer"), plain, id="that work was asked for again"
        ),
        pytest.param(
            lambda k: ends(k, ([2], REGISTERED), ([3], REGISTERED)),
            lambda k: ends(k, ([3], REGISTERED), ([2], REGISTERED)),
            id="which of two probes is older",
        ),
        pytest.param(fails, plain, id="what ended a task"),
    ],
)
def test_what_control_tasks_leave_is_part_of_a_control_state(pool, first, second):
    """Of two tasks the one that comes first does something, the other one nothing; afterwards both
    have ended.
    """

    def if_first(k, do) -> None:
        if not hasattr(k, "decided"):
            k.decided = True
            do(k)

    tasks = [
        ("main", both),
        ("a", lambda k: if_first(k, first)),
        ("b", lambda k: if_first(k, second)),
    ]
    case = Experiment(
        image=asm_image(TWO),
        call="f",
        calls=1,
        profile=LINUX_6_1,
        code=tasks,
        tag="t",
        restores=False,
        reduce=False,
        arguments=(parse_argument("5"),),
    )
    with closing(open_experiment(case, pool)) as system:
        names = []
        for order in ("c1", "c2"), ("c2", "c1"):
            system.reset()
            while "c0" in actors(system):
                system.take(actor_from("c0"))
            assert len(aggregators(system.node.state.control)) == 2
            system.take(actor_from("c3"))  # the optimizer's pass has begun, and has no lock yet
            for actor in order:
                while system.node.state.plane.tasks[int(actor[1])].steppable:
                    system.take(actor_from(actor))
            names.append(system.key())
    assert names[0] != names[1]


def test_the_rounds_of_a_loop_are_control_states_of_their_own(pool):
    """Nothing but how many operations the task has begun tells them apart."""

    def settles(k):
        for same in (k, k, k):
            same.settle()

    with opened(pool, BOOSTED, settles) as system:
        assert len({follow(system, f"c0*{steps}") for steps in range(1, 5)}) == 4
