"""A copy in a slot does what the original does: executed from the same random states, for every
form found in real code.
"""

from __future__ import annotations

from collections import Counter

import pytest

from arch_x86.emu.guards import guard_reason
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Insn
from tests.equivalence.copies import CopyBench, has_free_copy
from tests.equivalence.forms import form_of, load
from tests.equivalence.world import KERNEL, USER

_STATES = 2


def test_the_data_holds_one_instruction_of_each_of_at_least_2500_forms():
    insns = load()
    assert len({form_of(insn) for insn in insns}) == len(insns) >= 2500
    # However one counts: without telling apart what REX and register 4 change, still as many.
    assert len({form_of(insn)._replace(rex="", stack="") for insn in insns}) >= 2500


def free_copies() -> list[Insn]:
    return [insn for insn in load() if has_free_copy(insn)]


@pytest.fixture(scope="module")
def user(pool):
    bench = CopyBench([insn.raw for insn in free_copies()], pool, USER)
    yield bench
    bench.machine.close()


def test_a_copy_anywhere_in_reach_does_what_the_original_does(user: CopyBench):
    boosted = sum(user.boosted)
    assert boosted >= 2000
    assert len(user.insns) - boosted >= 1000, "those that end in int3"
    ends: Counter[str] = Counter()
    found: list[str] = []
    for number in range(len(user.insns)):
        for turn, state in enumerate(user.states(number, _STATES)):
            want = user.original(number, turn, state)
            ends[want.fault] += 1
            found.append(user.compare(number, turn % 2, turn, state, want))
    assert [text for text in found if text] == []
    assert ends[""] > 0.98 * ends.total()
    assert set(ends) == {
        "",
        "vector 0",
        "vector 6",
        "vector 13",
        "vector 14",
    }, "faults are compared, too; 6: a guard; 13: ldmxcsr"


def test_every_form_runs_to_its_end_from_some_state_or_has_an_absolute_address(user: CopyBench):
    stuck = [
        insn.text
        for number, insn in enumerate(user.insns)
        if guard_reason(insn) is None
        and all(
            user.original(number, turn, state).fault
            for turn, state in enumerate(user.states(number, 12))
        )
    ]
    assert all("[0" in text or "s:[" in text for text in stuck), stuck
    assert len(stuck) < 20


def test_a_copy_of_kernel_code_refers_to_the_same_addresses(pool):
    raws = [insn.raw for insn in free_copies() if insn.rip_relative]
    assert len(raws) > 200
    bench = CopyBench(raws, pool, KERNEL)
    found: list[str] = []
    for number in range(len(raws)):
        for which, state in enumerate(bench.states(number, 2)):
            want = bench.original(number, which, state)
            assert not want.fault or want.fault == "vector 0", raws[number].hex()
            found.append(bench.compare(number, which, which, state, want))
    bench.machine.close()
    assert [text for text in found if text] == []


@pytest.mark.parametrize("code", ["d9e8", "dd442408", "d8c1", "dec9"])
def test_the_one_trace_that_a_copy_leaves_is_its_address_in_the_x87_state(pool, code: str):
    insn = decode(bytes.fromhex(code), 0)
    assert insn is not None
    bench = CopyBench([insn.raw], pool, USER)
    (state,) = bench.states(0, 1)
    seen = bytes(bench.original(0, 0, state).vector[8:16])
    bench.guest.start(0, state, bench.slots[0][1])
    copied = bench.guest.run().vector[8:16]
    assert int.from_bytes(seen, "little") == bench.insns[0].addr
    assert int.from_bytes(copied, "little") == bench.slots[0][1]
    assert not bench.difference(0, 1, 0, state)
    bench.machine.close()
