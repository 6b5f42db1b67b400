"""Searches with fetch models: what they find, and that what is merged or left out loses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.core.profiles import LINUX_6_1
from tests.explore.laws import outcomes
from tests.explore.test_laws import (
    CASES,
    JUMP,
    in_and_out,
    in_before_the_optimizer_and_out,
    one_of_two,
    returns,
    small,
)

MODELS = ("stale", "unit:64", "unit:8", "torn")


def late(*code, **fields):
    """A case of linux-6.1, whose every write is followed by a core sync."""
    return small(*code, profile=LINUX_6_1, **fields)


SMALL = {
    "a jump, no stop_machine": (small(in_and_out, text=JUMP, steps=["stop-machine"]), 0),
    "no sync behind the tail": (late(in_and_out, text=JUMP, steps=["bp-sync-2"]), 0),
    "no sync behind the original": (late(in_and_out, text=JUMP, steps=["unopt-sync-2"]), 0),
    "two vCPUs": (small(in_before_the_optimizer_and_out, cpus=2), 0),
    "a return probe": (small(returns, text="nop; ret"), 0),
    "two tasks": (small(one_of_two(0), one_of_two(1)), 0),
    "NMIs": (small(in_before_the_optimizer_and_out, text="nop; ret", nmis=True), 1),
    "a serializing instruction": (small(in_and_out, text="cpuid; nop; nop; nop; ret"), 0),
}


@pytest.mark.parametrize("model", ["stale", "torn"])
@pytest.mark.parametrize("name", SMALL)
def test_a_reduced_search_has_the_outcomes_of_the_unreduced_one(pool, name, model):
    case, bound = SMALL[name]
    case = replace(case, fetch=model)
    assert outcomes(case, pool, bound=bound, reduce=True) == outcomes(
        case, pool, bound=bound, reduce=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CASES)
def test_a_reduced_search_has_the_unreduced_outcomes_in_each_model(pool, name, model):
    case, bound = CASES[name]
    case = replace(case, fetch=model)
    assert outcomes(case, pool, bound=bound, reduce=True) == outcomes(
        case, pool, bound=bound, reduce=False
    )
