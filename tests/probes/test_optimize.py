"""Which probes become jumps."""

from __future__ import annotations

import pytest

from arch_x86.isa.constants import MAX_OPTIMIZED_LENGTH
from arch_x86.isa.insn import NO_QUIRKS
from arch_x86.probes.code import CodeCache
from arch_x86.probes.optimize import OptimizePlan, Unoptimizable, can_optimize
from engine.image import ExceptionEntry, Range, Reserved, ReservedKind
from tests.probes.images import BASE, cache_of

NOPS = "9090909090909090"
LONG_NOP = "66662e0f1f840000000000"  # 11 bytes


@pytest.mark.parametrize(
    ("code", "offset", "answer"),
    [
        (NOPS, 0, 5),
        ("90909090" + LONG_NOP, 0, 15),
        ("c3" + NOPS, 0, 5),  # ret is boostable
        ("90909090", 0, Unoptimizable.NO_ROOM),
        (NOPS, 4, Unoptimizable.NO_ROOM),
        ("e8fbffffff" + NOPS, 0, Unoptimizable.FIRST_NOT_BOOSTABLE),  # call
        ("90e8fbffffff" + NOPS, 0, Unoptimizable.LATER_NOT_BOOSTABLE),
        ("90cc" + NOPS, 0, Unoptimizable.NOT_COPYABLE),
        ("90cc" + NOPS, 1, Unoptimizable.NOT_PROBEABLE),
        (NOPS + "cc", 0, 5),  # an INT3 further on does not matter
        (NOPS + "ffe0", 0, Unoptimizable.INDIRECT_JUMP),
        (NOPS + "ff2500000000", 0, Unoptimizable.INDIRECT_JUMP),
        (NOPS + "ff28", 0, Unoptimizable.INDIRECT_JUMP),  # jmp far
        (NOPS + "ffd0", 0, 5),  # indirect calls come back
        (NOPS + "c5f80fc0", 0, Unoptimizable.UNDECODABLE),
        (NOPS + "e8f9ffffff", 0, 5),  # a call into the range
    ],
)
def test_can_optimize(code: str, offset: int, answer: int | Unoptimizable) -> None:
    plan = can_optimize(cache_of(bytes.fromhex(code)), BASE + offset)
    if isinstance(answer, Unoptimizable):
        assert plan is answer
    else:
        assert isinstance(plan, OptimizePlan)
        assert (
            plan.size == answer == sum(insn.length for insn in plan.insns) <= MAX_OPTIMIZED_LENGTH
        )
        assert plan.end == BASE + offset + answer


@pytest.mark.parametrize("jump", ["eb{:02x}", "74{:02x}", "e2{:02x}", "e3{:02x}"])
def test_jumps_into_the_range(jump: str) -> None:
    """To the first byte is fine, to the second up to the one behind the jump is not: 6.1 counts
    that one, too.
    """
    for target in range(8):
        back = jump.format((target - 10) & 0xFF)
        plan = can_optimize(cache_of(bytes.fromhex(NOPS + back)), BASE)
        if 1 <= target <= 5:
            assert plan is Unoptimizable.JUMP_INTO_RANGE, target
        else:
            assert isinstance(plan, OptimizePlan), target


def test_near_jumps_into_the_range() -> None:
    for opcode, length in (("e9", 5), ("0f84", 6)):
        back = (2 - 8 - length) & 0xFFFF_FFFF
        assert (
            can_optimize(cache_of(bytes.fromhex(NOPS + opcode) + back.to_bytes(4, "little")), BASE)
            is Unoptimizable.JUMP_INTO_RANGE
        )


def test_exception_table_entries_count_on_boundaries() -> None:
    code = bytes.fromhex(NOPS + "4889e5")
    assert (
        can_optimize(cache_of(code, exception_table=(ExceptionEntry(BASE + 8),)), BASE)
        is Unoptimizable.EXCEPTION_TABLE
    )
    assert isinstance(
        can_optimize(cache_of(code, exception_table=(ExceptionEntry(BASE + 9),)), BASE),
        OptimizePlan,
    )


@pytest.mark.parametrize("kind", list(ReservedKind))
def test_reserved_text(kind: ReservedKind) -> None:
    cache = cache_of(bytes.fromhex(NOPS), reserved=(Reserved(BASE + 4, 1, kind),))
    plan = can_optimize(cache, BASE)
    if kind is ReservedKind.BUG:
        assert isinstance(plan, OptimizePlan)
    else:
        assert plan is Unoptimizable.RESERVED_TEXT


def test_retpolines_are_indirect_jumps() -> None:
    thunk = BASE + 0x1000
    jump = b"\xe9" + (0x1000 - 13).to_bytes(4, "little")
    code = bytes.fromhex(NOPS) + jump
    assert (
        can_optimize(cache_of(code, indirect_thunks=Range(thunk, 0x20)), BASE)
        is Unoptimizable.INDIRECT_JUMP
    )
    # the end counts
    assert (
        can_optimize(cache_of(code, indirect_thunks=Range(thunk - 0x20, 0x20)), BASE)
        is Unoptimizable.INDIRECT_JUMP
    )
    assert isinstance(
        can_optimize(cache_of(code, indirect_thunks=Range(thunk + 1, 0x20)), BASE), OptimizePlan
    )


def test_neighbours() -> None:
    cache = cache_of(bytes.fromhex("90909090" + LONG_NOP + "90"))
    for other in range(17):
        plan = can_optimize(cache, BASE, lambda addr, other=other: addr == BASE + other)
        assert (plan is Unoptimizable.NEIGHBOUR_PROBE) is (1 <= other < 15)


def test_vector_opcodes_pass_for_jumps() -> None:
    code = bytes.fromhex("9090c5f877" + NOPS)  # vzeroupper: "ja" to the instruction behind it
    assert can_optimize(cache_of(code), BASE) is Unoptimizable.JUMP_INTO_RANGE
    cache = CodeCache(cache_of(code).image, quirks=NO_QUIRKS)
    assert can_optimize(cache, BASE) is Unoptimizable.LATER_NOT_BOOSTABLE
    assert isinstance(can_optimize(cache, BASE + 5), OptimizePlan)
