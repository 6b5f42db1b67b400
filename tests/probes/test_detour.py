"""Detour buffers: their layout, and what running one does, on a bare Unicorn."""

from __future__ import annotations

import random
import struct

import pytest
import unicorn
from unicorn import x86_const as x86

from arch_x86.isa.decode import decode
from arch_x86.isa.encode import RelativeRangeError
from arch_x86.probes.detour import PLAIN, RED_ZONE, build_detour
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from arch_x86.probes.ptregs import PT_REGS_SIZE, PtRegs
from tests.probes.images import cache_of

SITE, DETOUR, CALLBACK, STACK = 0x10_0000, 0x20_0000, 0x20_8000, 0x30_0000
GPRS = (
    "RAX",
    "RBX",
    "RCX",
    "RDX",
    "RSI",
    "RDI",
    "RBP",
    "R8",
    "R9",
    "R10",
    "R11",
    "R12",
    "R13",
    "R14",
    "R15",
)
FLAGS = 0xCD5 | 0x4_0000 | 0x200  # arithmetic, DF, AC, IF
NOPS = "90" * 8
OP_ID = 0xFEDC_BA98_7654_3210


def _plan(code: str, addr: int = SITE) -> OptimizePlan:
    plan = can_optimize(cache_of(bytes.fromhex(code), addr), addr)
    assert isinstance(plan, OptimizePlan)
    return plan


def _register(uc: unicorn.Uc, name: str) -> int:
    return uc.reg_read(getattr(x86, f"UC_X86_REG_{name}"))


class Machine:
    """The site's bytes replaced by a jump, the detour, a stack, and a callback that Python takes
    part in.
    """

    def __init__(self, code: str, red_zone: bool, seed: int) -> None:
        self.plan = _plan(code)
        self.detour = build_detour(
            self.plan, DETOUR, op_id=OP_ID, callback=CALLBACK, red_zone=red_zone
        )
        self.uc = uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        for base in (SITE, DETOUR, STACK):
            uc.mem_map(base, 0x1_0000)
        uc.mem_write(SITE, bytes.fromhex(code) + b"\xf4")
        uc.mem_write(DETOUR, self.detour.code)
        uc.mem_write(CALLBACK, b"\x90\xc3")
        draw = random.Random(seed)
        self.stack = draw.randbytes(0x1_0000)
        uc.mem_write(STACK, self.stack)
        self.sp = STACK + 0x8000 + draw.randrange(16)  # any alignment
        self.before = {name: draw.getrandbits(64) for name in GPRS} | {
            "RSP": self.sp,
            "RFLAGS": draw.getrandbits(32) & FLAGS | 2,
        }
        for name, value in self.before.items():
            uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), value)
        self.seen: PtRegs | None = None
        self.changes: dict[str, int] = {}
        uc.hook_add(unicorn.UC_HOOK_CODE, self._called, begin=CALLBACK, end=CALLBACK)

    def _called(self, uc: unicorn.Uc, addr: int, size: int, data: object) -> None:
        assert _register(uc, "RDI") == OP_ID
        assert (_register(uc, "RSP") + 8) % 16 == 0
        assert not _register(uc, "RFLAGS") & 0x400
        at = _register(uc, "RSI")
        self.seen = PtRegs.unpack(bytes(uc.mem_read(at, PT_REGS_SIZE)))
        regs = PtRegs.unpack(self.seen.pack())
        for name, value in self.changes.items():
            setattr(regs, name, value)
        uc.mem_write(at, regs.pack())
        # what a callee may clobber
        for name in (
            "RAX",
            "RCX",
            "RDX",
            "RSI",
            "RDI",
            "R8",
            "R9",
            "R10",
            "R11",
        ):
            uc.reg_write(getattr(x86, f"UC_X86_REG_{name}"), 0x5A5A)
        uc.reg_write(x86.UC_X86_REG_RFLAGS, 0x2)

    def run(self, start: int) -> dict[str, int]:
        self.uc.emu_start(start, self.plan.end, count=1000)
        assert _register(self.uc, "RIP") == self.plan.end
        return {name: _register(self.uc, name) for name in self.before}


@pytest.mark.parametrize("red_zone", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_detour_leaves_everything_as_it_was(red_zone: bool, seed: int) -> None:
    machine = Machine(NOPS, red_zone, seed)
    after = machine.run(DETOUR)
    assert after == machine.before
    skipped = 128 if red_zone else 0
    above = machine.sp - STACK - skipped
    assert (
        bytes(machine.uc.mem_read(machine.sp - skipped, 0x1_0000 - above)) == machine.stack[above:]
    )


@pytest.mark.parametrize("red_zone", [False, True])
def test_the_callback_sees_the_interrupted_state(red_zone: bool) -> None:
    machine = Machine(NOPS, red_zone, 7)
    machine.run(DETOUR)
    seen, before = machine.seen, machine.before
    assert seen is not None
    names = {
        "RAX": "ax",
        "RBX": "bx",
        "RCX": "cx",
        "RDX": "dx",
        "RSI": "si",
        "RDI": "di",
        "RBP": "bp",
        "RSP": "sp",
        "RFLAGS": "flags",
    }
    for name, value in before.items():
        assert getattr(seen, names.get(name, name.lower())) == value, name
    assert (seen.cs, seen.ss, seen.orig_ax, seen.ip) == (8, 0x10, (1 << 64) - 1, 0)


@pytest.mark.parametrize("red_zone", [False, True])
def test_changes_of_the_callback_take_effect(red_zone: bool) -> None:
    machine = Machine(NOPS, red_zone, 9)
    machine.changes = {
        "ax": 1,
        "bp": 2,
        "r15": 3,
        "r11": 4,
        "flags": 0x40 | 0x400 | 2,
        "sp": 5,
        "ip": 6,
    }
    after = machine.run(DETOUR)
    expected = machine.before | {"RAX": 1, "RBP": 2, "R15": 3, "R11": 4, "RFLAGS": 0x442}
    assert after == expected


@pytest.mark.parametrize(
    "code",
    [
        "488d0510000000",  # lea rax, [rip+0x10]
        "9c8f4424f890",  # pushfq; pop qword ptr [rsp-8]; nop: the flags at the site, in memory
        "0f94c00f9bc1",  # sete al; setnp cl: arithmetic flags
        "31c08d4c24f8",  # xor eax, eax; lea ecx, [rsp-8]
        "488b4424085058",  # mov rax, [rsp+8]; push rax; pop rax
    ],
)
@pytest.mark.parametrize("red_zone", [False, True])
def test_the_copied_instructions_do_what_they_did(code: str, red_zone: bool) -> None:
    plain, detoured = Machine(code, red_zone, 3), Machine(code, red_zone, 3)
    assert plain.run(SITE) == detoured.run(DETOUR)
    # what of the stack is the code's own
    below = 128 if red_zone else 8 if code.startswith("9c") else 0
    first = plain.sp - STACK - below
    stacks = [bytes(machine.uc.mem_read(STACK, 0x1_0000))[first:] for machine in (plain, detoured)]
    assert stacks[0] == stacks[1]


def test_layout() -> None:
    plan = _plan("488d0510000000" + "90" * 4)
    for red_zone, template in ((False, PLAIN), (True, RED_ZONE)):
        detour = build_detour(plan, DETOUR, op_id=OP_ID, callback=CALLBACK, red_zone=red_zone)
        assert (detour.addr, detour.copied_start, detour.copied_len) == (DETOUR, template.size, 7)
        assert len(detour.code) == template.size + 7 + 5
        call = decode(detour.code[detour.call_offset :], DETOUR + detour.call_offset)
        jump = decode(detour.code[-5:], DETOUR + len(detour.code) - 5)
        copy = decode(detour.code[detour.copied_start :], DETOUR + detour.copied_start)
        assert call is not None
        assert jump is not None
        assert copy is not None
        assert (call.target, jump.target) == (CALLBACK, plan.end)
        assert copy.memory_address == plan.insns[0].memory_address
        assert struct.pack("<Q", OP_ID) in detour.code


def test_the_template_is_whole_instructions() -> None:
    for template in (PLAIN, RED_ZONE):
        code = template.build(DETOUR, OP_ID, CALLBACK)
        assert len(code) == template.size
        offset = 0
        while offset < len(code):
            insn = decode(code[offset:], offset)
            assert insn is not None
            assert not insn.text.startswith(".byte")
            offset += insn.length
        assert offset == len(code)


@pytest.mark.parametrize("what", ["site", "callback", "operand"])
def test_out_of_reach(what: str) -> None:
    far = 0x2_0000_0000
    plan = _plan("488d05100000009090" if what == "operand" else NOPS)
    at = far if what != "callback" else DETOUR
    with pytest.raises(RelativeRangeError):
        build_detour(
            plan, at, op_id=0, callback=at + 0x1000 if what != "callback" else far, red_zone=False
        )
