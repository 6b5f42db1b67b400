"""The reach of an area is that of 32-bit displacements between its two ends and an address."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.isa.encode import in_reach
from arch_x86.probes.areas import lies_in_reach
from engine.image import Range

ENDS = st.sampled_from([0x1000_0000, (1 << 63) - (1 << 31), 1 << 63, (1 << 64) - (1 << 31)])


@given(ENDS, st.sampled_from([1 << 20, 24 << 20]), st.integers(-3, 3), st.integers(-64, 64))
def test_an_address_is_in_reach_of_an_area_if_it_is_of_both_its_ends(start, size, halves, more):
    area = Range(start, size)
    for edge in (area.addr, area.end):
        addr = (edge + halves * (1 << 31) + more) & ADDRESS_MASK
        assert lies_in_reach(addr, area) == all(
            in_reach(here, addr) and in_reach(addr, here) for here in (area.addr, area.end)
        )
