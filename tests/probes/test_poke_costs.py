"""What patch protocols cost other CPUs, counted exactly (bench/poke_costs.py)."""

from __future__ import annotations

import pytest

from arch_x86.protocols import text_pokes
from bench.poke_costs import cost, plot, table


@pytest.mark.parametrize("sites", [1, 3, 8])
def test_a_batch_costs_what_a_site_costs_and_a_site_each_costs_that_each_time(sites):
    one_stop = cost(text_pokes.text_poke_smp, 1, 1)
    one_poke = cost(text_pokes.text_poke_bp, 1, 1)
    assert (one_stop.stops, one_stop.syncs, one_poke.stops, one_poke.syncs) == (1, 0, 0, 3)
    assert 0 < one_poke.lost < one_stop.lost
    each = cost(text_pokes.text_poke_smp, sites, 1)
    assert (each.stops, each.lost) == (sites, sites * one_stop.lost)
    assert cost(text_pokes.text_poke_smp_batch, sites, 256) == one_stop
    each = cost(text_pokes.text_poke_bp, sites, 1)
    assert (each.syncs, each.lost) == (3 * sites, sites * one_poke.lost)
    assert cost(text_pokes.text_poke_bp_batch, sites, 256) == one_poke


def test_the_table_and_the_picture_have_each_protocol():
    one = cost(text_pokes.text_poke_bp, 1, 1)
    costs = [[one] * 7 for _ in range(4)]
    assert len(table(costs).splitlines()) == 6
    assert plot(costs).count("<polyline") == 4
