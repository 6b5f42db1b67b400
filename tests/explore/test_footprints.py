"""Footprints: two adjacent steps whose footprints do not meet lead to the same state in either
order. The pairs are from random schedules of real explorations, unreduced.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from random import Random

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT
from engine.patching.footprints import DataKind, Footprints
from engine.search.actor import ActorKind
from engine.search.footprint import Footprint

GOES_ON = (ActorKind.VCPU, ActorKind.CONTROL)
CASES = {
    "one life": life.optimize.case(LINUX_2010, cpus=2),
    "two tasks": life.two_control_tasks.case(LINUX_6_1, cpus=2),
    "return probe": life.kretprobe_removal.case(NEXT, cpus=2),
    "preempted": life.optimize.case(without(LINUX_6_1, frozenset(), preempt=True), preempt=True),
    "aggregator": life.aggregation.case(LINUX_2010, cpus=2),
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


def swaps(case, pool, seed, most):
    """Of ``most`` pairs of adjacent steps whose footprints do not meet: the pairs, and whether both
    orders lead to the same state.
    """
    random, found = Random(seed), []
    with closing(open_experiment(replace(case, reduce=False, calls=1), pool)) as system:
        while len(found) < most:
            system.reset()
            while (actors := going(system)) and len(found) < most:
                first = random.choice(actors)
                touched, here = system.footprint(first), system.save()
                system.take(first)
                others = [
                    actor
                    for actor in going(system)
                    if actor.index != first.index or actor.kind is not first.kind
                ]
                random.shuffle(others)
                apart = [one for one in others if not touched.meets(system.footprint(one))]
                if apart and random.randrange(8) == 0:
                    behind = system.save()
                    system.restore(here)
                    one, other = (
                        end_state(system, *pair) for pair in ((first, apart[0]), (apart[0], first))
                    )
                    found.append((first, apart[0], one == other))
                    system.restore(behind)
                    system.release(behind)
                system.release(here)
    return found


@pytest.mark.parametrize("name", CASES)
def test_adjacent_steps_whose_footprints_do_not_meet_can_be_swapped(pool, name):
    found = swaps(CASES[name], pool, name, 80)
    assert [pair for *pair, same in found if not same] == []
    kinds = {(first.kind, second.kind) for first, second, _ in found}
    assert kinds >= {GOES_ON, GOES_ON[::-1]}


def emptied(**left_out):
    """What works out footprints without these fields."""
    real = Footprints.of
    return lambda self, actor: replace(real(self, actor), everything=False, **left_out)


def without_data(kind):
    """What works out footprints without data of ``kind``."""
    real = Footprints.of

    def of(self, actor):
        found = real(self, actor)
        reads, writes = (
            frozenset(one for one in data if one.kind is not kind)
            for data in (found.reads, found.writes)
        )
        return replace(found, reads=reads, writes=writes)

    return of


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("one life", lambda self, actor: Footprint()),
        ("one life", without_data(DataKind.CORE)),
        ("one life", without_data(DataKind.WAITS)),
        ("one life", without_data(DataKind.VCPU)),
        ("two tasks", emptied(locks=frozenset())),
        ("one life", emptied(fetched=())),
    ],
)
def test_a_footprint_that_leaves_something_out_lets_steps_be_swapped_that_cannot(
    pool, monkeypatch, name, of
):
    monkeypatch.setattr(Footprints, "of", of)
    found = swaps(CASES[name], pool, 1, 300)
    print(sum(not same for *_, same in found), "of", len(found))
