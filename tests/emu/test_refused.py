"""What the emulator runs wrongly, or dies of, is refused: the call ends by a fault that says so, and the machine goes on."""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.emu.guards import Guards, find_guard
from engine.image import Image, Segment, Symbol
from tests.conftest import BASE, Rig
from tests.hardware.records import load

ENDS_THE_PROCESS = {
    "lock bts edx, 1": "f00fbaea01",
    "lock btc ecx, eax": "f00fbbc1",
    "pcmpestrm xmm6, xmm5 with a length of 0x80000000": "660f3a60f5f1",
    "mov dr7, rax": "0f23f8",
}
RUN_WRONGLY = {
    "lahf behind REX": "489f",
    "shld [rip], rcx, 4": "480fa40d0000000004",
    "rorx rax, [rip], 8": "c4e3fbf0050600000008",
    "bzhi": "c46268f5c3",
    "addss behind 66 and f3": "66f30f58f5",
    "phaddd xmm0, xmm0": "660f3802c0",
    "pabsb mm0, mm1": "0f381cc1",
    "extrq xmm3, xmm4": "660f79dc",
    "cmpxchg ebp, ecx": "0fb1cd",
    "8f /1": "8fc8",
    "xbegin": "c7f800000000",
    "fs behind cs": "2e648b00",
    "in al, dx": "ec",
    "mov cr0, rax": "0f22c0",
    "sysret": "0f07",
}


@pytest.mark.parametrize("name", [*ENDS_THE_PROCESS, *RUN_WRONGLY])
def test_it_is_a_fault_at_its_place_and_the_machine_goes_on(pool, name):
    raw = bytes.fromhex((ENDS_THE_PROCESS | RUN_WRONGLY)[name])
    code = b"\xb8\x00\x00\x00\x80\xba\x01\x00\x00\x00" + raw + b"\x90" * 16 + b"\x31\xc0\xc3"
    for symbols in ((Symbol("f", BASE, len(code)),), ()):
        rig = Rig(Image(name="refused", segments=(Segment(BASE, code, len(code)),), symbols=symbols), pool)
        for _ in range(2):
            rig.executor.begin_call(0, BASE)
            fault = rig.executor.run_call(0, 100)
            assert (fault.kind, fault.rip) == (FaultKind.UNSUPPORTED_OPCODE, BASE + 10)
        rig.executor.begin_call(0, BASE + 10 + len(raw))
        assert rig.executor.run_call(0, 100) is None
        rig.machine.close()


def test_each_one_is_found_in_a_function_of_its_own():
    """The cheap look for bytes that could start one overlooks none of those that the rules refuse."""
    refused = sorted(
        {record.raw for record in load()[1] if find_guard(record.raw, BASE)[1]} | {bytes.fromhex(raw) for raw in RUN_WRONGLY.values()}
    )
    symbols = tuple(Symbol(f"f{at}", BASE + 16 * at, len(raw)) for at, raw in enumerate(refused))
    code = b"".join(raw.ljust(16, b"\xcc") for raw in refused)
    guards = Guards(Image(name="refused", segments=(Segment(BASE, code, len(code)),), symbols=symbols))
    found = [guard for page in range(len(code) // 4096 + 1) for guard in guards.in_page((BASE >> 12) + page)]
    assert [addr for addr, _ in found] == [BASE + 16 * at for at in range(len(refused))]
    assert all(whole.startswith(raw) for (_, raw), whole in zip(found, refused, strict=True))  # the kernel takes some for shorter ones
