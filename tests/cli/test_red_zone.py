"""--red-zone: data below RSP survives a probe where there is a red zone; auto finds out by an
unprobed call where the file does not say.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.commands.cli import main

# f(x): a leaf keeps x below RSP over instructions that are probed, as gcc makes it of user-mode
# code; g does not; h has pushes, pops and a call only.
LEAF = """
.globl f
f:
 mov [rsp - 16], rdi
 lea rax, [rdi + rdi*2]
 nop
 nop
 mov rcx, [rsp - 16]
 add rax, rcx
 ret
.globl g
g:
 lea rax, [rdi + rdi*2]
 add rax, rdi
 nop
 ret
.globl h
h:
 push rdi
 mov [rsp - 16], rdi
 call g
 pop rdi
 mov [rsp - 8], rdi
 ret
"""
FRAME = """
.globl f
f:
 push rbp
 mov rbp, rsp
 mov [rbp - 20], edi
 nop
 nop
 nop
 mov eax, [rbp - 20]
 shl eax, 2
 pop rbp
 ret
"""
LINE = (
    "loads from below RSP, so the code is taken to have a red zone; "
    "--red-zone no says that it has none\n"
)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def code_image(tmp_path, text: str, **more: object) -> str:
    from arch_x86.images.asmtext import load_asm

    image = load_asm(text, "leaf")
    document = {
        "format": "code-image",
        "version": 1,
        "segments": [{"addr": one.addr, "hex": one.data.hex()} for one in image.segments],
        "symbols": [
            {"name": one.name, "addr": one.addr, "size": one.size} for one in image.symbols
        ],
        **more,
    }
    file = tmp_path / "leaf.json"
    file.write_text(json.dumps(document))
    return str(file)


@pytest.fixture
def leaf(tmp_path) -> str:
    file = tmp_path / "leaf.s"
    file.write_text(LEAF)
    return str(file)


@pytest.mark.parametrize("method", [(), ("--no-optimize",)], ids=["optimized", "breakpoint"])
def test_auto_finds_a_red_zone_and_says_so_in_one_line(capsys, leaf, method):
    words = ("run", leaf, "--call", "f", "--arg", "7", "--probe", "f+5", *method, "--json")
    auto, yes, no = (
        run(capsys, *words, *more) for more in ((), ("--red-zone", "yes"), ("--red-zone", "no"))
    )
    assert [json.loads(out)["calls"][0]["result"] for _, out, _ in (auto, yes)] == [28, 28]
    assert json.loads(no[1])["calls"][0]["result"] != 28  # as where there is none
    assert [status for status, _, _ in (auto, yes, no)] == [0, 0, 0]
    assert [err for _, _, err in (auto, yes, no)] == [
        f"optprobe: {Path(leaf).name}: f+0xb {LINE}",
        "",
        "",
    ]


def test_a_red_zone_below_a_frame_pointer_is_found(capsys, tmp_path):
    file = tmp_path / "frame.s"
    file.write_text(FRAME)
    status, out, err = run(
        capsys,
        "run",
        str(file),
        "--call",
        "f",
        "--arg",
        "7",
        "--probe",
        "f+4",
        "--no-optimize",
        "--json",
    )
    assert (status, json.loads(out)["calls"][0]["result"]) == (0, 28)
    assert err == f"optprobe: frame.s: f+0xa {LINE}"


@pytest.mark.parametrize("function", ["g", "h"])
def test_stores_pushes_and_calls_are_no_red_zone(capsys, leaf, function):
    status, out, err = run(
        capsys, "run", leaf, "--call", function, "--arg", "7", "--probe", "g", "--json"
    )
    assert (status, err, json.loads(out)["calls"][0]["result"]) == (0, "", 28)


def test_verify_script_and_check_take_it_too(capsys, leaf, tmp_path):
    script = tmp_path / "script"
    script.write_text("reg 0 f+5\nwait\ncall nowhere x0\ncall f x1\n")
    verify = ("verify", leaf, "--call", "f", "--arg", "7")
    check = (
        "check",
        leaf,
        "--call",
        "f",
        "--arg",
        "7",
        "--probe",
        "f+5",
        "--calls",
        "1",
        "--preemptions",
        "0",
    )
    for words in (verify, check):
        status, _, err = run(capsys, *words)
        assert (status, err) == (0, f"optprobe: leaf.s: f+0xb {LINE}")
        assert run(capsys, *words, "--red-zone", "yes")[0::2] == (0, "")
        assert run(capsys, *words, "--red-zone", "no")[0::2] == (1, "")
    script.write_text("reg 0 f+5\nwait\ncall f x1\n")
    status, out, err = run(capsys, "script", leaf, str(script), "--json")
    assert (status, json.loads(out.splitlines()[-1])["ret"]) == (0, "4")
    assert err == f"optprobe: leaf.s: f+0xb {LINE}"
    assert (
        json.loads(
            run(capsys, "script", leaf, str(script), "--json", "--red-zone", "no")[1].splitlines()[
                -1
            ]
        )["ret"]
        != "4"
    )


def test_a_schedule_replays_with_the_red_zone_that_it_was_found_with(capsys, leaf, tmp_path):
    arguments = (
        leaf,
        "--call",
        "f",
        "--arg",
        "7",
        "--probe",
        "f+5",
        "--calls",
        "1",
        "--without",
        "free-wait",
    )
    _, out, _ = run(capsys, "check", *arguments, "--json", "--save", str(tmp_path))
    (found,) = json.loads(out)["violations"]
    assert found["kind"] == "use-after-free"
    assert run(capsys, "replay", found["file"])[0] == 1
    assert run(capsys, "replay", found["schedule"], "--", *arguments)[0] == 1
    assert run(capsys, "replay", found["schedule"], "--", *arguments, "--red-zone", "no")[0] == 2


def test_auto_keeps_what_a_file_says(capsys, tmp_path):
    for says, right in (({"red_zone": False}, False), ({"red_zone": True}, True), ({}, True)):
        words = (
            "run",
            code_image(tmp_path, LEAF, **says),
            "--call",
            "f",
            "--arg",
            "7",
            "--probe",
            "f+5",
            "--no-optimize",
            "--json",
        )
        status, out, err = run(capsys, *words)
        assert (status, json.loads(out)["calls"][0]["result"] == 28) == (0, right)
        assert bool(err) is (says == {})
        for choice in (True, False):  # what is asked for counts
            out = run(capsys, *words, "--red-zone", "yes" if choice else "no")[1]
            assert (json.loads(out)["calls"][0]["result"] == 28) is choice


def test_another_word_is_refused_in_one_line(capsys, leaf):
    status, out, err = run(capsys, "run", leaf, "--call", "f", "--red-zone", "maybe")
    assert (status, out, err) == (
        2,
        "",
        "optprobe: --red-zone maybe: unknown; give yes, no or auto\n",
    )
