"""The law again, where Hypothesis says: any form, any state, any place within 2 GiB, alone or in a
row as in a detour buffer.
"""

from __future__ import annotations

from random import Random

from hypothesis import assume, given
from hypothesis import strategies as st

from arch_x86.isa.encode import jmp32
from arch_x86.isa.insn import Branch, Insn
from arch_x86.probes.boost import can_boost, fits_jump_back
from arch_x86.probes.relocate import copy_instructions
from arch_x86.probes.slot import build_slot
from tests.equivalence.copies import has_free_copy
from tests.equivalence.forms import load
from tests.equivalence.guest import Guest, new_machine
from tests.equivalence.states import random_state
from tests.equivalence.world import HLT, KERNEL, USER, Places, at_cell, image_of, place

_REACH = (1 << 31) - 0x2000
_POPF = b"\x9d"  # with TF among what it pops, it would be about traps, not about copies
_FREE = [insn for insn in load() if has_free_copy(insn)]
_IN_A_ROW = [
    insn
    for insn in _FREE
    if can_boost(insn) and insn.branch is Branch.NONE and insn.opcode != _POPF
]


@st.composite
def addresses(draw: st.DrawFn) -> tuple[Places, int]:
    """A place for a copy from which the original and its data can be reached, on pages of its
    own.
    """
    places = draw(st.sampled_from((USER, KERNEL)))
    low, high = max(places.cells - _REACH, 0x1000), places.base + _REACH
    at = draw(st.integers(low, high))
    taken = (
        (places.stubs, 0x1000),
        (places.cells, 0x1000),
        *((area.addr, area.size) for area in (places.data, places.stack, places.vector)),
    )
    assume(all(at + 0x1200 <= start or start + size + 0x1000 <= at for start, size in taken))
    return places, at


def put(insns: list[Insn], places: Places) -> list[Insn]:
    """The instructions one behind the other in cell 0."""
    placed: list[Insn] = []
    at = at_cell(0, places)
    for insn in insns:
        placed.append(place(insn.raw, at, places))
        at = placed[-1].end
    return placed


def check(
    originals: list[Insn], places: Places, at: int, code: bytes, pool, seed: int, *, returns: bool
) -> None:
    """Originals and copies, from one state."""
    text = b"".join(insn.raw for insn in originals) + HLT
    machine = new_machine(image_of([(originals[0].addr, text), (at, code)], places), pool)
    try:
        guest = Guest(machine, places, worlds=1, seed=seed)
        state = random_state(originals[0], Random(seed), places, guest.bases)
        guest.start(0, state, originals[0].addr)
        want = guest.run()
        guest.start(0, state, at)
        size = sum(insn.length for insn in originals)
        got = guest.run().seen_from(at, originals[0].addr, size)
        end = originals[-1].end + 1
        if returns and got.rip == end and not got.fault:
            got = got._replace(retired=got.retired - 1)
        elif not returns and got.fault == "vector 3" and got.rip == at + size + 1:
            got = got._replace(rip=end, fault="")
        assert not guest.explain(got, want), [insn.text for insn in originals]
    finally:
        machine.close()


@given(insn=st.sampled_from(_FREE), where=addresses(), seed=st.integers(0, (1 << 32) - 1))
def test_a_slot_anywhere_does_what_the_original_does(
    pool, insn: Insn, where: tuple[Places, int], seed: int
):
    places, at = where
    placed = put([insn], places)
    boosted = can_boost(placed[0]) and fits_jump_back(placed[0])
    check(placed, places, at, build_slot(placed[0], at, boosted), pool, seed, returns=boosted)


@given(
    insns=st.lists(st.sampled_from(_IN_A_ROW), min_size=1, max_size=5),
    where=addresses(),
    seed=st.integers(0, (1 << 32) - 1),
)
def test_copies_in_a_row_do_what_the_originals_do(
    pool, insns: list[Insn], where: tuple[Places, int], seed: int
):
    places, at = where
    placed = put(insns, places)
    copied = copy_instructions(placed, at)
    check(
        placed,
        places,
        at,
        copied + jmp32(at + len(copied), placed[-1].end),
        pool,
        seed,
        returns=True,
    )
