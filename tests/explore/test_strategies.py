"""Laws of the strategies, on toys that can be counted by hand."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.search import conduct
from engine.search.actor import Actor, ActorKind, actor_from
from engine.search.drawn import Drawn
from engine.search.exhaustive import Exhaustive
from engine.search.parts import ReplayDivergence
from engine.search.pct import Pct
from engine.search.random_walk import RandomWalk
from engine.search.schedule import Schedule, parse_schedule, replay, segments_of
from engine.search.shrink import shrink
from tests.explore.toys import Counter


def explore(system, bound=None, **options):
    return conduct.explore(
        Exhaustive(bound=bound, recheck_every=0, violations_max=10**9, **options), system
    )


@pytest.mark.parametrize(
    ("actors", "rounds", "count"), [(2, 1, 6), (2, 2, 70), (3, 1, 90), (2, 3, 924)]
)
def test_unreduced_exhaustive_search_visits_every_schedule_once(actors, rounds, count):
    """(n k)! / (k!)^n interleavings of n actors with k steps each."""
    toy = Counter(actors, rounds)
    outcome = explore(toy, hashing=False)
    assert (outcome.schedules, outcome.exhaustive, outcome.merged) == (count, True, 0)
    assert len(set(toy.schedules)) == len(toy.schedules) == count


@pytest.mark.parametrize(("bound", "count"), [(0, 2), (1, 8), (2, 26), (3, 44), (None, 70)])
def test_a_bound_counts_switches_away_from_who_could_go_on(bound, count):
    """2 actors of 4 steps. By hand: 2; with one switch 2 * 3 more; with two 2 * 3 * 3 more."""

    def switches(word: str) -> int:
        done = {"0": 0, "1": 0}
        cost = 0
        for here, there in pairwise(word):
            done[here] += 1
            cost += here != there and done[here] < 4
        return cost

    words = {"".join(p) for p in permutations("00001111")}
    by_hand = sum(bound is None or switches(word) <= bound for word in words)
    assert by_hand == count
    assert explore(Counter(2, 2), bound, hashing=False).schedules == count


def test_hashing_random_search_and_pct_find_the_outcomes_of_84_084_schedules():
    """Actors of 6, 6 and 2 steps: 14! / (6! 6! 2!)."""
    every, merged, walked, prioritized = (Counter(3, (3, 3, 1)) for _ in range(4))
    assert explore(every, hashing=False).schedules == 84_084
    assert explore(merged).schedules < 5_000
    conduct.explore(Drawn(RandomWalk(seed=1), schedules=6_000, recheck_every=0), walked)
    conduct.explore(Drawn(Pct(seed=1, depth=6), schedules=6_000, recheck_every=0), prioritized)
    assert (
        every.outcomes
        == merged.outcomes
        == walked.outcomes
        == prioritized.outcomes
        == set(range(1, 8))
    )


def test_a_cap_on_schedules_stops_and_says_that_it_is_not_exhaustive():
    outcome = explore(Counter(2, 2), hashing=False, max_schedules=10)
    assert (outcome.schedules, outcome.exhaustive) == (10, False)


def test_the_search_ends_with_the_first_violation_and_its_schedule_replays():
    toy = Counter(2, 2, bad=(2,))
    outcome = conduct.explore(Exhaustive(bound=None), toy)
    (found,) = outcome.found
    assert replay(toy, found.segments, strict=True)
    assert toy.violation == found.violation
    assert segments_of(toy.trace) == found.segments


def test_every_schedule_repeats_and_one_that_does_not_is_a_divergence():
    assert conduct.explore(Exhaustive(bound=None, recheck_every=1), Counter(2, 1)).rechecked > 5

    class Drifting(Counter):
        drift = 0

        def take(self, actor, most=None, *, alone=False):
            self.drift += 1
            self.cell += self.drift % 7 == 0
            return super().take(actor, most)

    with pytest.raises(ReplayDivergence):
        conduct.explore(Exhaustive(bound=None, recheck_every=1), Drifting(2, 2))


@pytest.mark.parametrize("hashing", [True, False])
def test_about_one_schedule_in_a_hundred_is_run_twice(hashing):
    """However short the parts are that a search is cut into."""
    outcome = conduct.explore(
        Exhaustive(bound=None, hashing=hashing, max_schedules=20_000), Counter(3, (3, 3, 2))
    )
    assert outcome.schedules / 130 < outcome.rechecked < outcome.schedules / 75


def test_a_shrunk_schedule_has_the_fewest_switches_and_then_the_fewest_steps():
    toy = Counter(2, 3, bad=(3,))
    found = conduct.explore(Drawn(RandomWalk(seed=3), schedules=10_000), toy).found[0]
    segments, violation = shrink(toy, found.segments, found.violation)
    assert violation == found.violation
    assert len(segments) <= len(found.segments)
    assert len(segments) == 3  # one whole actor between a load and a store of the other
    replay(toy, segments)
    assert toy.violation is not None


def test_a_shrunk_schedule_has_as_few_switches_as_any_wherever_it_starts_from():
    for bad in ((2,), (3,), (4,)):
        toy = Counter(3, (2, 2, 1), bad=bad)
        found = explore(toy, hashing=False).found
        fewest = min(len(one.segments) for one in found)
        most = max(found, key=lambda one: len(one.segments))
        assert len(most.segments) > fewest
        segments, violation = shrink(toy, most.segments, most.violation)
        assert (len(segments), violation.kind) == (fewest, most.violation.kind)


def test_random_schedules_do_not_depend_on_who_runs_them():
    whole, first, second = Counter(2, 3), Counter(2, 3), Counter(2, 3)
    conduct.explore(Drawn(RandomWalk(seed=5), schedules=40, recheck_every=0), whole)
    conduct.explore(Drawn(RandomWalk(seed=5), schedules=20, recheck_every=0), first)
    conduct.explore(Drawn(RandomWalk(seed=5), schedules=20, first=20, recheck_every=0), second)
    assert whole.schedules == first.schedules + second.schedules


@given(
    st.lists(
        st.tuples(
            st.builds(Actor, st.sampled_from(ActorKind), st.integers(0, 10**12 - 1)),
            st.integers(1, 10**9),
        ),
        max_size=20,
    ),
    st.integers(0, 2**32 - 1),
)
def test_a_schedule_is_one_line_that_parses_to_itself(segments, mark):
    schedule = Schedule(f"{mark:08x}", tuple(segments))
    assert parse_schedule(str(schedule)) == schedule
    assert "\n" not in str(schedule)
    assert all(actor_from(str(actor)) is actor_from(str(actor)) == actor for actor, _ in segments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v3",
        "v3:0:0",
        "v3:00000000:x0",
        "v3:00000000:00",
        "v3:00000000:c01*2",
        "v3:00000000:1234567890123",
        "v3:00000000:\u0663*2",
        "v3:00000000:0*",
        "v2:00000000:0*3",
        "v3:00000000:0*3,,1",
        "v3:00000000:0*99999999999999",
    ],
)
def test_what_is_no_schedule_is_refused_with_one_line(text):
    with pytest.raises(InputError) as refused:
        parse_schedule(text)
    assert "\n" not in str(refused.value)
