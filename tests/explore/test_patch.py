"""Laws of ``optprobe patch``: the tables of what each way of replacing code comes to, on real
instructions; what calls may leave; and what a protocol of one's own is judged by.
"""

from __future__ import annotations

import json

import pytest

import optprobe
from engine.commands.cli import main
from tests.explore.patched_functions import MODELS, OFFSETS, crosses, function, patched, verdict

NOPS = """
g:
    mov eax, 7
    ret
f:
    nop
    nop
    nop
    nop
    nop
    mov eax, edi
    ret
"""
TWO = """
g:
    add ebx, 100
    ret
f:
    push rbx
    mov ebx, edi
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    lea eax, [rbx + 1]
    pop rbx
    ret
"""
TWICE = """
g:
    add ebx, 100
    ret
f:
    push rbx
    xor ebx, ebx
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    lea ebx, [rbx + rbx + 1]
    dec edi
    .byte 0x75, 0xf3
    mov eax, ebx
    pop rbx
    ret
"""
OWN = '''
import optprobe

@optprobe.protocol(sync="every CPU fetches the new bytes when the protocol is done")
def whole_then_sync(p, patches):
    """One store of 8 bytes, and a core sync."""
    for patch in patches:
        p.store(patch.addr, patch.eight(), "the whole instruction")
        p.sync("done", step="sync")
'''


@optprobe.protocol()
def nobody_is_told(p, patches):
    for patch in patches:
        p.store(patch.addr, patch.eight(), "the whole instruction")


@optprobe.protocol()
def handler_told_late(p, patches):
    (patch,) = patches
    p.breakpoint(patch)
    p.handle([patch])
    p.sync("breakpoint")
    p.copy(patch.addr + 1, patch.new[1:], "tail")
    p.sync("tail")
    p.store(patch.addr, patch.new[:1], "first byte")
    p.sync("first byte")
    p.handled("references")


@optprobe.protocol()
def writes_past_the_site(p, patches):
    (patch,) = patches
    p.stop_machine(lambda: p.copy(patch.addr, patch.new + patch.behind[:1] + b"\0", "all"), "all")


@optprobe.protocol()
def two_bytes_only(p, patches):
    (patch,) = patches
    p.stop_machine(lambda: p.copy(patch.addr, patch.new[:2], "two bytes"), "two bytes")


@pytest.mark.parametrize("offset", OFFSETS)
def test_text_poke_bp_is_safe_whatever_a_cpu_fetches(offset):
    for fetch in ("coherent", "unit:8", "torn"):
        assert verdict(patched(offset, "text_poke_bp", fetch)) == "safe", fetch


def test_hlt_in_place_of_int3_is_safe_too():
    for fetch in ("coherent", "unit:8", "torn"):
        assert verdict(patched(61, "hlt_first", fetch)) == "safe", fetch


@pytest.mark.parametrize("offset", OFFSETS)
def test_one_store_is_torn_exactly_where_the_site_is_fetched_in_pieces(offset):
    assert {fetch: verdict(patched(offset, "one_store", fetch)) for fetch in MODELS} == {
        fetch: "torn" if crosses(offset, fetch) else "safe" for fetch in MODELS
    }


@pytest.mark.parametrize("protocol", ["four_and_four", "one_and_four", "text_poke"])
def test_several_stores_without_a_breakpoint_are_torn_wherever_the_site_is(protocol):
    found = {
        verdict(patched(offset, protocol, fetch))
        for offset in OFFSETS
        for fetch in ("coherent", "torn")
    }
    assert found == {"torn"}


@pytest.mark.parametrize("step", ["sync-1", "sync-2"])
def test_without_a_sync_behind_int3_a_site_is_torn_where_it_is_fetched_in_pieces(step):
    for offset in OFFSETS:
        for fetch in ("unit:8", "torn") if offset else ("coherent", "stale", "unit:8"):
            found = verdict(patched(offset, "text_poke_bp", fetch, without=[step]))
            assert found == ("torn" if crosses(offset, fetch) else "safe"), (offset, fetch)


def test_without_the_last_sync_a_cpu_in_the_trap_finds_no_handler_any_more():
    for fetch in ("coherent", "stale", "torn"):
        result = patched(13, "text_poke_bp", fetch, without=["sync-3"])
        assert verdict(result) == "fault"
        assert "breakpoint" in result.violations[0].violation.explain


@pytest.mark.parametrize("step", ["int3-first", "handler", "refs"])
def test_each_other_step_of_text_poke_bp_is_needed_or_is_said_not_to_be(step):
    found = verdict(patched(13, "text_poke_bp", "coherent", without=[step]))
    assert found == {"int3-first": "torn", "handler": "fault", "refs": "safe"}[step]


def test_a_pass_takes_the_old_code_or_the_new_and_both_are_executed():
    result = patched(0, "text_poke_bp", "torn")
    assert result.verdict == "safe"
    assert min(result.coverage.old_code, result.coverage.new_code, result.coverage.trapped) > 0
    assert (result.missing, result.timeline, result.sites[0].old.hex()) == ((), (), "0f1f440000")


def test_a_protocol_that_is_done_too_early_is_caught_where_stores_are_seen_late():
    assert verdict(patched(0, nobody_is_told, "coherent")) == "safe"
    (report,) = patched(0, nobody_is_told, "stale").violations
    assert report.violation.kind is optprobe.ViolationKind.WRONG_RESULT
    assert "0f 1f 44 00 00" in report.violation.explain
    assert "though the protocol has said" in report.violation.explain


def test_a_cpu_may_hit_a_breakpoint_before_its_handler_is_told():
    for fetch in ("coherent", "torn"):
        assert verdict(patched(0, handler_told_late, fetch)) == "fault"


def test_a_protocol_that_changes_bytes_behind_a_site_is_caught_at_the_end():
    image = optprobe.load_asm("f:\nnop\nnop\nret\nother:\nmov eax, 1\nret\n", "f.s")
    report = end_of(image, "f", "6690", writes_past_the_site)
    assert "other+0x0 holds 0x00 at the end, originally 0xb8" in report.violation.explain


def test_a_protocol_that_leaves_bytes_of_the_new_code_out_is_caught_at_the_end():
    image = optprobe.load_asm("f:\nnop\nnop\nnop\nnop\nnop\nret\n", "f.s")
    report = end_of(image, "f", "eb030f1f00", two_bytes_only)
    told = "f+0x0 holds eb 03 90 90 90 at the end, in place of eb 03 0f 1f 00"
    assert told in report.violation.explain


def end_of(image, call, code, protocol):
    """The violation of a protocol that is right as long as calls go on."""
    result = optprobe.patch(image, call=call, sites=[call], to=[code], protocol=protocol, calls=1)
    (report,) = result.violations
    assert report.violation.kind is optprobe.ViolationKind.NOT_RESTORED
    return report


@optprobe.protocol()
def suspends_for_ever(p, patches):
    p.freeze("patch", new_tasks=False)
    p.store(patches[0].addr, patches[0].eight(), "the whole instruction")


@optprobe.protocol()
def hides_for_ever(p, patches):
    p.hide(patches[0], "the page")
    p.sync("the page")
    p.copy(patches[0].addr, patches[0].new, "all")


@optprobe.protocol()
def waits_under_stop_machine(p, patches):
    p.stop_machine(lambda: p.sync("too early"), "patch")


@optprobe.protocol()
def waits_in_place_of_syncs(p, patches):
    (patch,) = patches
    p.handle([patch])
    p.breakpoint(patch)
    p.wait_for_cpus("breakpoint")
    p.copy(patch.addr + 1, patch.new[1:], "tail")
    p.wait_for_cpus("tail")
    p.store(patch.addr, patch.new[:1], "first byte")
    p.wait_for_cpus("first byte")
    p.handled("references")


def test_a_wait_for_cpus_does_what_a_sync_does_only_where_stores_are_seen_at_once():
    found = {fetch: verdict(patched(13, waits_in_place_of_syncs, fetch)) for fetch in MODELS}
    assert (found["coherent"], found["stale"], found["torn"]) == ("safe", "fault", "torn")
    assert {found["unit:32"], found["unit:8"]} == {"fault", "torn"}


def test_tasks_that_are_never_let_go_on_are_a_deadlock():
    for protocol, told in (
        (suspends_for_ever, "CPU 0 is suspended"),
        (hides_for_ever, "CPU 0 waits at hidden code"),
    ):
        (report,) = patched(0, protocol, "coherent").violations
        assert report.violation.kind is optprobe.ViolationKind.DEADLOCK
        assert told in report.violation.explain


def test_a_function_of_stop_machine_that_waits_for_cpus_is_refused():
    with pytest.raises(optprobe.InputError, match="waits for the CPUs, which are parked"):
        patched(0, waits_under_stop_machine, "coherent")


def test_a_site_behind_an_instruction_that_is_executed_alone_is_seen():
    text = """
    g:
        lea rax, [rdi + 2]
        ret
        .skip 70000, 0xcc
    f:
        mov eax, 1
        cpuid
        .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
        ret
    """
    image = optprobe.load_asm(text, "f.s")
    change = {"sites": ["f+0x7"], "to": ["call:g"], "calls": 1, "preemptions": 1}
    safe = optprobe.patch(image, call="f", arguments=[5], protocol="text_poke_bp", **change)
    assert (safe.verdict, safe.coverage.old_code > 0) == ("safe", True)
    torn = optprobe.patch(image, call="f", arguments=[5], protocol="text_poke", **change)
    assert verdict(torn) == "torn"


def test_the_old_code_comes_back_whole_too():
    for fetch in ("coherent", "torn"):
        assert verdict(patched(13, "text_poke_bp", fetch, back=True)) == "safe"
    assert verdict(patched(13, "one_store", "unit:8", back=True)) == "torn"


def test_the_passes_of_one_call_may_take_the_new_code_and_then_the_old_code_again():
    result = optprobe.patch(
        optprobe.load_asm(TWICE, "twice.s"),
        call="f",
        arguments=[2],
        sites=["f+0x3"],
        to=["call:g"],
        back=True,
        calls=1,
        preemptions=1,
    )
    assert verdict(result) == "safe"


def two_sites(protocol, **options):
    return optprobe.patch(
        optprobe.load_asm(TWO, "two.s"),
        call="f",
        arguments=[5],
        sites=["f+0x8", "f+0x3"],
        to=["call:g"],
        protocol=protocol,
        calls=1,
        preemptions=1,
        **options,
    )


def test_several_sites_are_patched_one_by_one_or_in_one_batch():
    for protocol, syncs in (("text_poke_bp", 4), ("text_poke_bp_batch", 2)):
        result = two_sites(protocol, fetch="torn")
        assert verdict(result) == "safe", protocol
        assert [site.new[:1] for site in result.sites] == [b"\xe8", b"\xe8"]
        broken = two_sites(protocol, without=["sync-3"])
        assert verdict(broken) == "fault"
        assert sum("text_poke_sync" in line for line in broken.timeline) == syncs


@pytest.mark.parametrize("preempt", [False, True])
@pytest.mark.parametrize("protocol", ["text_poke_bp", "one_store"])
def test_a_task_inside_the_bytes_is_named_as_such(protocol, preempt):
    result = optprobe.patch(
        optprobe.load_asm(NOPS, "nops.s"),
        call="f",
        arguments=[5],
        sites=["f"],
        to=["jmp:g"],
        protocol=protocol,
        preempt=preempt,
        calls=1,
    )
    (report,) = result.violations
    assert report.violation.kind is optprobe.ViolationKind.TORN
    assert "a task inside the bytes" in report.violation.explain
    assert 0 < report.violation.rip - result.sites[0].addr < 5


@optprobe.protocol(tasks="no task stands inside of the bytes when these change")
def waits_for_tasks(p, patches):
    (patch,) = patches
    p.handle(patches)
    p.breakpoint(patch)
    p.sync("breakpoint")
    p.wait_for_tasks("inside of the bytes", step="tasks")
    p.copy(patch.addr + 1, patch.new[1:], "tail")
    p.sync("tail")
    p.store(patch.addr, patch.new[:1], "first byte")
    p.sync("first byte")
    p.handled("references")


@pytest.mark.parametrize("without", [[], ["tasks"]])
def test_a_wait_for_tasks_behind_the_breakpoint_keeps_tasks_out_of_the_bytes(without):
    result = optprobe.patch(
        optprobe.load_asm(NOPS, "nops.s"),
        call="f",
        arguments=[5],
        sites=["f"],
        to=["jmp:g"],
        protocol=waits_for_tasks,
        without=without,
        preempt=True,
        calls=1,
        preemptions=1,
    )
    assert verdict(result) == ("torn" if without else "safe")


def test_a_protocol_of_ones_own_is_taken_from_a_file_with_its_steps(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    assert verdict(patched(0, str(file), "unit:8")) == "safe"
    assert verdict(patched(6, f"{file}:whole_then_sync", "unit:8")) == "torn"
    late = patched(0, str(file), "stale", without=["sync"])
    assert verdict(late) == "wrong-result"
    with pytest.raises(optprobe.InputError, match="no step of whole_then_sync; it has sync"):
        patched(0, str(file), "stale", without=["sync-1"])


def test_the_same_command_prints_the_same_bytes_and_its_schedule_replays(tmp_path, capsys):
    image = tmp_path / "two.s"
    image.write_text(TWO)
    words = [str(image), "--call", "f", "--arg", "5", "--site", "f+0x3", "--to", "call:g"]
    words += ["--protocol", "one_store", "--fetch", "torn", "--calls", "1"]
    printed: list[str] = []
    for jobs in ("1", "1", "2"):
        assert main(["patch", *words, "--jobs", jobs, "--json"]) == 1
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    document = json.loads(printed[0])
    assert main(["replay", document["violations"][0]["schedule"], "--", "patch", *words]) == 1
    assert capsys.readouterr().out.splitlines() == document["timeline"]


def test_code_that_nobody_executes_is_inconclusive_whatever_was_searched():
    result = optprobe.patch(
        function(0), call="f", arguments=[5], sites=["g"], to=["nop"], calls=1, preemptions=1
    )
    assert (result.verdict, result.good) == ("inconclusive", False)
    assert result.missing == ("the code at g+0x0",)


def test_a_step_that_the_decorator_does_not_name_is_refused():
    @optprobe.protocol()
    def unnamed(p, patches):
        p.sync("done", step="sync")

    with pytest.raises(optprobe.InputError, match="'sync': no step of the protocol"):
        patched(0, unnamed, "coherent")


def test_kprobes_write_their_jumps_by_any_patch_protocol():
    work = optprobe.load_asm("f: lea eax, [rdi + rdi*2]\n add eax, edi\n ret", "f.s")
    options = {"call": "f", "arguments": [5], "probes": ["f"], "calls": 1, "preemptions": 0}
    newer = {**options, "profile": "linux-6.1"}
    assert optprobe.check(work, **newer, protocol="text_poke_bp").verdict == "safe"
    assert optprobe.check(work, **newer, protocol="one_and_four").verdict == "violation"
    # linux-2010 lets a hit go on behind the copy while its jump goes, which needs stop_machine().
    (report,) = optprobe.check(work, **options, protocol="text_poke_bp").violations
    assert report.violation.rip != work.by_name["f"].addr
    with pytest.raises(optprobe.InputError, match="no step of one_store; it has sync"):
        optprobe.check(work, **options, protocol="one_store", without=["stop-machine"])
    with pytest.raises(optprobe.InputError, match="which has sync, and no safety step"):
        optprobe.check(work, **options, protocol="one_store", without=["fly"])


def test_a_violation_with_a_protocol_from_a_file_is_saved_and_replays(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work.s").write_text("work: lea eax, [rdi + rdi*2]\n add eax, edi\n ret\n")
    (tmp_path / "mine.py").write_text(OWN)
    words = ["check", "work.s", "--call", "work", "--arg", "5", "--probe", "work", "--calls", "1"]
    words += ["--preemptions", "0", "--fetch", "torn", "--protocol", "mine.py", "--save", "found"]
    assert main(words) == 1
    (file,) = (str(one.resolve()) for one in (tmp_path / "found").glob("*-0.json"))
    monkeypatch.chdir("/")
    capsys.readouterr()
    assert main(["replay", file]) == 1
    assert "torn-instruction" in capsys.readouterr().out
    (tmp_path / "mine.py").write_text(OWN.replace("p.store(", "p.copy("))
    assert main(["replay", file]) == 2
    assert "the schedule is of" in capsys.readouterr().err
    (tmp_path / "mine.py").unlink()
    assert main(["replay", file]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"to": ["0f"]}, "the code has no whole instruction; give whole"),
        ({"to": ["900f"]}, "the code has no whole instruction behind its first 1 byte;"),
        ({"to": ["90" * 17]}, "the function's code ends after"),
        ({"to": ["call:g"], "lock": "f+0x8..f"}, "nothing is between these places"),
        ({"to": ["call:g"], "lock": "f..f"}, "nothing is between these places"),
    ],
)
def test_code_and_places_that_can_not_be_are_refused_with_the_reason(fields, told):
    with pytest.raises(optprobe.InputError, match=told):
        optprobe.patch(function(0), call="f", arguments=[5], sites=["f+0x3"], **fields)


def test_an_image_without_function_symbols_is_said_to_have_none():
    image = optprobe.load_asm("f:\n.byte 0x90\nret\n", "f.s")
    with pytest.raises(optprobe.InputError, match="there is none: the image has no function"):
        optprobe.inspect(image, "f")
