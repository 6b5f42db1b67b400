"""Emulating a branch on pt_regs equals executing it, for every condition, count and flag; the warts
of 6.1 only where asked for.
"""

from __future__ import annotations

import pytest

from arch_x86.isa.decode import decode
from arch_x86.probes.emulate import condition_holds, emulate
from arch_x86.probes.prepare_emulation import emulation_of
from arch_x86.probes.ptregs import PtRegs

AT = 0x400000
CF, PF, ZF, SF, IF, OF = 1, 4, 0x40, 0x80, 0x200, 0x800


class Stack:
    """A little stack memory."""

    def __init__(self, words: dict[int, int] | None = None) -> None:
        self.words = dict(words or {})

    def read_u64(self, addr: int) -> int | None:
        return self.words.get(addr)

    def write(self, addr: int, data: bytes) -> bool:
        self.words[addr] = int.from_bytes(data, "little")
        return True


def registers(**values: int) -> PtRegs:
    regs = PtRegs.unpack(bytes(168))
    regs.ip, regs.flags, regs.sp = AT + 1, 0x202, 0x7000
    for name, value in values.items():
        setattr(regs, name, value)
    return regs


def run(code: str, regs: PtRegs, stack: Stack | None = None, *, warts: bool = False) -> PtRegs:
    insn = decode(bytes.fromhex(code), AT)
    assert insn is not None
    kind = emulation_of(insn)
    assert kind is not None
    emulate(kind, insn, regs, stack or Stack(), warts=warts)
    return regs


def test_every_condition_holds_exactly_when_setcc_says_so_on_the_cpu(rig):
    flags = [
        (CF * c) | (PF * p) | (ZF * z) | (SF * s) | (OF * o)
        for c in (0, 1)
        for p in (0, 1)
        for z in (0, 1)
        for s in (0, 1)
        for o in (0, 1)
    ]
    names = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
    body = "; ".join(
        f"push rdi; popfq; set{name} byte ptr [rsi + {i}]" for i, name in enumerate(names)
    )
    r = rig(f"{body}; ret")
    out = r.machine.allocate(16)
    for value in flags:
        r.call(value | 0x202, out)
        assert [condition_holds(code, value) for code in range(16)] == [
            byte == 1 for byte in r.machine.ram.read(out, 16)
        ]


@pytest.mark.parametrize(
    ("code", "before", "ip", "sp", "pushed"),
    [
        ("e8 00 01 00 00", {}, AT + 0x105, 0x6FF8, {0x6FF8: AT + 5}),  # call +0x100
        ("e9 00 ff ff ff", {}, AT + 5 - 0x100, 0x7000, {}),  # jmp -0x100
        ("eb fe", {}, AT, 0x7000, {}),  # jmp self
        ("ff d0", {"ax": 0x1234}, 0x1234, 0x6FF8, {0x6FF8: AT + 2}),  # call rax
        ("41 ff d3", {"r11": 0x77}, 0x77, 0x6FF8, {0x6FF8: AT + 3}),  # call r11
        # call rsp: the target is RSP before the push
        ("ff d4", {}, 0x7000, 0x6FF8, {0x6FF8: AT + 2}),
        ("41 ff e5", {"r13": 0x99}, 0x99, 0x7000, {}),  # jmp r13
        ("0f 84 10 00 00 00", {"flags": ZF}, AT + 0x16, 0x7000, {}),  # je near, taken
        ("0f 84 10 00 00 00", {"flags": 0}, AT + 6, 0x7000, {}),  # je near, not taken
        ("e3 10", {"cx": 0}, AT + 0x12, 0x7000, {}),  # jrcxz, taken
        ("e3 10", {"cx": 1 << 32}, AT + 2, 0x7000, {}),  # jrcxz, not taken
        ("67 e3 10", {"cx": 1 << 32}, AT + 0x13, 0x7000, {}),  # jecxz looks at ECX only
        ("9c", {"flags": 0x203}, AT + 1, 0x6FF8, {0x6FF8: 0x203}),  # pushf, IF and all
    ],
)  # fmt: skip
def test_a_branch_goes_where_the_manual_says(code, before, ip, sp, pushed):
    stack = Stack()
    regs = run(code, registers(**before), stack)
    assert (regs.ip, regs.sp, stack.words) == (ip, sp, pushed)


@pytest.mark.parametrize(
    ("code", "flag", "taken"),
    [
        ("e2 10", 0, True),
        ("e1 10", ZF, True),
        ("e1 10", 0, False),
        ("e0 10", 0, True),
        ("e0 10", ZF, False),
    ],
)
def test_loop_counts_down_and_ends_at_zero(code, flag, taken):
    regs = run(code, registers(cx=2, flags=flag))
    assert (regs.cx, regs.ip) == (1, AT + 0x12 if taken else AT + 2)
    regs = run(code, registers(cx=1, flags=flag))
    assert (regs.cx, regs.ip) == (0, AT + 2)


def test_the_warts_of_6_1_are_one_loop_too_many_and_arguments_left_on_the_stack():
    assert run("e2 10", registers(cx=1), warts=True).ip == AT + 0x12
    stack = {0x7000: 0x4711}
    assert run("c2 10 00", registers(), Stack(stack)).sp == 0x7018
    assert run("c2 10 00", registers(), Stack(stack), warts=True).sp == 0x7008


def test_vzeroupper_is_taken_for_ja_and_falls_through_as_in_6_1():
    for flags in (0, CF):
        assert run("c5 f8 77", registers(flags=flags), warts=True).ip == AT + 3


def test_a_16_bit_pushf_moves_two_bytes_where_6_1_moves_eight():
    assert run("66 9c", registers()).sp == 0x6FFE
    assert run("66 9c", registers(), warts=True).sp == 0x6FF8
    regs = run("66 9d", registers(flags=0x10202), Stack({0x7000: 0x5555_0046}))
    assert (regs.sp, regs.flags) == (0x7002, 0x10046)


def test_rex_w_makes_pushf_and_popf_64_bit_whatever_the_operand_size_prefix_says():
    for warts in (False, True):
        stack = Stack()
        assert run("66 48 9c", registers(flags=0x10203), stack, warts=warts).sp == 0x6FF8
        assert stack.words == {0x6FF8: 0x10203}
        regs = run("66 48 9d", registers(), Stack({0x7000: 0x40247}), warts=warts)
        assert (regs.sp, regs.flags) == (0x7008, 0x40247)


def test_cli_sti_and_popf_change_if():
    assert run("fa", registers()).flags & IF == 0
    assert run("fb", registers(flags=2)).flags & IF
    regs = run("9d", registers(), Stack({0x7000: 0x46}))
    assert (regs.flags, regs.sp) == (0x46, 0x7008)
