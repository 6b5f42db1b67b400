"""Which instructions 6.1 emulates, and how."""

from __future__ import annotations

import pytest

from arch_x86.isa.decode import decode
from arch_x86.isa.insn import NO_QUIRKS
from arch_x86.probes.prepare_emulation import Emulation, emulation_of, is_unsupported
from tests.probes.images import BASE

UNSUPPORTED = "unsupported"


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("90", None),
        ("e800000000", Emulation.CALL),
        ("e900000000", Emulation.JMP),
        ("eb00", Emulation.JMP),
        ("7000", Emulation.JCC),
        ("0f8f00000000", Emulation.JCC),
        ("0f90c0", None),  # seto
        ("e000", Emulation.LOOP),
        ("e300", Emulation.LOOP),  # jrcxz
        ("c3", Emulation.RET),
        ("f3c3", Emulation.RET),
        ("c20800", Emulation.RET),
        ("cb", Emulation.RET),  # retf, as if it were near
        ("cf", UNSUPPORTED),  # iret
        ("9c", Emulation.IF_MODIFIERS),  # pushf
        ("9d", Emulation.IF_MODIFIERS),
        ("fa", Emulation.IF_MODIFIERS),
        ("fb", Emulation.IF_MODIFIERS),
        ("ffd0", Emulation.CALL_INDIRECT),
        ("41ffd3", Emulation.CALL_INDIRECT),
        ("ffe0", Emulation.JMP_INDIRECT),
        ("ff10", UNSUPPORTED),  # call [rax]
        ("ff2500000000", UNSUPPORTED),  # jmp [rip]
        ("67ffd0", UNSUPPORTED),  # address size
        ("ff18", UNSUPPORTED),  # call far [rax]
        ("ffd8", UNSUPPORTED),  # call far rax: nonsense, but group 5
        ("ff28", UNSUPPORTED),  # jmp far [rax]
        ("ffc0", None),  # inc eax
        ("ff30", None),  # push [rax]
        ("9a443322118877", UNSUPPORTED),
        ("ea443322118877", UNSUPPORTED),
        ("0f01c1", UNSUPPORTED),  # vmcall
        ("0f01c8", None),  # monitor
        ("0f0100", None),  # sgdt [rax]
        ("0f38f0c8", None),  # not 0f 8x
    ],
)
def test_emulation_of(code: str, answer: Emulation | str | None) -> None:
    insn = decode(bytes.fromhex(code), BASE)
    assert insn is not None
    assert is_unsupported(insn) is (answer == UNSUPPORTED)
    assert emulation_of(insn) == (None if answer == UNSUPPORTED else answer)


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("c5f877", Emulation.JCC),  # vzeroupper passes for ja
        ("c5f9e8c1", Emulation.CALL),  # vpsubsb passes for call
        ("c5f8c2c100", Emulation.RET),  # vcmpeqps passes for ret
        ("c5f9fac1", Emulation.IF_MODIFIERS),  # vpsubd passes for cli
        ("c5f9eac1", UNSUPPORTED),  # vpminsw passes for jmp far
        ("c5f858c1", None),  # vaddps passes for pop
    ],
)
def test_vex_opcodes_pass_for_legacy_ones(code: str, answer: Emulation | str | None) -> None:
    insn = decode(bytes.fromhex(code), BASE)
    assert insn is not None
    assert is_unsupported(insn) is (answer == UNSUPPORTED)
    assert emulation_of(insn) == (None if answer == UNSUPPORTED else answer)
    assert emulation_of(insn, NO_QUIRKS) is None
    assert not is_unsupported(insn, NO_QUIRKS)
