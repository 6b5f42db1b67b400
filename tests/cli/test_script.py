"""Laws of `optprobe script`: its lines, its errors."""

from __future__ import annotations

import io
import json

import pytest

from engine.cli import main
from engine.errors import InputError
from engine.script_ops import Place, parse_script
from tests.conftest import ROOT

SSE2 = str(ROOT / "workloads/elf/shapes_jcc.o")
FUNCTION = "shape_jcc_short_o"


def script(monkeypatch, capsys, text: str, *options: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    status = main(["script", SSE2, "-", *options])
    out, err = capsys.readouterr()
    return status, out, err


def test_each_operation_is_one_json_line_with_the_list(monkeypatch, capsys):
    text = f"reg 0 {FUNCTION}+0 # first\n\nwait\ncall {FUNCTION} x2\ncnt 0\nunreg 0\nwait\nst {FUNCTION}+0\n"
    status, out, _ = script(monkeypatch, capsys, text, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [line["op"].split()[0] for line in lines] == ["reg", "wait", "call", "cnt", "unreg", "wait", "st"]
    assert all("list" in line for line in lines)
    assert (lines[0]["rc"], lines[0]["queue"], lines[0]["text"][:2]) == (0, "optimizing", "cc")
    assert lines[3]["hits"] == 2
    assert lines[3]["lastip"] == f"{FUNCTION}+0x1/0x10"
    assert "hash" not in lines[-1]
    assert lines[-1]["list"] == []


def test_no_time_passes_but_by_wait_sleep_and_call(monkeypatch, capsys):
    text = f"reg 0 {FUNCTION}+0\ndis 0\nen 0\nst {FUNCTION}+0\nsleep 4\nst {FUNCTION}+0\nsleep 1\nst {FUNCTION}+0\n"
    _, out, _ = script(monkeypatch, capsys, text, "--json")
    texts = [json.loads(line)["text"][:2] for line in out.splitlines() if '"op": "st' in line]
    assert texts == ["cc", "cc", "e9"]


def test_profile_next_keeps_the_whole_jump_where_6_1_leaves_a_breakpoint_over_its_first_byte(monkeypatch, capsys):
    text = f"reg 0 {FUNCTION}+0\nwait\ndis 0\nen 0\nwait\ncall {FUNCTION} x1\ncnt 0\nunreg 0\nwait\n"
    answers = {}
    for profile in ("linux-6.1", "next"):
        status, out, _ = script(monkeypatch, capsys, text, "--json", "--profile", profile)
        lines = [json.loads(line) for line in out.splitlines()]
        assert (status, lines[6]["hits"], lines[-1]["list"]) == (0, 1, [])
        answers[profile] = [(line["text"][:2], line["queue"], line["syncs"]) for line in lines[:4] if "text" in line]
    assert answers["next"] == [("cc", "optimizing", 1), ("e9", "unoptimizing", 0), ("e9", "none", 0)]
    assert answers["linux-6.1"] == [*answers["next"][:2], ("cc", "none", 1)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reg 0", "line 1: 'reg 0' is not an operation; write reg ID SYM+OFF"),
        ("wait\nfly 1", "line 2: 'fly 1' is not an operation; an operation is one of call,"),
        ("reg 0 f+0y10", "'f+0y10' is not a place; write SYM+OFF"),
        ("reg 0 f+0 sym both", "sym or both"),
        ("call f 3", "write call SYM xN"),
        ("sysctl kprobes-optimization=2", "write sysctl kprobes-optimization=0 or =1"),
        ("wait\n\nunreg 7", "line 3: 'unreg 7': there is no probe '7'; register it first"),
        ("wait\ncall nosuch x1", "line 2: 'call nosuch x1': no function 'nosuch'"),
    ],
)
def test_a_bad_line_is_named_with_what_would_be_right(monkeypatch, capsys, text, says):
    status, _out, err = script(monkeypatch, capsys, text)
    assert status == 2
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_missing_script_is_one_line_and_status_2(capsys):
    assert main(["script", SSE2, "/nonexistent"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_places_are_by_symbol_or_address_and_offsets_decimal_or_hexadecimal():
    found = parse_script("st f+16\nst 0x1F+2\nst f+0x1a\nst 0x1F+0X10", "s")
    assert [operation.place for operation in found] == [
        Place("f", None, 16),
        Place(None, 0x1F, 2),
        Place("f", None, 26),
        Place(None, 0x1F, 16),
    ]
    with pytest.raises(InputError):
        parse_script("st +3", "s")


@pytest.mark.parametrize(("profile", "rc"), [("linux-2010", -22), ("linux-6.1", -2), ("next", -2)])
def test_a_symbol_that_the_image_lacks_answers_as_the_profile_says(monkeypatch, capsys, profile, rc):
    _, out, _ = script(monkeypatch, capsys, "reg 0 nowhere+0\nreg 1 nowhere+0 sym\n", "--json", "--profile", profile)
    assert [json.loads(line)["rc"] for line in out.splitlines()] == [rc, rc]


def test_wait_shows_the_text_of_each_probe_to_a_person_only(monkeypatch, capsys):
    text = f"reg 0 {FUNCTION}+0\nwait\n"
    _, out, _ = script(monkeypatch, capsys, text)
    assert f"{FUNCTION}+0x0=e9" in out
    _, out, _ = script(monkeypatch, capsys, text, "--json")
    assert sorted(json.loads(out.splitlines()[1])) == ["list", "op", "syncs"]
