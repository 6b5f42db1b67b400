"""The experiments notice when copies, slots, detours or steps are wrong: each fault is planted on
purpose, one at a time.
"""

from __future__ import annotations

import dataclasses
import struct

import pytest

from arch_x86.isa.encode import jmp32
from arch_x86.isa.insn import Insn
from arch_x86.probes import detour as detour_module
from arch_x86.probes import optimized_sites as sites_module
from arch_x86.probes import slot as slot_module
from arch_x86.probes import stepping as stepping_module
from arch_x86.probes.relocate import copy_instruction
from engine.kprobe import Method
from tests.equivalence.copies import CopyBench
from tests.equivalence.hits import HitBench
from tests.equivalence.world import KERNEL, USER

# mov eax, [rip+..]; add [rip+..], 7; cmp [rip+..], imm32 (the displacement is not last); lea;
# movaps; store
RIP_RELATIVE = (
    "8b0500000000",
    "83050000000007",
    "813d0000000078563412",
    "488d0d00000000",
    "0f280500000000",
    "48891500000000",
)
# movaps is not
BOOSTED = (
    "8b0500000000",
    "83050000000007",
    "813d0000000078563412",
    "488d0d00000000",
    "48891500000000",
)
# add eax, ecx; push rax; ret; movzx; mov [rdi], rax: nothing about them depends on their place
ABSOLUTE = ("01c8", "50", "c3", "0fb6c8", "488907")


def copies_that_differ(codes: tuple[str, ...], pool, places=USER) -> int:
    """How many of ``codes`` have a copy that is found to differ."""
    bench = CopyBench([bytes.fromhex(code) for code in codes], pool, places)
    found = [
        any(
            bench.difference(number, which, turn, state)
            for turn, state in enumerate(bench.states(number, 4))
            for which in (0, 1)
        )
        for number in range(len(codes))
    ]
    bench.machine.close()
    return sum(found)


def hits_that_differ(codes: tuple[str, ...], method: Method, pool) -> int:
    """How many of ``codes``, probed by ``method``, are found to differ."""
    bench = HitBench([bytes.fromhex(code) for code in codes], pool, USER)
    trials = [bench.trials(number, 16) for number in range(len(codes))]
    assert bench.register(method, range(len(codes))) == list(range(len(codes)))
    found = sum(
        any(bench.difference(number, method, trial) for trial in trials[number])
        for number in range(len(codes))
    )
    bench.bench.close()
    return found


def without_fixup(insn: Insn, _to: int) -> bytes:
    return insn.raw


def off_by_one(insn: Insn, to: int) -> bytes:
    raw = copy_instruction(insn, to)
    if not insn.rip_relative:
        return raw
    at = insn.disp_offset
    return raw[:at] + struct.pack("<i", struct.unpack_from("<i", raw, at)[0] + 1) + raw[at + 4 :]


def from_the_displacement(insn: Insn, to: int) -> bytes:
    """The distance counted from behind the displacement, though an immediate follows."""
    raw = copy_instruction(insn, to)
    at = insn.disp_offset
    return (
        raw[:at]
        + struct.pack("<i", struct.unpack_from("<i", raw, at)[0] + insn.imm_size)
        + raw[at + 4 :]
        if insn.rip_relative
        else raw
    )


@pytest.mark.parametrize("places", [USER, KERNEL], ids=["user", "kernel"])
def test_sound_copies_do_not_differ(pool, places):
    assert copies_that_differ(RIP_RELATIVE + ABSOLUTE, pool, places) == 0


@pytest.mark.parametrize("places", [USER, KERNEL], ids=["user", "kernel"])
@pytest.mark.parametrize(
    ("plant", "seen"), [(without_fixup, 6), (off_by_one, 6), (from_the_displacement, 2)]
)
def test_a_wrong_displacement_is_noticed_in_each_form(monkeypatch, pool, places, plant, seen: int):
    monkeypatch.setattr(slot_module, "copy_instruction", plant)
    assert copies_that_differ(RIP_RELATIVE, pool, places) == seen
    assert copies_that_differ(ABSOLUTE, pool, places) == 0


@pytest.mark.parametrize("off", [-1, 1])
def test_a_jump_back_off_by_one_is_noticed(monkeypatch, pool, off: int):
    monkeypatch.setattr(slot_module, "jmp32", lambda source, target: jmp32(source, target + off))
    assert copies_that_differ(BOOSTED, pool) == len(BOOSTED)
    assert hits_that_differ(("01c8", "50", "0fb6c8", "488907"), Method.BOOSTED, pool) == 4


def test_an_int3_for_a_jump_back_is_noticed(monkeypatch, pool):
    monkeypatch.setattr(slot_module, "fits_jump_back", lambda _insn: False)
    assert copies_that_differ(("01c8", "488907"), pool) == 2


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        ({"relative_ip": False}, ("d1e0", "7410", "e810000000", "f7d8")),
        ({"relative_ip": True}, ("c3", "ffd0", "ffe0", "c20800")),
        ({"return_address": False}, ("e810000000", "ffd0")),
        ({"return_address": True}, ("50", "9c")),
        ({"pushed_flags": False}, ("9c", "669c")),
    ],
)
def test_a_missing_or_needless_fixup_after_a_step_is_noticed(
    monkeypatch, pool, change: dict[str, bool], codes: tuple[str, ...]
):
    assert hits_that_differ(codes, Method.INT3, pool) == 0
    original = stepping_module.fixup_after_step
    monkeypatch.setattr(
        stepping_module,
        "fixup_after_step",
        lambda insn: dataclasses.replace(original(insn), **change),
    )
    assert hits_that_differ(codes, Method.INT3, pool) == len(codes)


def test_an_interrupt_flag_that_is_not_the_instructions_own_is_noticed(monkeypatch, pool):
    monkeypatch.setattr(stepping_module, "changes_interrupt_flag", lambda _insn: False)
    assert hits_that_differ(("fa", "9d"), Method.INT3, pool) == 2
    monkeypatch.setattr(stepping_module, "changes_interrupt_flag", lambda _insn: True)
    assert hits_that_differ(("01c8",), Method.INT3, pool) == 1


def test_a_detour_with_wrong_copies_or_a_wrong_way_back_is_noticed(monkeypatch, pool):
    assert hits_that_differ(BOOSTED + ABSOLUTE, Method.OPTIMIZED, pool) == 0
    monkeypatch.setattr(
        detour_module, "copy_instructions", lambda insns, _to: b"".join(insn.raw for insn in insns)
    )
    assert hits_that_differ(BOOSTED, Method.OPTIMIZED, pool) == len(BOOSTED)
    monkeypatch.undo()
    monkeypatch.setattr(detour_module, "jmp32", lambda source, target: jmp32(source, target + 1))
    assert hits_that_differ(("01c8", "50", "0fb6c8"), Method.OPTIMIZED, pool) == 3


def test_a_detour_that_swaps_two_registers_is_noticed(monkeypatch, pool):
    original = sites_module.build_detour

    def build(*args, **kwargs):
        detour = original(*args, **kwargs)
        swapped = detour.code.replace(b"\x58\x59\x5a", b"\x59\x58\x5a", 1)
        assert swapped != detour.code
        return dataclasses.replace(detour, code=swapped)

    monkeypatch.setattr(sites_module, "build_detour", build)
    assert hits_that_differ(("0fb6c8", "488907"), Method.OPTIMIZED, pool) == 2


def test_vector_state_and_memory_count(pool):
    """An outcome that differs in one byte of either is another outcome."""
    bench = CopyBench([bytes.fromhex("0f28c1")], pool, USER)
    (state,) = bench.states(0, 1)
    outcome = bench.original(0, 0, state)
    for field in ("vector", "ram"):
        data = bytearray(getattr(outcome, field))
        data[300] ^= 1
        assert bench.compare(0, 0, 0, state, outcome._replace(**{field: bytes(data)}))
    assert bench.compare(0, 0, 0, state, outcome) == ""
    bench.machine.close()
