"""``--points stores``: what a hit reads without a lock, it may read between any two stores of an
operation.
"""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenario import Setup, scenario
from arch_x86.explore.scenarios import life
from arch_x86.explore.scenarios.images import TOY
from engine.commands.cli import main
from engine.control.stepped_plane import SteppedPlane
from engine.core.aggregation import Aggregation
from engine.core.profiles import LINUX_6_1, LINUX_2010, Profile
from engine.errors import InputError
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag, Queue
from engine.patching.experiment import Experiment, fingerprint
from engine.patching.probe_kinds import PLAIN_KINDS
from engine.patching.search_options import Search
from engine.patching.store_points import STOPPING_KINDS, begin_to_stop
from engine.search.actor import ActorKind
from engine.search.explorable import ViolationKind
from tests.explore.experiments import check, experiment_of, replay_experiment

PROFILES = pytest.mark.parametrize("profile", [LINUX_2010, LINUX_6_1], ids=lambda p: p.name)


@scenario(image=TOY, call="work", arguments=("5",), calls=1)
def second_probe(setup: Setup) -> None:
    """The aggregator of two probes takes the place of the first, which is on, at a site without a
    jump.
    """

    @setup.control
    def main(k) -> None:
        first, second = k.kprobe("work", 9), k.kprobe("work", 9)
        k.register(first)
        k.register(second)
        k.unregister(first, second)


def case_of(one, profile: Profile, points: str) -> Experiment:
    return replace(experiment_of(one, profile), points=points)


@pytest.fixture
def early_aggregator(monkeypatch):
    """The fault: a CPU can find an aggregator without children."""
    init = Aggregation.init_aggr_kprobe

    def planted(aggregation: Aggregation, ap: AggrKprobe, p: Kprobe) -> None:
        ap.pre_handler, ap.ainsn = aggregation._handlers.pre_handler, p.ainsn
        aggregation._host.kprobe_table[p.at] = ap
        init(aggregation, ap, p)

    monkeypatch.setattr(Aggregation, "init_aggr_kprobe", planted)


@pytest.mark.parametrize(
    "one", [life.register, life.optimize, life.aggregation, second_probe], ids=lambda one: one.name
)
@PROFILES
def test_the_order_of_stores_of_both_kernels_breaks_nothing(pool, one, profile):
    result = check(case_of(one, profile, "stores"), Search(preemptions=0), pool=pool)
    assert (result.verdict, result.outcome.exhaustive) == ("safe", True)


def test_a_hit_may_be_cut_by_any_store_of_a_second_probes_registration(pool):
    result = check(case_of(second_probe, LINUX_2010, "stores"), Search(preemptions=1), pool=pool)
    assert (result.verdict, result.outcome.exhaustive) == (
        "inconclusive" if result.missing else "safe",
        True,
    )


@PROFILES
def test_what_is_published_too_early_shows_at_stores_only(pool, early_aggregator, profile):
    at_locks, at_stores = (case_of(second_probe, profile, points) for points in ("locks", "stores"))
    assert not check(at_locks, Search(preemptions=1), pool=pool).violations
    (found,) = check(at_stores, Search(preemptions=1), pool=pool).violations
    assert found.violation.kind is ViolationKind.LOST_HIT
    violation, timeline = replay_experiment(at_stores, found.schedule, pool=pool)
    assert violation == found.violation
    assert "main: puts the aggregator at work+0x9 into the table" in timeline
    with pytest.raises(InputError, match="options are not those that it was found with"):
        replay_experiment(at_locks, found.schedule, pool=pool)


def stops(pool, points: str):
    """Where the control tasks stop when no CPU moves, with the name of each state; and what is left
    in the table and the probes.
    """
    with closing(open_experiment(case_of(life.aggregation, LINUX_2010, points), pool)) as system:
        met = []
        while controls := [
            choice.actor for choice in system.choices() if choice.actor.kind is ActorKind.CONTROL
        ]:
            system.take(controls[0], 1)
            met.append((system.node.at(controls[0].index).partition(": ")[2], system.node.name))
        world = system.node.state
        assert system.node.done
        return met, (
            dict(world.core.kprobe_table),
            [(p.flags, p.addr, p.ainsn) for p in world.control.probes],
        )


def is_a_store(at: str) -> bool:
    return at.split()[0] in ("stores", "puts", "takes", "inserts", "removes") and "mutex" not in at


def test_stores_only_add_stops_and_no_two_states_on_the_way_have_one_name(pool):
    (at_locks, end), (at_stores, same_end) = (stops(pool, points) for points in ("locks", "stores"))
    assert [at for at, _ in at_stores if not is_a_store(at)] == [at for at, _ in at_locks]
    assert end == same_end
    assert len({name for _, name in at_stores}) == len(at_stores)
    what = {re.sub(r" \(.*?\)| at work\+0x4", "", at) for at, _ in at_stores if is_a_store(at)}
    assert what == STORES


STORES = {
    *(
        f"stores {name} of the aggregator"
        for name in (
            "flags",
            "queue",
            "children",
            "ainsn",
            "optinsn",
            "pre_handler",
            "fault_handler",
        )
    ),
    *(f"stores {name} of the probe" for name in ("flags", "ainsn")),
    "puts the probe into the table",
    "puts the aggregator into the table",
    "takes the aggregator out of the table",
    "puts the aggregator into the table of detour buffers",
    "takes the aggregator out of the table of detour buffers",
    "inserts the probe into the children of the aggregator",
    "removes the probe from the children of the aggregator",
}


class Hardware(SimpleNamespace):
    """No machine: nobody waits for it here."""


def test_each_kind_of_store_stops_first_unless_it_changes_nothing_for_anybody():
    plane = SteppedPlane(Hardware())
    one, op, entry = (
        STOPPING_KINDS.probe(addr=1),
        STOPPING_KINDS.aggregator(7),
        STOPPING_KINDS.entry(symbol_name="f"),
    )
    for p in (one, op, entry):
        begin_to_stop(p)
    stores = [
        lambda: setattr(one, "flags", KprobeFlag.DISABLED),
        lambda: setattr(entry, "flags", KprobeFlag.DISABLED),
        lambda: setattr(op, "queue", Queue.FREEING),
        lambda: setattr(op, "children", [one]),
        lambda: op.children.clear(),
        lambda: op.children.append(one),
        lambda: op.children.insert(0, one),
        lambda: op.children.remove(one),
        *(
            partial(setattr, op, name, len)
            for name in (
                "pre_handler",
                "post_handler",
                "fault_handler",
                "break_handler",
                "ainsn",
                "optinsn",
            )
        ),
    ]

    def work():
        for store in stores:
            store()
        for name in ("flags", "pre_handler", "optinsn"):
            setattr(op, name, getattr(op, name))
        plane.stop_machine(lambda: setattr(op, "flags", KprobeFlag.GONE), "test")

    for p in (one, op):  # as set-up code
        p.flags = KprobeFlag.OPTIMIZED
    task = plane.spawn("main", work)
    met = []
    while not task.done:
        plane.step(0)
        met.append(task.at)
    assert task.error is None
    assert len(met) == len(stores) + 2  # stop_machine waits; the end
    for stopping, plain in zip(STOPPING_KINDS[1:], PLAIN_KINDS[1:], strict=True):
        assert (stopping.__name__, stopping.__base__) == (plain.__name__, plain)


def test_a_schedule_at_stores_is_saved_and_replays(capsys, tmp_path, early_aggregator):
    file = tmp_path / "one.py"
    file.write_text("from tests.explore.test_stores import second_probe\n")
    command = ["explore", str(file), "--preemptions", "1", "--json", "--points"]
    assert main([*command, "locks"]) == 0
    assert main([*command, "stores", "--save", str(tmp_path)]) == 1
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])["scenarios"][0]["violations"]
    assert main(["replay", found["file"]]) == 1
    assert main(["replay", found["schedule"], "--", str(file), "--points", "stores"]) == 1
    assert main(["replay", found["schedule"], "--", str(file)]) == 2


def test_another_word_than_locks_and_stores_is_one_line(capsys, tmp_path):
    file = tmp_path / "one.py"
    file.write_text("from tests.explore.test_stores import second_probe\n")
    assert main(["explore", str(file), "--points", "all"]) == 2
    assert capsys.readouterr().err == "optprobe: --points all: unknown; give locks or stores\n"


def test_schedules_of_before_are_still_good():
    case = case_of(second_probe, LINUX_2010, "locks")
    assert (
        fingerprint(case)
        == fingerprint(experiment_of(second_probe, LINUX_2010))
        != fingerprint(replace(case, points="stores"))
    )
