"""A protocol that suspends all tasks and moves those inside the bytes, and its known faults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_x86.explore.x86_setup import X86Setup
from arch_x86.images.asmtext import load_asm
from engine.errors import InputError
from engine.patching.check_result import CheckResult
from engine.patching.make_experiment import experiment_of_patch
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.patching.search_options import Search
from engine.patching.verdict import check
from tests.explore.laws import outcomes

HOOK = """
hook:
copy:
 push rbx
 mov ebx, edi
 add ebx, 1
 jmp rest
.skip 70000, 0xcc
f:
 push rbx
 mov ebx, edi
 add ebx, 1
rest:
 lea eax,[rbx+1]
 pop rbx
 ret
"""
INSIDE = ("f+0x1:copy+0x1", "f+0x3:copy+0x3")


def experiment(
    pool, *, moves=INSIDE, without=(), back=False, lock=None, protocol="freeze_and_move", **fields
):
    """Put a jump to a copy over the first three instructions of ``f``."""
    request = Request(image=load_asm(HOOK, "hook"), call="f", arguments=("5",), calls=1, **fields)
    spec = PatchSpec(
        sites=("f",),
        codes=("jmp:hook",),
        moves=moves,
        lock=lock,
        back=back,
        protocol=protocol,
        without=without,
    )
    return experiment_of_patch(request, spec, X86Setup(pool))


def explored(pool, *, bound=2, **fields):
    """Explore that, and return the result."""
    return check(experiment(pool, **fields), Search(preemptions=bound), X86Setup(pool))


def told(result: CheckResult) -> str:
    return result.violations[0].violation.explain


@pytest.mark.parametrize("preempt", [False, True])
def test_both_directions_are_safe_for_running_and_preempted_tasks(pool, preempt):
    result = explored(pool, back=True, preempt=preempt)
    assert result.verdict == "safe"
    assert result.coverage.parked_in_range


@pytest.mark.parametrize("model", ["stale", "torn"])
def test_a_suspended_task_fetches_the_new_bytes_when_it_goes_on(pool, model):
    assert explored(pool, fetch=model, back=True, preempt=True, bound=1).verdict == "safe"


@pytest.mark.parametrize("preempt", [False, True])
def test_a_task_inside_the_bytes_that_is_not_moved_is_found(pool, preempt):
    result = explored(pool, without=("move",), preempt=preempt)
    assert "a task inside the bytes" in told(result)
    assert result.violations[0].schedule.choices <= 8


def test_a_task_that_is_moved_to_the_wrong_place_leaves_a_wrong_result(pool):
    result = explored(pool, moves=("f+0x1:copy+0x3", "f+0x3:copy+0x3"))
    assert told(result).startswith("call 1 of CPU 0 left")


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_new_task_during_the_freeze_executes_torn_bytes(pool, cpus):
    result = explored(pool, without=("new-tasks",), cpus=cpus, bound=1)
    assert "neither in the old code nor in the new" in told(result)
    assert result.violations[0].schedule.choices <= 8


def test_a_suspended_task_that_holds_the_allocators_lock_is_a_deadlock(pool):
    lock = "f+0x6..f+0xa"
    result = explored(pool, without=("allocate-first",), lock=lock)
    assert result.violations[0].violation.kind == "deadlock"
    assert result.violations[0].schedule.choices <= 8
    assert explored(pool, lock=lock, back=True).verdict == "safe"


@pytest.mark.parametrize("without", [(), ("move",), ("new-tasks",)], ids=str)
def test_a_reduced_search_has_the_outcomes_of_the_unreduced_one(pool, without):
    case = replace(experiment(pool, without=without, preempt=True), interrupts=False)
    found = outcomes(case, pool, bound=1, reduce=True)
    assert found == outcomes(case, pool, bound=1, reduce=False)


def test_moves_are_refused_where_the_protocol_suspends_no_task(pool):
    with pytest.raises(InputError, match="--move: this protocol suspends no task"):
        explored(pool, protocol="text_poke_bp")
    assert explored(pool, protocol="text_poke_bp", moves=()).verdict == "violation"
