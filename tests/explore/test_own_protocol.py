"""What a patch protocol of one's own is told when it does what makes no sense, and what `patch`
says of options and places that have no effect.
"""

from __future__ import annotations

import json

import pytest

import optprobe
from arch_x86.protocols.protocol import COPY_MAX
from engine.commands.cli import main
from tests.explore.patched_functions import function, patched, verdict

STORES = """
import optprobe

@optprobe.protocol(sync="every CPU fetches the new bytes when the protocol is done")
def stores_late(p, patches):
    for patch in patches:
        p.store(patch.addr, patch.eight(), "the whole instruction")
        p.sync("done", step="sync")

@optprobe.protocol()
def goes_round(p, patches):
    p.sync("first")
    while True: pass

@optprobe.protocol()
def under_stop_machine(p, patches):
    def write():
        for patch in patches:
            p.breakpoint(patch)
            p.copy(patch.addr + 1, patch.new[1:], "tail")
            p.store(patch.addr, patch.new[:1], "first byte")
    p.stop_machine(write, "all")
"""
TEXT = """
g:
    add ebx, 100
    ret
    .skip 70000, 0xcc
f:
    push rbx
    mov ebx, edi
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    lea eax, [rbx + 1]
    pop rbx
    ret
table:
    .byte 1, 2, 3, 4
"""


def told(run) -> str:
    """The line in which the protocol ``run`` ends."""
    with pytest.raises(optprobe.InputError) as refused:
        patched(0, optprobe.protocol()(run), "coherent")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda p, _: (p.freeze("a"), p.freeze("b")), "b: freeze() behind freeze()"),
        (lambda p, _: p.thaw("a"), "a: thaw() without freeze()"),
        (lambda p, _: (p.freeze("a"), p.thaw("a"), p.thaw("b")), "b: thaw() without freeze()"),
        (lambda p, one: (p.hide(one[0], "a"), p.hide(one[0], "b")), "b: hide() behind hide()"),
        (lambda p, _: p.show("a"), "a: show() without hide()"),
        (lambda p, _: p.freeze("a", moves=[5]), "moves has 5; give pairs of addresses"),
        (lambda p, _: p.freeze("a", moves=[("f", "g")]), "give pairs of addresses"),
        (lambda p, one: p.store(one[0].addr, "cc", "a"), "data='cc': no bytes"),
        (lambda p, one: p.copy(one[0].addr, [1], "a"), "data=[1]: no bytes"),
        (lambda p, _: p.store("f", b"\xcc", "a"), "addr='f': no address"),
        (lambda p, one: p.read(one[0].addr, -1), "read(): -1 bytes"),
        (lambda p, one: p.copy(one[0].addr, bytes(COPY_MAX + 1), "a"), "1,025 bytes"),
        (lambda p, _: p.stop_machine(lambda: p.thaw("a"), "a"), "which are parked"),
        (lambda p, one: p.stop_machine(lambda: p.hide(one[0], "a"), "a"), "which are parked"),
        (lambda p, _: p.stop_machine(lambda: p.handled("a"), "a"), "which are parked"),
    ],
)
def test_what_makes_no_sense_in_a_protocol_is_said_in_one_line(run, why):
    assert why in told(run)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_store_takes_any_kind_of_bytes(kind):
    def stores(p, patches):
        p.store(patches[0].addr, kind(patches[0].eight()), "all")
        p.sync("all")

    assert verdict(patched(0, optprobe.protocol()(stores), "stale")) == "safe"


def test_a_lock_is_refused_where_the_protocol_allocates_nothing():
    where = {"call": "f", "arguments": [5], "sites": ["f+0x3"], "to": ["call:g"]}
    with pytest.raises(optprobe.InputError, match="--lock: this protocol allocates no memory"):
        optprobe.patch(function(0), **where, lock="f+0x8..f+0xb", protocol="text_poke_bp")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files ``own.py``, with protocols, and ``f.s``, in the present directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(STORES)
    (tmp_path / "f.s").write_text(TEXT)
    return tmp_path


WORDS = ("patch", "f.s", "--call", "f", "--arg", "5", "--site", "f+0x3", "--to", "call:g")


def test_a_loop_without_an_end_ends_with_its_line(files, capsys):
    assert main([*WORDS, "--protocol", "own.py:goes_round"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "own.py:13: a control task's code has executed 5,000,000 bytecode" in error
    assert error.count("own.py") == 1


def test_a_name_of_data_is_said_to_be_one(files, capsys):
    for words in (
        [*WORDS, "--site", "table"],
        ["patch", "f.s", "--call", "table", "--site", "f", "--to", "nop"],
        [*WORDS, "--resched", "table"],
        ["check", "f.s", "--call", "f", "--arg", "5", "--probe", "table"],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "names data" in error, words
        assert error.count("\n") == 1


def test_a_violation_of_a_patch_is_saved_and_replays(files, capsys, monkeypatch):
    words = [*WORDS, "--calls", "1", "--fetch", "torn", "--protocol", "own.py:stores_late"]
    assert main([*words, "--save", "found", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    file = (files / document["violations"][0]["file"]).resolve()
    monkeypatch.chdir("/")
    assert main(["replay", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == document["timeline"]
    (files / "own.py").write_text(STORES.replace("p.store(", "p.copy("))
    assert main(["replay", str(file)]) == 2
    assert "the schedule is of" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["sites", "codes", "moves", "lock", "back", "protocol", "without"])
def test_a_saved_patch_without_one_of_its_parts_is_refused(files, capsys, key):
    words = [*WORDS, "--calls", "1", "--fetch", "torn", "--protocol", "one_store"]
    assert main([*words, "--save", "found"]) == 1
    (file,) = (files / "found").glob("*.json")
    document = json.loads(file.read_text())
    del document["patch"][key]
    file.write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["replay", str(file)]) == 2
    assert f"patch.{key} is missing" in capsys.readouterr().err


def test_check_says_which_protocol_wrote_the_text(files, capsys):
    words = ["check", "f.s", "--call", "f", "--arg", "5", "--probe", "f", "--calls", "1"]
    words += ["--preemptions", "0", "--profile", "linux-6.1"]
    assert main([*words, "--protocol", "text_poke_bp"]) == 0
    assert "linux-6.1, text written by text_poke_bp\n" in capsys.readouterr().out
    assert main(words) == 0
    assert "written by" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("profile", "protocol", "covered"),
    [
        ("linux-2010", "text_poke_bp", True),
        ("linux-2010", "one_store", False),
        ("linux-2010", "own.py:under_stop_machine", False),
        ("linux-6.1", "text_poke_bp", False),
    ],
)
def test_a_breakpoint_over_a_jump_of_linux_2010_is_explained(
    files, capsys, profile, protocol, covered
):
    words = ["check", "f.s", "--call", "f", "--arg", "5", "--probe", "f+0x1", "--calls", "1"]
    words += ["--preemptions", "0", "--profile", profile, "--protocol", protocol]
    assert main(words) == int(covered)
    out = capsys.readouterr().out
    assert ("into the rest of the jump (docs/protocols.md, f66c0447cca1)" in out) == covered
