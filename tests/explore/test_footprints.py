"""Footprints: two adjacent steps whose footprints do not meet lead to the same state in either
order. The pairs are from random schedules of real explorations, unreduced.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import permutations, product
from random import Random

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT
from engine.patching.footprints import DataKind
from engine.patching.oracles.oracle import Oracle
from engine.search.actor import ActorKind
from engine.search.footprint import EVERYTHING, Footprint
from tests.explore.experiments import experiment_of

GOES_ON = (ActorKind.VCPU, ActorKind.CONTROL)
CASES = {
    "one life": experiment_of(life.optimize, LINUX_2010, cpus=2),
    "two tasks": experiment_of(life.two_control_tasks, LINUX_6_1, cpus=2),
    "return probe": experiment_of(life.kretprobe_removal, NEXT, cpus=2),
    "preempted": experiment_of(
        life.optimize, without(LINUX_6_1, frozenset(), preempt=True), preempt=True
    ),
    "aggregator": experiment_of(life.aggregation, LINUX_2010, cpus=2),
}


def going(system):
    """Who can go on, without what happens to a vCPU."""
    return [one.actor for one in system.choices() if one.actor.kind in GOES_ON]


def end_state(system, *actors):
    """What these steps lead to from the present state, whoever made the last of them; the state
    before stays.
    """
    here = system.save()
    for actor in actors:
        if actor not in going(system):
            system.restore(here)
            return "cannot go on", actor
        system.take(actor)
    system.choices()
    violation, system.now.actor = system.violation, None
    end = violation.kind if violation is not None else system.key()
    system.restore(here)
    system.release(here)
    return end


def swaps(case, pool, seed, most, left_out=None):
    """Of ``most`` pairs of adjacent steps whose footprints do not meet: the pairs, and whether both
    orders lead to the same state. With ``left_out``, which leaves something out of a footprint, the
    pairs are those whose footprints do not meet for that reason only.
    """
    random = Random(seed)

    def apart(one, other):
        if left_out is None:
            return not one.meets(other)
        return one.meets(other) and not left_out(one).meets(left_out(other))

    with closing(open_experiment(replace(case, reduce=False, calls=1), pool)) as system:
        while most:
            system.reset()
            while (actors := going(system)) and most:
                first, here = random.choice(actors), system.save()
                touched = system.footprint(first)
                system.take(first)
                others = [one for one in going(system) if one != first]
                others = [one for one in others if apart(touched, system.footprint(one))]
                if others and random.randrange(8) == 0:
                    second, behind = random.choice(others), system.save()
                    system.restore(here)
                    ends = [end_state(system, *two) for two in permutations((first, second))]
                    most -= 1
                    yield first, second, ends[0] == ends[1]
                    system.restore(behind)
                    system.release(behind)
                system.release(here)


@pytest.mark.parametrize("name", CASES)
def test_adjacent_steps_whose_footprints_do_not_meet_can_be_swapped(pool, name):
    found = list(swaps(CASES[name], pool, name, 30))
    assert [pair for *pair, same in found if not same] == []
    kinds = {(first.kind, second.kind) for first, second, _ in found}
    assert kinds >= {GOES_ON, GOES_ON[::-1]}


def empty(_):
    """Nothing is touched."""
    return Footprint()


def but(*kinds):
    """A footprint without the data of these kinds."""
    return lambda one: replace(
        one,
        reads=frozenset(data for data in one.reads if data.kind not in kinds),
        writes=frozenset(data for data in one.writes if data.kind not in kinds),
    )


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("one life", empty),
        ("two tasks", empty),
        ("one life", but(DataKind.CORE)),
        ("one life", but(DataKind.VCPU)),
    ],
    ids=["all", "all of two tasks", "core", "vcpu"],
)
def test_a_footprint_that_leaves_something_out_swaps_steps_that_cannot_be(pool, name, left_out):
    with closing(swaps(CASES[name], pool, 1, 300, left_out)) as found:
        assert not all(same for *_, same in found)


def test_two_footprints_meet_where_one_writes_what_the_other_touches_or_both_lock():
    text, behind = range(10, 12), range(12, 13)
    footprints = {
        "nothing": Footprint(),
        "everything": EVERYTHING,
        "executes": Footprint(fetched=(text,)),
        "executes behind": Footprint(fetched=(behind,)),
        "writes text": Footprint(written=(text,)),
        "locks": Footprint(locks=frozenset({"text_mutex"})),
        "reads": Footprint(reads=frozenset({1})),
        "writes": Footprint(writes=frozenset({1})),
        "writes another": Footprint(writes=frozenset({2})),
    }
    meet = {
        frozenset((one, other))
        for (one, first), (other, second) in product(footprints.items(), repeat=2)
        if first.meets(second)
    }
    assert meet == {
        *(frozenset(("everything", one)) for one in footprints),
        *(frozenset((one,)) for one in ("writes text", "locks", "writes", "writes another")),
        frozenset(("executes", "writes text")),
        frozenset(("reads", "writes")),
    }


def test_with_reduction_or_with_an_oracle_of_a_users_own_a_step_touches_everything(pool):
    class Mine(Oracle):
        """Looks on."""

    case = experiment_of(life.optimize, LINUX_2010)
    for one in (case, replace(case, reduce=False, oracles=(Mine,))):
        with closing(open_experiment(one, pool)) as system:
            assert {system.footprint(choice.actor) for choice in system.choices()} == {EVERYTHING}


def test_an_event_touches_everything_and_to_ask_changes_nothing(pool):
    case = replace(experiment_of(life.optimize, LINUX_2010), reduce=False)
    with closing(open_experiment(case, pool)) as system:
        while not any(choice.actor.is_event for choice in system.choices()):
            system.take(system.choices()[-1].actor)
        key = system.key()
        for choice in system.choices():
            found = system.footprint(choice.actor)
            assert (found == EVERYTHING) is choice.actor.is_event
        assert system.key() == key
