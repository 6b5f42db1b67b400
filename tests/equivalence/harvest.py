"""``python -m tests.equivalence.harvest LIBRARY...``: write tests/data/forms/forms.txt.gz, one
instruction of each form found.

Reads functions as .eh_frame_hdr lists them and passes over those in which capstone does not read on
to the end, since they hold data. Kept is what the emulator executes: it must not raise #UD from all
of a few random states. What is left out on purpose: see EXCLUDED.
"""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

from capstone import CS_ARCH_X86, CS_MODE_64, Cs
from elftools.elf.elffile import ELFFile

from arch_x86.emu.cpu import ExitReason
from arch_x86.emu.guards import guard_reason
from arch_x86.emu.machine import new_pool
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Branch, Insn
from arch_x86.probes.prepare_emulation import is_unsupported
from arch_x86.probes.relocate import copy_refusal
from arch_x86.probes.slot import fits_slot
from tests.equivalence.forms import FORMS_FILE, Form, form_of
from tests.equivalence.guest import Guest, new_machine
from tests.equivalence.states import random_state
from tests.equivalence.world import USER, at_cell, cells_image, place

_BRANCHES: Final = frozenset(
    (Branch.RET_FAR, Branch.IRET, Branch.INT, Branch.SYSCALL, Branch.SYSRET, Branch.XBEGIN)
)
_PORTS_AND_FLAGS: Final = frozenset(
    (*range(0x6C, 0x70), *range(0xE4, 0xE8), *range(0xEC, 0xF0), 0xF1, 0xF4, 0xFA, 0xFB)
)
_SYSTEM_0F: Final = frozenset(
    (0x00, 0x01, 0x06, 0x08, 0x09, *range(0x20, 0x24), *range(0x30, 0x38), 0xA2)
)
_XSAVE_DIGITS: Final = frozenset((4, 5, 6))
_STATES: Final = 4
EXCLUDED: Final = (
    "AVX and EVEX (the machine traps them); system calls, far branches, interrupts; port input and"
    " output, hlt, cli, sti; control registers, descriptor tables, MSRs, counters; "
    "cpuid, random numbers; xsave and its kin, fs and gs base instructions"
)


def is_excluded(insn: Insn) -> bool:
    """One of EXCLUDED, or what no probe can go to."""
    if (
        guard_reason(insn)
        or insn.branch in _BRANCHES
        or copy_refusal(insn)
        or (is_unsupported(insn) and insn.reg in (3, 5))
    ):
        return True
    if not fits_slot(insn):
        return True
    if insn.vex:
        return False
    if len(insn.opcode) == 1:
        return insn.opcode[0] in _PORTS_AND_FLAGS
    second = insn.opcode[1]
    if len(insn.opcode) == 2 and second == 0xAE:
        return (insn.mod != 3 and insn.reg in _XSAVE_DIGITS and 0x66 not in insn.prefixes) or (
            insn.mod == 3 and 0xF3 in insn.prefixes
        )
    return len(insn.opcode) == 2 and (second in _SYSTEM_0F or (second == 0xC7 and insn.reg != 1))


def functions(elf: ELFFile) -> Iterator[tuple[int, int]]:
    """(address, size) of each function that .eh_frame_hdr's sorted table has; that of GNU ld:
    relative, 4 bytes.
    """
    header, frames = elf.get_section_by_name(".eh_frame_hdr"), elf.get_section_by_name(".eh_frame")
    table, data = header.data(), frames.data()
    assert table[:4] == b"\x01\x1b\x03\x3b", "another table format"
    for i in range(struct.unpack_from("<I", table, 8)[0]):
        start, fde = struct.unpack_from("<ii", table, 12 + 8 * i)
        yield (
            header["sh_addr"] + start,
            struct.unpack_from("<I", data, header["sh_addr"] + fde - frames["sh_addr"] + 12)[0],
        )


def instructions(path: Path) -> Iterator[Insn]:
    """Every instruction of a library's functions, in address order, as decoded at address 0."""
    engine = Cs(CS_ARCH_X86, CS_MODE_64)
    with path.open("rb") as file:
        elf = ELFFile(file)
        texts = [
            (s["sh_addr"], s.data())
            for s in elf.iter_sections()
            if s["sh_flags"] & 4 and s["sh_type"] == "SHT_PROGBITS"
        ]
        for start, size in functions(elf):
            code = next(
                (
                    data[start - at : start - at + size]
                    for at, data in texts
                    if at <= start < at + len(data)
                ),
                b"",
            )
            lines = list(engine.disasm_lite(code, 0))
            if sum(line[1] for line in lines) == len(code):
                for offset, length, _mnemonic, _operands in lines:
                    insn = decode(code[offset : offset + 15], 0)
                    if insn is not None and insn.length == length:
                        yield insn


def harvest(paths: list[Path]) -> dict[Form, bytes]:
    """The first instruction of each form, with preference for operands close to their base."""
    found: dict[Form, bytes] = {}
    distance: dict[Form, int] = {}
    known: set[bytes] = set()
    for path in paths:
        for insn in instructions(path):
            if insn.raw in known:
                continue
            known.add(insn.raw)
            form, far = (
                form_of(insn),
                abs(insn.displacement) if "rsp" in form_of(insn).operand else 0,
            )
            if (
                form not in found or (far < distance[form] and distance[form] > 128)
            ) and not is_excluded(insn):
                found[form], distance[form] = insn.raw, far
        print(f"{path.name}: {len(found)} forms so far", file=sys.stderr, flush=True)
    return found


def executable(raws: list[bytes]) -> list[bytes]:
    """Those that the emulator knows."""
    insns = [place(raw, at_cell(i, USER), USER) for i, raw in enumerate(raws)]
    guest = Guest(
        new_machine(cells_image(insns, USER), new_pool()), USER, worlds=_STATES, seed="harvest"
    )
    return [
        raw
        for raw, insn in zip(raws, insns, strict=True)
        if any(_runs(guest, insn, turn) for turn in range(_STATES))
    ]


def _runs(guest: Guest, insn: Insn, turn: int) -> bool:
    guest.start(
        turn,
        random_state(insn, Random(f"{insn.raw.hex()}:{turn}"), guest.places, guest.bases),
        insn.addr,
    )
    reason, _retired = guest.cpu.run(1000)
    return reason is ExitReason.HYPERCALL or (
        reason is ExitReason.EXCEPTION and guest.cpu.vector != 6
    )


def main() -> int:
    """Write the data file and say how many."""
    found = harvest([Path(argument) for argument in sys.argv[1:]])
    kept = executable(list(found.values()))
    lines = sorted(
        (form_of(insn).opcode, raw) for raw in kept if (insn := decode(raw, 0)) is not None
    )
    text = "# one instruction a line; see README.md\n" + "".join(
        f"{raw.hex()}\n" for _opcode, raw in lines
    )
    FORMS_FILE.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))
    print(
        f"{len(found)} forms, {len(kept)} of them executed by the emulator;"
        f" {FORMS_FILE.stat().st_size} bytes",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
