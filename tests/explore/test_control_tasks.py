"""What a control task does next is decided by all that it holds, and states that differ in any of
it are two.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from random import Random
from threading import Lock, Thread

import pytest
from greenlet import greenlet

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import history, life
from engine.core.ablation import without
from engine.core.profiles import LINUX_2010
from engine.errors import InputError
from engine.patching.experiment import Experiment
from engine.patching.search_options import Search
from engine.search.actor import actor_from
from tests.conftest import asm_image
from tests.explore.experiments import check, experiment_of


def small(code) -> Experiment:
    return Experiment(
        image=asm_image("nop; ret"),
        call="f",
        calls=1,
        profile=LINUX_2010,
        code=code,
        tag="t",
        interrupts=False,
    )


def rounds_of(pool, main) -> list[int]:
    """The numbers that ``main(k, tell)`` has told."""
    seen: list[int] = []
    result = check(
        small([("main", lambda k: main(k, seen.append))]), Search(preemptions=0), pool=pool
    )
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


def map_of_calls(k, tell):
    def turn(on):
        k.optimization(on=on)

    list(map(turn, (False, True, False, True)))
    tell(4)


def method_of_a_list(k, tell):
    turn = [True, False, True, False].pop
    while True:
        try:
            k.optimization(on=turn())
        except IndexError:
            break
    tell(4)


def generator_that_loops(k, tell):
    def turns():
        for on in (False, True, False, True):  # noqa: UP028
            yield on

    rest = turns()
    while (on := next(rest, None)) is not None:
        k.optimization(on=on)
    tell(4)


def generator_of_a_generator(k, tell):
    def turns():
        yield from (on for on in (False, True, False, True))

    rest = turns()
    while (on := next(rest, None)) is not None:
        k.optimization(on=on)
    tell(4)


def attribute_of_a_class(k, tell):
    class Turns:
        left = 4

    while Turns.left:
        Turns.left -= 1
        k.optimization(on=Turns.left % 2 == 0)
    tell(4)


def attribute_of_a_function(k, tell):
    def turn():
        turn.left -= 1
        k.optimization(on=turn.left % 2 == 0)
        return turn.left

    turn.left = 4
    while turn():
        pass
    tell(4)


def keyword_with_a_default(k, tell):
    left = 4
    while left:

        def turns(*, left=left):
            return left - 1

        left = 1
        k.optimization(on=turns() % 2 == 0)
        left = turns()
    tell(4)


def attribute_beside_the_fields(k, tell):
    @dataclass
    class Turns:
        on: bool = True

    turns = Turns()
    turns.left = 4
    while turns.left:
        turns.left -= 1
        k.optimization(on=turns.left % 2 == 0)
    tell(4)


def functions_of_one_line(k, tell):
    third, second, first = (lambda: None), (lambda: third), (lambda: second)
    turn = first
    while turn is not None:
        k.optimization(on=turn is second)
        turn = turn()
    tell(4)


ROUNDS = [
    loop,
    iterator,
    generator,
    closure,
    an_object,
    random_numbers,
    map_of_calls,
    method_of_a_list,
    generator_that_loops,
    generator_of_a_generator,
    attribute_of_a_class,
    attribute_of_a_function,
    keyword_with_a_default,
    attribute_beside_the_fields,
    functions_of_one_line,
]


@pytest.mark.parametrize("main", ROUNDS, ids=lambda main: main.__name__)
def test_a_control_task_that_does_the_same_in_several_rounds_comes_to_its_end(pool, main):
    """Optimization off, on, off, on: each third state is like one before, but for how many rounds
    are left.
    """
    assert rounds_of(pool, main) == [4]


def test_an_error_that_is_still_to_be_raised_is_part_of_a_control_state(pool):
    """In a ``finally`` block nothing but what operations have answered tells whether there is
    one.
    """

    def fails(k):
        p = k.probes[0]
        try:
            k.disable(p)
        finally:
            k.settle()

    def tasks():
        def enables(k):
            k.register(p := k.kprobe("f", number=0))
            k.disable(p)

        return [("fails", fails), ("enables", enables)]

    names = set()
    for order in ("c0", "c1"), ("c1", "c0"):
        with closing(
            open_experiment(replace(small(tasks), restores=False, reduce=False), pool)
        ) as system:
            system.take(actor_from("c1"))  # there is a probe
            for actor in order:
                task = system.node.state.plane.tasks[int(actor[1])]
                while not task.done and "settle" not in str(
                    task.body and task.body.gr_frame.f_back
                ):
                    system.take(actor_from(actor))
                    task = system.node.state.plane.tasks[int(actor[1])]
            names.add(system.node.name)
    assert len(names) == 2


def test_a_control_task_that_never_ends_is_refused_whatever_states_it_comes_back_to(pool):
    """First come, first served, both tasks end."""

    def tasks():
        said: list[int] = []

        def waits(k):
            while said:
                k.settle()

        return [("waits", waits), ("says", lambda k: said.append(1))]

    with pytest.raises(
        InputError,
        match="control task waits: the control tasks have made 1,500 steps in one schedule",
    ):
        check(small(tasks), Search(preemptions=0), pool=pool)


def test_a_function_that_names_what_is_not_there_yet_can_be_held(pool):
    def main(k):
        def first():
            return second()

        k.optimization(on=False)

        def second():
            return 1

        assert first() == 1

    assert not check(small([("main", main)]), Search(preemptions=0), pool=pool).violations


def test_a_probe_that_two_tasks_register_at_once_is_a_violation_in_plain_words(pool):
    def tasks():
        def main(k):
            k.register(k.probes[0] if k.probes else k.kprobe("f"))

        return [("one", main), ("other", main)]

    result = check(replace(small(tasks), restores=False), Search(preemptions=0), pool=pool)
    assert [report.violation.kind.value for report in result.violations] == ["invariant"]
    assert (
        "another control task is registering it now, and no kernel bears that"
        in result.violations[0].violation.explain
    )


def leaves(k):
    raise SystemExit(3)


def does_nothing(k):
    yield k.settle()


def in_a_greenlet(k):
    greenlet(k.settle).switch()


def in_a_thread(k):
    thread = Thread(target=lambda: suppressed(k.settle))
    thread.start()
    thread.join()


def suppressed(operation):
    with suppress(InputError):
        operation()


def keeps_a_lock(k):
    k.core.kprobe_mutex.acquire("test")


def numbers_alike(k):
    k.kprobe("f", number=1)
    k.kprobe("f", number=1)


def numbers_below_none(k):
    k.kprobe("f", number=-1)


def without_a_function(k):
    k.module_going("g")


ODD = {
    leaves: "control task main: SystemExit: 3",
    does_nothing: "control task main: its function is a generator",
    in_a_greenlet: "control task main: an operation in a thread or greenlet of its own",
    in_a_thread: "control task main: an operation in a thread or greenlet of its own",
    keeps_a_lock: "main ends with kprobe_mutex held",
    numbers_alike: "number=1: another probe has that number already",
    numbers_below_none: "number=-1: a number is 0 to 9999",
    without_a_function: "no function g; there is f",
}


@pytest.mark.parametrize("main", ODD, ids=lambda main: main.__name__)
def test_what_is_wrong_with_a_control_task_is_said(pool, main):
    result = check(small([("main", main)]), Search(preemptions=0), pool=pool)
    assert [report.violation.kind.value for report in result.violations] == ["invariant"]
    assert ODD[main] in result.violations[0].violation.explain


def test_two_control_tasks_of_one_name_are_refused(pool):
    with pytest.raises(InputError, match="control task main: there are two of this name"):
        check(small([("main", leaves), ("main", leaves)]), Search(preemptions=0), pool=pool)


def test_what_a_scenarios_function_keeps_is_refused_by_its_name_too(pool):
    lock = Lock()

    def main(k):
        with lock:
            k.settle()

    with pytest.raises(InputError, match="control task main: the variable lock holds a lock"):
        check(small([("main", main)]), Search(preemptions=0), pool=pool)


def test_an_error_of_delayed_work_is_a_violation(pool, monkeypatch):
    monkeypatch.setattr("engine.core.optimizer.Optimizer.run_pass", lambda self: self.none)
    image = asm_image("lea eax, [rdi + rdi]; lea ecx, [rax + 1]; ret")
    case = replace(
        small([("main", lambda k: k.register(k.kprobe("f")))]), image=image, restores=False
    )
    result = check(case, Search(preemptions=0), pool=pool)
    assert "kprobe_optimizer: AttributeError" in result.violations[0].violation.explain


def test_a_loop_is_explored_as_far_as_what_it_stands_for(pool):
    def looped(k):
        for on in (False, True, False, True):
            k.optimization(on=on)

    def unrolled(k):
        k.optimization(on=False)
        k.optimization(on=True)
        k.optimization(on=False)
        k.optimization(on=True)

    counts = {
        check(small([("main", main)]), Search(preemptions=1), pool=pool).outcome.schedules
        for main in (looped, unrolled)
    }
    assert len(counts) == 1


def test_what_can_not_be_told_apart_is_refused_by_the_name_of_its_variable(pool):
    def keeps_a_file(k):
        log = open(__file__, encoding="utf-8")  # noqa: SIM115
        k.optimization(on=False)
        log.close()

    with pytest.raises(
        InputError, match="control task main: the variable log holds a TextIOWrapper"
    ):
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


@pytest.mark.parametrize(
    "settled", [False, True], ids=["the first pass is to come", "a pass has ended"]
)
def test_optimization_off_of_2010_waits_for_ever_before_its_first_pass_only(pool, settled):
    def main(k):
        p = k.kprobe("work", 4)
        k.register(p)
        if settled:
            k.settle()
        k.optimization(on=False)
        k.unregister(p)
        k.settle()

    case = experiment_of(
        history.sysctl_deadlock, without(LINUX_2010, frozenset({"sysctl-deadlock"}))
    )
    result = check(
        Experiment(**{**_fields(case), "code": [("main", main)], "interrupts": False}),
        Search(preemptions=0),
        pool=pool,
    )
    assert [report.violation.kind.value for report in result.violations] == (
        [] if settled else ["deadlock"]
    )


def _fields(case: Experiment) -> dict[str, object]:
    return {name: getattr(case, name) for name in Experiment.__dataclass_fields__}


def test_interrupts_and_core_syncs_come_in_handlers_behind_a_jump(pool):
    """They run with preemption off and IF as the interrupted code has it; behind a breakpoint IF is
    clear.
    """
    seen: dict[str, set[bool]] = {"INT3": set(), "OPTIMIZED": set()}
    with closing(open_experiment(experiment_of(life.optimize, LINUX_2010), pool)) as system:
        for jump in (False, True):
            system.reset()
            while not (system.node.state.core.optimizer.idle and system.node.lives) or (
                jump and not _has_jump(system)
            ):
                system.take(system.choices()[0].actor)
            while system.vcpus[0].calls == 0 or system.vcpus[0].mode.name == "CALL":
                hit = system.vcpus[0].hit
                if hit is not None:
                    actors = {str(choice.actor) for choice in system.choices()}
                    seen[hit.kind.name].add("i0" in actors)
                    assert ("i0" in actors) is system.boundaries.takes_interrupt(0)
                system.take(actor_from("0"))
    assert seen["OPTIMIZED"] == {True}
    assert seen["INT3"] <= {False}


def _has_jump(system) -> bool:
    site = next(iter(system.now.sites))
    return system.port.machine.text.store.read(system.node.version, site, 1) == b"\xe9"
