"""What violations and timelines of patches say: what happened, in words that are true of it."""

from __future__ import annotations

import re

import optprobe
from engine.patching.oracles.oracle import Oracle
from engine.patching.oracles.patched_text import PatchedText

DISPATCH = """
other:
    add ebx, 100
    ret
    .p2align 6
dispatch:
    push rbx
    mov rbx, rdi
    xor eax, eax
    call other
    add rax, rbx
    pop rbx
    ret
"""


def patched(to="nop", protocol: str | optprobe.PatchProtocol = "text_poke_bp", **options):
    fields = {"site": "dispatch+0x6", "text": DISPATCH, "calls": 1, "preemptions": 1, **options}
    image = optprobe.load_asm(fields.pop("text"), "dispatch.s")
    return optprobe.patch(
        image,
        call="dispatch",
        arguments=[5],
        sites=[fields.pop("site")],
        to=[to],
        protocol=protocol,
        **fields,
    )


def explained(result) -> str:
    (report,) = result.violations
    return report.violation.explain


def lines_of(result) -> list[str]:
    return [line.strip() for line in result.timeline]


@optprobe.protocol()
def writes_behind_the_site(p, patches):
    (patch,) = patches
    p.copy(patch.addr + len(patch.new), b"\x90\x01", "behind the site")


@optprobe.protocol()
def handler_does_the_old_instruction(p, patches):
    (patch,) = patches
    p.handle([patch], as_old=True)
    p.breakpoint(patch)
    p.sync("breakpoint")
    p.copy(patch.addr + 1, patch.new[1:], "tail")
    p.sync("tail")


@optprobe.protocol()
def first_byte_first(p, patches):
    (patch,) = patches
    p.store(patch.addr, patch.new[:1], "first byte")
    p.copy(patch.addr + 1, patch.new[1:], "tail")


def test_a_cpu_that_the_handler_sent_on_is_no_task_inside_the_bytes():
    """The handler does the new no-op, and the three no-ops behind it are half written."""
    told = explained(patched("0f1f440000909090"))
    assert "executes 01 d8 at dispatch+0xc" in told
    assert "the handler of the breakpoint at dispatch+0x6 sends CPUs on to dispatch+0xb" in told
    assert "a task inside" not in told


def test_a_handler_that_does_the_old_instruction_is_named_too():
    text = DISPATCH.replace("call other", "nop\n nop\n nop\n nop\n nop")
    result = patched("call:other", handler_does_the_old_instruction, text=text)
    assert "sends CPUs on to dispatch+0x7, among the bytes" in explained(result)


def test_a_cpu_behind_the_first_new_instruction_is_no_task_inside_the_bytes():
    """The first byte, a no-op, is written first."""
    told = explained(patched("900f1f4000", first_byte_first))
    assert "it is behind the first new instruction, 90, and the bytes there are not" in told


def test_a_breakpoint_without_a_handler_is_the_protocols_and_not_the_programs_code():
    for protocol, byte in (("text_poke_bp", "cc"), ("hlt_first", "f4")):
        told = explained(patched(protocol=protocol, without=["handler"]))
        assert f"it executed the protocol's breakpoint, {byte}, and no handler" in told
        assert "call" not in told
        assert "padding" not in told


def test_a_probes_breakpoint_that_nobody_handles_is_named_as_such():
    image = optprobe.load_asm("f: lea eax, [rdi + rdi*2]\n add eax, edi\n ret", "f.s")
    result = optprobe.check(
        image,
        call="f",
        arguments=[5],
        probes=["f"],
        calls=1,
        without=["int3-gone"],
        preemptions=1,
    )
    assert "the breakpoint of a probe or of a poke, which nobody handles" in explained(result)


def test_bytes_stored_outside_of_the_sites_are_in_the_timeline_and_the_violation():
    result = patched("nop", writes_behind_the_site)
    assert "dispatch+0xb: 48 -> 90, which is in no site" in lines_of(result)
    assert "the protocol has stored 90 over 48 at dispatch+0xb, which is in no site" in (
        explained(result)
    )


def test_a_store_of_a_whole_site_has_nothing_outside_of_it_to_tell():
    result = patched("nop", "one_store", fetch="unit:8")
    assert result.violations
    assert not any("in no site" in line for line in lines_of(result))


def test_a_late_fetch_is_shown_with_what_the_text_has():
    (told,) = (line for line in lines_of(patched("nop", "one_store", fetch="torn")) if "--" in line)
    found = re.fullmatch(r"-- fetches ([0-9a-f ]+), where the text has ([0-9a-f ]+) --", told)
    assert found is not None
    fetched, there = (bytes.fromhex(part) for part in found.groups())
    assert len(fetched) == len(there)
    assert fetched != there
    assert there == bytes.fromhex("0f1f440000")


def test_a_core_sync_is_two_lines_of_a_timeline_in_every_fetch_model():
    for fetch in ("coherent", "torn"):
        lines = lines_of(patched("nop", fetch=fetch, without=["sync-3"]))
        for sync in ("breakpoints", "tails"):
            sent = f"patcher: sends the interrupts of a core sync ({sync})"
            answered = f"patcher: text_poke_sync ({sync}): every CPU has answered"
            assert lines.count(sent) == 1, (fetch, sync)
            assert lines.count(answered) <= 1
            if answered in lines:
                assert lines.index(sent) < lines.index(answered)
    assert any("every CPU has answered" in line for line in lines)


def test_a_deferrable_sync_does_not_say_that_cpus_in_user_mode_have_answered():
    result = patched(
        "call:other",
        "text_poke_bp_deferred",
        text=DISPATCH.replace("call other", ".byte 0x0f, 0x1f, 0x44, 0, 0"),
        fetch="stale",
        user="dispatch..dispatch+0x10",
    )
    lines = lines_of(result)
    assert "patcher: sends the interrupts of a core sync (breakpoints)" in lines
    sync = "patcher: text_poke_sync_deferrable (breakpoints)"
    assert f"{sync}: every CPU that was not in user mode has answered" in lines


def test_a_violation_is_told_alike_whatever_schedule_was_run_before():
    """So a search may make a vCPU's run once, and use what it has come to in other schedules."""
    assert PatchedText.save is Oracle.save
    assert PatchedText.key is Oracle.key


def test_a_wrong_result_is_compared_with_the_old_code_and_the_new():
    @optprobe.protocol()
    def other_code(p, patches):
        (patch,) = patches
        p.stop_machine(lambda: p.store(patch.addr + 7, b"\xd0", "add rax, rdx"), "all")
        p.stop_machine(lambda: p.copy(patch.addr, patch.new, "all"), "all")

    told = explained(patched("nop", other_code))
    assert "with the old code or the new it leaves" in told
    assert "without probes" not in told


def test_the_end_of_a_call_is_called_so_in_a_timeline():
    @optprobe.protocol()
    def stores_behind_the_function(p, patches):
        (patch,) = patches
        p.stop_machine(lambda: p.copy(patch.addr, patch.new, "all"), "all")
        p.store(patch.addr + 10, b"\x90", "behind the function")

    lines = lines_of(patched("nop", stores_behind_the_function))
    assert "the call has returned" in lines
    assert not any(line.endswith("hlt") for line in lines)


def test_strict_says_that_a_part_of_a_store_is_one_unit_of_it():
    for fetch, size in (("unit:8", "8 bytes"), ("torn", "1 byte")):
        told = explained(patched("nop", "one_store", fetch=fetch, strict=True, site="dispatch+0x6"))
        assert f"the part of the store in a unit of {size}" in told
