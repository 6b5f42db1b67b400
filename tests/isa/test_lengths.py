"""Lengths and operand fields against independent decoders, on the code of real libraries: iced-x86,
and objdump where installed.

``make test`` samples; ``OPTPROBE_FULL=1`` takes all of every library's text (1.5 million
instructions on Debian 12, half a minute).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import capstone
import iced_x86
import pytest
from elftools.elf.elffile import ELFFile

from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode

FULL = bool(os.environ.get("OPTPROBE_FULL"))
SAMPLE = 1 << 30 if FULL else 1 << 17  # bytes of each library's text
# Not libcrypto: it keeps tables of data between its functions.
SYSTEM = ("libc.so.6", "libm.so.6", "libz.so.1", "libstdc++.so.6", "libsqlite3.so.0")
FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib")


LEGACY = bytes.fromhex("f0f2f32e3626643e6566 67".replace(" ", ""))


def text_of(path: Path) -> tuple[int, bytes] | None:
    """Address and bytes of .text, None where the file is for another processor."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".text")
        if elf["e_machine"] != "EM_X86_64" or section is None:
            return None
        return section["sh_addr"], section.data()[:SAMPLE]


def libraries() -> list[Path]:
    """What the test environment brings along, and what the machine has of the usual libraries."""
    brought = [
        next(Path(module.__file__ or "").parent.rglob("*.so*"), None)
        for module in (capstone, iced_x86)
    ]
    found = [
        next((Path(d, name) for d in FOLDERS if Path(d, name).exists()), None) for name in SYSTEM
    ]
    return [path for path in (*brought, *found) if path is not None and text_of(path) is not None]


AMD_ONLY = {iced_x86.CpuidFeature.XOP, iced_x86.CpuidFeature.FMA4}


def is_fma4(raw: bytes) -> bool:
    """VEX map 3, opcodes 5c to 7f."""
    return len(raw) > 4 and raw[0] == 0xC4 and raw[1] & 31 == 3 and 0x5C <= raw[3] <= 0x7F


def rex_is_misplaced(raw: bytes) -> bool:
    """A REX prefix that another prefix follows: data among code. Processors ignore it, the kernel's
    decoder (and ours) ends there.
    """
    seen = False
    for byte in raw:
        if 0x40 <= byte <= 0x4F:
            if seen:
                return True
            seen = True
        elif byte in LEGACY:
            if seen:
                return True
        else:
            return False
    return False


@pytest.mark.parametrize("path", libraries(), ids=lambda path: path.name)
def test_real_code_decodes_as_iced_decodes_it(path: Path) -> None:
    start, text = text_of(path) or (0, b"")
    decoder = iced_x86.Decoder(64, text, ip=start)
    checked = misplaced = 0
    for reference in decoder:
        if reference.code == iced_x86.Code.INVALID:
            continue
        at = reference.ip - start
        if rex_is_misplaced(text[at : at + 15]):
            misplaced += 1
            continue
        if AMD_ONLY & set(reference.cpuid_features()):
            continue  # the kernel's decoder does not know them, so neither does ours
        insn = decode(text[at : at + 15], reference.ip)
        offsets = decoder.get_constant_offsets(reference)
        assert insn is not None, f"{reference} at {reference.ip:#x}"
        assert insn.length == reference.len, f"{reference} at {reference.ip:#x}"
        assert insn.rip_relative == reference.is_ip_rel_memory_operand
        if offsets.has_displacement:
            assert (insn.disp_offset, insn.disp_size) == (
                offsets.displacement_offset,
                offsets.displacement_size,
            )
        if reference.op_count and reference.op0_kind == iced_x86.OpKind.NEAR_BRANCH64:
            assert insn.target == reference.near_branch_target
        checked += 1
    assert checked > min(SAMPLE, len(text)) // 16
    assert misplaced * 1000 < checked
    print(f"{path.name}: {checked} instructions")


LINE = re.compile(r"^\s*([0-9a-f]+):\t((?:[0-9a-f]{2} )+)\s*\t(.*)")


def test_real_code_has_the_lengths_that_objdump_prints() -> None:
    """Where objdump is not installed, the list of libraries to ask it about is empty: iced-x86 has
    answered for all of them.
    """
    asked = libraries() if shutil.which("objdump") else []
    for path in asked:
        start, text = text_of(path) or (0, b"")
        stop = start + min(len(text), SAMPLE if FULL else 1 << 16)
        command = [
            "objdump",
            "-d",
            "-w",
            "-j",
            ".text",
            f"--start-address={start}",
            f"--stop-address={stop}",
            str(path),
        ]
        lines = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        found = [match for line in lines if (match := LINE.match(line)) is not None]
        # the last few lines may be cut short by the stop address
        for match in found[:-MAX_INSN_SIZE]:
            addr, raw = int(match[1], 16), bytes.fromhex(match[2])
            # objdump prints a stray prefix, and fwait, as instructions of their own.
            alone = len(raw) == 1 and (raw[0] in LEGACY or 0x40 <= raw[0] <= 0x4F)
            if (
                "(bad)" in match[3]
                or ".byte" in match[3]
                or alone
                or raw[0] == 0x9B
                or rex_is_misplaced(raw)
                or is_fma4(raw)
            ):
                continue
            insn = decode(text[addr - start : addr - start + 15], addr)
            assert insn is not None, match[0]
            assert insn.length == len(raw), match[0]
        assert len(found) > 1000, path
