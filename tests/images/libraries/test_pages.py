"""Text that appears when it is first used: counting stays exact, and what must trap does, in
functions and outside of them.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.calibration import calibrate
from arch_x86.emu.fault import FaultKind
from arch_x86.emu.guards import Guards
from arch_x86.emu.machine import new_pool
from arch_x86.emu.uc import PrivateOffsets, UcPool
from arch_x86.isa.assemble import assemble
from engine.image import Image, Segment, Symbol
from tests.conftest import BASE, Rig

PAGE = 4096
AVX = "vpaddb xmm0, xmm1, xmm2"


def image_of(parts: dict[int, str], named: tuple[int, ...] = (0,), pages: int = 4) -> Image:
    """Code at offsets from the base, int3 between; ``named`` offsets begin functions f, g, ... that
    reach to the next part.
    """
    code = bytearray(b"\xcc" * PAGE * pages)
    ends: dict[int, int] = {}
    for at, text in parts.items():
        body = assemble(text, BASE + at)
        code[at : at + len(body)] = body
        ends[at] = len(body)
    symbols = tuple(
        Symbol(name, BASE + at, ends[at]) for name, at in zip("fgh", named, strict=False)
    )
    return Image(name="pages", segments=(Segment(BASE, bytes(code), len(code)),), symbols=symbols)


@pytest.fixture
def machine(pool):
    made: list[Rig] = []

    def make(*arguments, cpus: int = 1, **options) -> Rig:
        made.append(Rig(image_of(*arguments, **options), pool, cpus))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()


# Ways from one page to another, each with what it returns.
WAYS = {
    "jump": ({0: f"mov eax, 7; jmp {BASE + PAGE:#x}", PAGE: "nop; ret"}, 7),
    "call": ({0: f"call {BASE + 2 * PAGE:#x}; inc eax; ret", 2 * PAGE: "mov eax, 7; ret"}, 8),
    "fall through": (
        {PAGE - 4: "nop; nop; nop; nop; mov eax, 9; ret", 0: f"jmp {BASE + PAGE - 4:#x}"},
        9,
    ),
    "an instruction over the edge": (
        {PAGE - 3: "nop; mov eax, 0x90909090; ret", 0: f"jmp {BASE + PAGE - 3:#x}"},
        0x90909090,
    ),
    "data": (
        {0: f"mov eax, dword ptr [rip + {PAGE - 6}]; ret", PAGE: ".byte 1, 2, 3, 4"},
        0x04030201,
    ),
    "data behind the instruction that reads it": (
        {
            0: f"jmp {BASE + PAGE - 8:#x}",
            PAGE - 8: "mov eax, dword ptr [rip + 2]; ret; nop",
            PAGE: ".byte 1, 2, 3, 4",
        },
        0x04030201,
    ),
    "data in two pages": (
        {
            0: f"mov rax, qword ptr [rip + {2 * PAGE - 4 - 7}]; ret",
            2 * PAGE - 4: ".byte 1, 2, 3, 4, 5, 6, 7, 0",
        },
        0x0007060504030201,
    ),
    "a string over the edge": (
        {
            0: f"lea rsi, [rip + {PAGE - 4 - 7}]; mov ecx, 8; xor eax, eax; jmp {BASE + 64:#x}",
            64: (
                "mov edx, ecx; lodsb; add edi, eax; dec ecx; jnz "
                + hex(BASE + 64)
                + "; mov eax, edi; ret"
            ),
            PAGE - 4: ".byte 1, 2, 3, 4, 5, 6, 7, 8",
        },
        36,
    ),
}


class TestCounting:
    @pytest.mark.parametrize("way", WAYS)
    def test_instructions_are_counted_alike_whether_a_page_is_there_or_not(self, machine, way):
        parts, want = WAYS[way]
        r = machine(parts)
        assert r.call(0) == want
        first = r.machine.cpus[0].retired
        assert r.call(0) == want
        assert r.machine.cpus[0].retired == 2 * first

    @pytest.mark.parametrize("way", WAYS)
    def test_a_run_can_be_cut_anywhere(self, machine, way):
        parts, want = WAYS[way]
        r = machine(parts)
        whole = r.call(0), r.machine.cpus[0].retired
        assert whole[0] == want
        for budget in range(1, whole[1] + 1):
            r = machine(parts, cpus=2)
            r.begin(0, cpu=1)
            assert r.executor.advance(1, budget) == budget
            r.executor.advance(1, 1000)
            assert (r.rax(1), r.machine.cpus[1].retired) == whole

    def test_without_counting_pages_appear_too(self, machine):
        r = machine(WAYS["call"][0])
        r.begin(0)
        assert r.executor.run_uncounted(0) is None
        assert r.rax() == 8

    def test_a_page_that_nobody_has_is_still_a_fault_with_its_address(self, machine):
        fault = machine(
            {0: f"jmp {BASE + PAGE:#x}", PAGE: "mov rax, 0x1234; mov rax, [rax]"}, (0, PAGE)
        ).call()
        assert (fault.kind, fault.place, "0x1234" in fault.explain) == (
            FaultKind.UNMAPPED_ACCESS,
            "g+0x7",
            True,
        )

    def test_where_a_fetch_can_t_be_told_from_a_load_all_pages_are_there_from_the_start(self):
        parts, want = WAYS["call"]
        assert new_pool().offsets.error_code is not None, (
            "calibration found no error code in this build of Unicorn"
        )
        pool = UcPool(PrivateOffsets(counter=calibrate().counter))
        r = Rig(image_of(parts), pool)
        assert r.call(0) == want
        assert r.machine.cpus[0].retired == 8 - 2
        r.machine.close()
        pool.close()


class TestGuards:
    def test_a_function_that_straddles_pages_is_looked_at_whole(self, machine):
        lead = "; ".join(["nop"] * (PAGE - 40))
        r = machine(
            {32: f"{lead}; {'; '.join([AVX] * 4)}; ret", 0: f"jmp {BASE + PAGE - 10:#x}"}, (0, 32)
        )
        fault = r.call()
        assert (fault.kind, fault.rip) == (FaultKind.UNSUPPORTED_OPCODE, BASE + PAGE - 8)
        for at in range(PAGE - 8, PAGE + 8, 4):  # one of them lies over no edge, one behind it
            r.executor.begin_call(0, BASE + at)
            assert r.executor.run_call(0, 100).rip == BASE + at

    @pytest.mark.parametrize("split", [1, 2, 3])
    def test_an_instruction_over_the_edge_traps(self, machine, split):
        fault = machine(
            {PAGE - split: f"{AVX}; ret", 0: f"jmp {BASE + PAGE - split:#x}"}, (0, PAGE - split)
        ).call()
        assert (fault.kind, fault.place) == (FaultKind.UNSUPPORTED_OPCODE, "g+0x0")

    @pytest.mark.parametrize(
        "text",
        [
            AVX,
            "vpaddb ymm0, ymm1, ymm2",
            f".byte 0x2e; {AVX}",
            "rdtsc",
            ".byte 0x48; rdtsc",
            "rdrand rax",
            "vzeroupper",
        ],
    )
    @pytest.mark.parametrize("split", [0, 1])
    def test_code_outside_of_functions_traps_as_well(self, machine, text, split):
        at = PAGE - split - 1
        fault = machine({0: f"jmp {BASE + at:#x}", at: f"nop; {text}; ret"}).call()
        assert (fault.kind, fault.rip) == (FaultKind.UNSUPPORTED_OPCODE, BASE + at + 1)

    def test_data_outside_of_functions_may_look_like_anything(self, machine):
        text = f"mov eax, dword ptr [rip + {PAGE - 6}]; ret"
        assert machine({0: text, PAGE: ".byte 0xc5, 0xf1, 0xfc, 0xc2"}).call() == 0xC2FCF1C5

    def test_an_operand_outside_of_functions_may_look_like_anything(self, machine):
        r = machine({0: f"jmp {BASE + PAGE:#x}", PAGE: "mov rax, 0xc2fcf1c5c2fcf1c5; ret"})
        assert r.call() == 0xC2FCF1C5C2FCF1C5
        assert len(Guards(r.machine.image).strays(BASE // PAGE + 1)) == 2

    def test_an_emulator_that_goes_back_to_the_pool_forgets_it(self, machine, pool):
        for _ in range(2):
            r = machine({0: f"jmp {BASE + PAGE:#x}", PAGE: f"nop; {AVX}; ret"})
            assert r.call().kind is FaultKind.UNSUPPORTED_OPCODE
            r.machine.close()
        assert machine({0: f"jmp {BASE + PAGE:#x}", PAGE: "nop; mov eax, 5; ret"}).call() == 5
