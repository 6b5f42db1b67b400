"""What a control task does next is decided by all that it holds, and states that differ in any of it are two."""

from __future__ import annotations

from contextlib import closing
from random import Random

import pytest

from arch_x86.explore.case import Case, open_case
from arch_x86.explore.check import Search, check
from arch_x86.explore.scenarios import history, life
from engine.errors import InputError
from engine.profile import LINUX_2010
from engine.steps import without
from tests.conftest import asm_image


def small(code) -> Case:
    return Case(image=asm_image("nop; ret"), call="f", calls=1, profile=LINUX_2010, code=code, tag="t", interrupts=False)


def rounds_of(pool, main) -> list[int]:
    """The numbers that ``main(k, tell)`` has told."""
    seen: list[int] = []
    result = check(small([("main", lambda k: main(k, seen.append))]), Search(preemptions=0), pool=pool)
    assert (result.violations, result.outcome.exhaustive) == ([], True)
    return sorted(set(seen))


def loop(k, tell):
    for on in (False, True, False, True):
        k.optimization(on=on)
    tell(4)


def iterator(k, tell):
    rest = iter((False, True, False, True))
    while (on := next(rest, None)) is not None:
        k.optimization(on=on)
    tell(4)


def generator(k, tell):
    def turns():
        yield from (False, True) * 2

    for on in turns():
        k.optimization(on=on)
    tell(4)


def closure(k, tell):
    left = 4

    def turn():
        nonlocal left
        left -= 1
        k.optimization(on=left % 2 == 0)
        return left

    while turn():
        pass
    tell(4)


class Turns:
    def __init__(self) -> None:
        self.left = 4


def an_object(k, tell):
    turns = Turns()
    while turns.left:
        turns.left -= 1
        k.optimization(on=turns.left % 2 == 0)
    tell(4)


def random_numbers(k, tell):
    random = Random(7)
    for _ in range(4):
        k.optimization(on=random.random() < 0.5)
    tell(4)


@pytest.mark.parametrize("main", [loop, iterator, generator, closure, an_object, random_numbers], ids=lambda main: main.__name__)
def test_a_control_task_that_does_the_same_in_several_rounds_comes_to_its_end(pool, main):
    """Optimization off, on, off, on: each third state is like one before, but for how many rounds are left."""
    assert rounds_of(pool, main) == [4]


def test_a_loop_is_explored_as_far_as_what_it_stands_for(pool):
    def looped(k):
        for on in (False, True, False, True):
            k.optimization(on=on)

    def unrolled(k):
        k.optimization(on=False)
        k.optimization(on=True)
        k.optimization(on=False)
        k.optimization(on=True)

    counts = {check(small([("main", main)]), Search(preemptions=1), pool=pool).outcome.schedules for main in (looped, unrolled)}
    assert len(counts) == 1


def test_what_can_not_be_told_apart_is_refused_by_the_name_of_its_variable(pool):
    def keeps_a_file(k):
        log = open(__file__, encoding="utf-8")  # noqa: SIM115
        k.optimization(on=False)
        log.close()

    with pytest.raises(InputError, match="control task main: the variable log holds a TextIOWrapper"):
        check(small([("main", keeps_a_file)]), Search(preemptions=0), pool=pool)


def test_what_a_scenarios_function_keeps_is_made_anew_for_each_control_state(pool):
    def tasks():
        done: list[str] = []

        def first(k):
            done.append("first")
            k.optimization(on=False)

        def second(k):
            while not done:
                k.settle()
            done.append("second")
            assert done.count("first") == 1

        return [("first", first), ("second", second)]

    assert not check(small(tasks), Search(preemptions=0, max_schedules=50), pool=pool).violations


@pytest.mark.parametrize("settled", [False, True], ids=["the first pass is to come", "a pass has ended"])
def test_optimization_off_of_2010_waits_for_ever_before_its_first_pass_only(pool, settled):
    def main(k):
        p = k.kprobe("work", 4)
        k.register(p)
        if settled:
            k.settle()
        k.optimization(on=False)
        k.unregister(p)
        k.settle()

    case = history.sysctl_deadlock.case(without(LINUX_2010, frozenset({"sysctl-deadlock"})))
    result = check(Case(**{**_fields(case), "code": [("main", main)], "interrupts": False}), Search(preemptions=0), pool=pool)
    assert [report.violation.kind.value for report in result.violations] == ([] if settled else ["deadlock"])


def _fields(case: Case) -> dict[str, object]:
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}


def test_interrupts_and_core_syncs_come_in_handlers_behind_a_jump(pool):
    """They run with preemption off and IF as the interrupted code has it; behind a breakpoint IF is clear."""
    seen: dict[str, set[bool]] = {"INT3": set(), "OPTIMIZED": set()}
    with closing(open_case(life.optimize.case(LINUX_2010), pool)) as system:
        for jump in (False, True):
            system.reset()
            while not (system.node.world.core.optimizer.idle and system.node.lives) or (jump and not _has_jump(system)):
                system.take(system.choices()[0].actor)
            while system.lanes[0].calls == 0 or system.lanes[0].mode.name == "CALL":
                hit = system.lanes[0].hit
                if hit is not None:
                    actors = {choice.actor for choice in system.choices()}
                    seen[hit.kind.name].add("i0" in actors)
                    assert ("i0" in actors) is system._takes_interrupt(0)
                system.take("0")
    assert seen["OPTIMIZED"] == {True}
    assert seen["INT3"] <= {False}


def _has_jump(system) -> bool:
    site = next(iter(system.torn.sites))
    return system.machine.text.store.read(system.node.version, site, 1) == b"\xe9"
