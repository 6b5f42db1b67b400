"""Calls that share data: what they may leave is what they leave in some order without probes, and
every such order is found.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from arch_x86.explore.open_experiment import find_orders, open_experiment
from engine.core.ablation import without
from engine.core.profiles import LINUX_2010, NEXT
from engine.errors import InputError
from engine.patching.oracles.call_results import CallResults
from engine.patching.oracles.kept_memory import KeptMemory
from engine.patching.orders import Orders
from engine.patching.probe_life import life_of_probes
from engine.patching.search_options import Search
from engine.patching.shared_access import Access, Accesses
from engine.search.conduct import explore
from engine.search.exhaustive import Exhaustive
from engine.search.explorable import ViolationKind
from engine.syntax.kprobe_events import parse_spec
from tests.explore.experiments import check
from tests.explore.shared_functions import (
    BY_NAME,
    CODE_AT,
    DATA_AT,
    FUNCTIONS,
    WAYS,
    SharedFunction,
    is_right,
    probed,
    results,
)

SPLIT = "load-add-store"
COUNTER = SharedFunction(
    "shared-counter", "add edi, dword ptr [G]; mov eax, edi; mov dword ptr [G], edi; ret"
)
"""What gcc -O2 makes of: int g; int f(int x) { g += x; return g; }"""


def kinds(result) -> set[ViolationKind]:
    return {report.violation.kind for report in result.violations}


def numbers(orders) -> set[tuple[tuple[int, ...], ...]]:
    """Of each ending, RAX of each call of each task."""
    rax = {
        call: {name: outcome[0][0] for name, outcome in known.items()}
        for call, known in orders.calls.items()
    }
    return {
        tuple(
            tuple(rax[task, n][name] for n, name in enumerate(names))
            for task, names in ending.calls
        )
        for ending in orders.endings
    }


# The orders of unprobed calls ---------------------------------------------------------------------


def test_two_calls_that_load_add_and_store_leave_either_sum_or_lose_an_update(pool):
    orders = find_orders(probed(BY_NAME[SPLIT], 0, cpus=2), pool)
    assert numbers(orders) == {((3,), (6,)), ((6,), (3,)), ((3,), (3,))}
    assert len(orders.endings) == 3
    assert orders.points == {CODE_AT, CODE_AT + 11}  # the load and the store


def test_two_calls_that_add_in_one_instruction_lose_no_update(pool):
    assert numbers(find_orders(probed(BY_NAME["lock-xadd"], 0, cpus=2), pool)) == {
        ((3,), (6,)),
        ((6,), (3,)),
    }


def test_calls_of_one_task_have_one_order_and_no_choice_point(pool):
    orders = find_orders(probed(BY_NAME[SPLIT], 0, calls=3), pool)
    assert (numbers(orders), orders.points) == ({((3, 6, 9),)}, frozenset())


def test_a_task_that_is_preempted_comes_between_the_load_and_the_store(pool):
    assert ((3,), (3,)) in numbers(find_orders(probed(BY_NAME[SPLIT], 0, preempt=True), pool))


def test_a_task_is_preempted_in_front_of_what_clears_if_too(pool):
    """Behind it, where the calls meet, it can't be any more."""
    text = (
        "lock inc dword ptr [G]; nop; cli; mov eax, dword ptr [G]; inc eax; "
        "mov dword ptr [G], eax; sti; nop; ret"
    )
    for code, met in (
        (text, True),
        (text.replace("nop; cli", "cli; nop"), True),
        ("cli;" + text.replace("cli;", ""), False),
    ):
        assert (
            ((4,), (3,))
            in numbers(find_orders(probed(SharedFunction("f", code), 0, preempt=True), pool))
        ) is met, code


def test_accesses_that_only_some_orders_make_are_choice_points_too(pool):
    """One call after the other, none finds the flag set, so none stores behind the label; the calls
    meet there all the same.
    """
    text = (
        "mov eax, dword ptr [G]; inc dword ptr [G]; test eax, eax; mov ecx, dword ptr [G + 4]; "
        "jne out; "
    )
    text += (
        "mov dword ptr [G + 4], 1; nop; mov dword ptr [G + 4], 0; test ecx, ecx; je out; "
        "rare: inc dword ptr [G + 8]; out: ret"
    )
    function = SharedFunction("f", text)
    reduced, all_of_them = (
        find_orders(probed(function, 0, cpus=2, reduce=reduce), pool) for reduce in (True, False)
    )
    rare = CODE_AT + len(function.image.segments[0].data) - 7
    assert rare in reduced.points
    assert {*reduced.endings} == {*all_of_them.endings}


def test_a_stack_that_another_task_stores_to_is_shared(pool):
    """The first call leaves the address of its stack, where the other one stores while it is under
    way.
    """
    text = (
        "mov dword ptr [rsp - 8], 1; mov rax, qword ptr [G]; mov rcx, rax; lea rax, [rsp - 8]; "
        "mov qword ptr [G], rax; test rcx, rcx; je own; "
    )
    text += "mov dword ptr [rcx], 2; own: nop; mov eax, dword ptr [rsp - 8]; ret"
    case = probed(SharedFunction("f", text), 0, cpus=2)
    # What code keeps below RSP is lost without a red zone.
    case = replace(case, image=replace(case.image, red_zone=True))
    reduced, all_of_them = (
        find_orders(replace(case, reduce=reduce), pool) for reduce in (True, False)
    )
    assert {*reduced.endings} == {*all_of_them.endings}
    assert ((2,), (1,)) in numbers(reduced)
    assert reduced.on_stacks


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name", ["add-32", SPLIT, "swap", "list-push", "try-lock", "append-byte", "copy-in"]
)
def test_the_orders_at_choice_points_end_as_those_at_every_instruction_do(pool, name, way):
    case = probed(BY_NAME[name], 0, **WAYS[way])
    reduced, all_of_them = find_orders(case, pool), find_orders(replace(case, reduce=False), pool)
    assert {*reduced.endings} == {*all_of_them.endings}
    assert reduced.schedules < all_of_them.schedules


def test_a_call_that_dies_in_some_orders_may_die_with_a_probe(pool):
    """Both find the list's only node, and the second to take it follows no pointer."""
    text = (
        "mov rax, qword ptr [G]; test rax, rax; je out; mov rcx, qword ptr [rax + 8]; "
        "mov qword ptr [rax + 8], 0; "
    )
    text += "mov eax, dword ptr [rcx]; out: mov qword ptr [G], 0; ret"
    case = probed(SharedFunction("f", text, "3", (DATA_AT + 16, 0, 0, DATA_AT + 32)), 0, cpus=2)
    orders = find_orders(case, pool)
    died = {outcome[4] for known in orders.calls.values() for outcome in known.values()}
    assert len(died) == 2
    assert None in died
    result = check(case, Search(preemptions=1), pool=pool)
    assert (kinds(result), result.outcome.exhaustive) == (set(), True)


def test_too_many_orders_are_refused_in_one_line(pool):
    with pytest.raises(
        InputError,
        match=(
            r"^the calls share data in too many orders \(more than 10 schedules .*; use fewer calls"
            r" or vCPUs"
        ),
    ):
        find_orders(probed(BY_NAME["fill"], 0, cpus=2), pool, most=10)


def test_nmis_that_make_calls_that_share_data_are_refused_in_one_line(pool):
    with pytest.raises(InputError, match="its calls share data, and NMIs make more of them"):
        open_experiment(probed(BY_NAME[SPLIT], 0, nmis=True), pool)


def test_instructions_meet_where_one_task_stores_what_another_one_uses():
    accesses = Accesses()
    for access in (
        (0, 1, 100, 4, False),
        (1, 2, 100, 4, False),
        (0, 3, 104, 4, True),
        (0, 4, 104, 4, False),
        (0, 5, 108, 4, True),
    ):
        assert accesses.add(Access(*access))
    assert accesses.meeting_points() == set()  # loads only; one task only
    assert accesses.add(Access(1, 6, 111, 2, False))
    assert not accesses.add(Access(1, 6, 111, 2, False))
    assert accesses.meeting_points() == {5, 6}
    assert {byte for span in accesses.written() for byte in span} == set(range(104, 112))
    assert accesses.tasks_in(range(100, 104)) == {0, 1}
    assert accesses.tasks_in(range(112, 200)) == {1}


# With probes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"cpus": 2, "calls": 2}, {"preempt": True, "calls": 2}],
    ids=["two vCPUs", "preemption"],
)
def test_a_shared_counter_is_safe(pool, fields):
    profile = without(
        NEXT if "preempt" in fields else LINUX_2010, frozenset(), preempt="preempt" in fields
    )
    case = replace(
        probed(COUNTER, 0, profile=profile, **fields),
        code=[("main", life_of_probes([parse_spec("f")]))],
    )
    result = check(case, Search(preemptions=0), pool=pool)
    assert (result.verdict, result.outcome.exhaustive) == ("safe", True)


@pytest.mark.parametrize(
    "name",
    [
        "add-32",
        "list-push-cmpxchg",
        pytest.param("rand", marks=pytest.mark.slow),
        "try-ticket-lock",
    ],
)
def test_a_function_that_shares_data_is_safe_and_a_hit_that_is_lost_there_is_found(pool, name):
    for way, result in results(BY_NAME[name], pool, 0).items():
        assert is_right(way, result), (way, result.violations)


@pytest.mark.parametrize("offset", [0, 5, 16], ids=["elsewhere", "at the load", "at the store"])
def test_with_a_probe_calls_end_in_each_way_that_they_do_without(pool, monkeypatch, offset):
    """Wherever the probe is, and whichever way its hit goes, they can come between the load and the
    store.
    """
    seen = set()

    def check_end(self, left, memory, *rest, real=Orders.check_end):
        seen.add((tuple(sorted(left.items())), tuple(sorted(memory.items()))))
        return real(self, left, memory, *rest)

    monkeypatch.setattr(Orders, "check_end", check_end)
    function = SharedFunction("f", f"mov ecx, 1; {BY_NAME[SPLIT].text}")
    with closing(open_experiment(probed(function, offset, cpus=2), pool)) as system:
        explore(Exhaustive(bound=1), system)
        assert seen == {*system.orders.endings}


def meddles(change):
    """A probe whose handler changes the registers."""

    def life(k):
        def handler(_p, regs):
            k._log.hit(0, regs)
            change(regs)

        p = k.kprobe("f")
        p.pre_handler = handler
        k.register(p)
        k.unregister(p)

    return life


def test_a_result_that_no_order_of_unprobed_calls_leaves_is_wrong(pool):
    def change(regs):
        regs.di += 1

    case = replace(probed(BY_NAME[SPLIT], 0, cpus=2), code=[("main", meddles(change))])
    (report,) = check(case, Search(preemptions=0), pool=pool).violations
    assert report.violation.kind is ViolationKind.WRONG_RESULT
    assert (
        report.violation.explain
        == "call 1 of CPU 0 left rax = 0x4, without probes 0x3; no order of unprobed calls leaves"
        " that"
    )


def test_results_that_each_belong_to_some_order_but_not_to_the_same_one_are_wrong(pool):
    """Each call finds 0 in some order, and so it may; not both."""
    text = "mov eax, edi; lock xadd dword ptr [G], eax; xor edi, edi; ret"

    def change(regs):
        regs.di = 0

    case = replace(probed(SharedFunction("f", text), 0, cpus=2), code=[("main", meddles(change))])
    (report,) = check(case, Search(preemptions=0), pool=pool).violations
    assert (report.violation.kind, report.violation.cpu) == (ViolationKind.WRONG_RESULT, None)
    assert report.violation.explain.startswith("no order of unprobed calls ends like this: ")


def test_shared_memory_that_is_wrong_at_the_end_is_named(pool):
    def change(regs):
        regs.cx = 9

    text = "mov eax, edi; mov dword ptr [G + 4], ecx; xor ecx, ecx; ret"
    case = replace(probed(SharedFunction("f", text), 0, cpus=2), code=[("main", meddles(change))])
    (report,) = check(case, Search(preemptions=0), pool=pool).violations
    assert (
        report.violation.explain
        == "no order of unprobed calls ends like this: the byte at shared+0x4 holds 0x09, and 0x00"
        " in the order of unprobed calls that comes nearest"
    )


def test_memory_that_no_unprobed_call_writes_has_to_stay_as_it_was(pool):
    def writes(k):
        k.register(k.kprobe("f"))
        k.unregister(k.probes[0])

    with closing(
        open_experiment(replace(probed(BY_NAME[SPLIT], 0, cpus=2), code=[("main", writes)]), pool)
    ) as system:
        (memory,) = (one for one in system.judge.oracles if isinstance(one, KeptMemory))
        assert memory.schedule_ended([]) is None
        system.port.machine.ram.write(DATA_AT, b"\5")
        assert memory.schedule_ended([]) is None
        system.port.machine.ram.write(DATA_AT + 100, b"\5")
        assert memory.schedule_ended([]) is not None


def test_what_calls_have_left_is_part_of_a_state(pool):
    """Two states that are alike but for that: the verdict at the end is not the same."""
    with closing(open_experiment(probed(BY_NAME["swap"], 0, cpus=2), pool)) as system:
        keys = set()
        (results,) = (one for one in system.judge.oracles if isinstance(one, CallResults))
        for left in ({}, {0: (b"a",)}, {0: (b"b",)}, {2: (b"a",)}):
            system.reset()
            results.left = left
            keys.add(system.key())
    assert len(keys) == 4


def test_the_answer_does_not_depend_on_the_number_of_processes(pool):
    case = probed(BY_NAME["list-pop"], 0, cpus=2)
    one, two = (
        check(case, Search(preemptions=0, jobs=jobs), pool=pool).to_json() for jobs in (1, 2)
    )
    assert one == two


def test_the_campaign_has_forty_functions():
    assert len(FUNCTIONS) >= 40
