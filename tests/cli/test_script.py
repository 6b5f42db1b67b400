"""Laws of `optprobe script`: its lines, its errors."""

from __future__ import annotations

import io
import json

import pytest

from engine.commands.cli import main
from engine.errors import InputError
from engine.syntax.script import Place, parse_script
from tests.conftest import ROOT

SSE2 = str(ROOT / "workloads/elf/shapes_jcc.o")
FUNCTION = "shape_jcc_short_o"


def script(monkeypatch, capsys, text: str, *options: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    status = main(["script", SSE2, "-", *options])
    out, err = capsys.readouterr()
    return status, out, err


def test_each_operation_is_one_json_line_with_the_list(monkeypatch, capsys):
    text = (
        f"reg 0 {FUNCTION}+0 # first\n\nwait\ncall {FUNCTION} x2\ncnt 0\nunreg 0\nwait\nst"
        f" {FUNCTION}+0\n"
    )
    status, out, _ = script(monkeypatch, capsys, text, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [line["op"].split()[0] for line in lines] == [
        "reg",
        "wait",
        "call",
        "cnt",
        "unreg",
        "wait",
        "st",
    ]
    assert all("list" in line for line in lines)
    assert (lines[0]["rc"], lines[0]["queue"], lines[0]["text"][:2]) == (0, "optimizing", "cc")
    assert lines[3]["hits"] == 2
    assert lines[3]["lastip"] == f"{FUNCTION}+0x1/0x10"
    assert "hash" not in lines[-1]
    assert lines[-1]["list"] == []


def test_no_time_passes_but_by_wait_sleep_and_call(monkeypatch, capsys):
    text = (
        f"reg 0 {FUNCTION}+0\ndis 0\nen 0\nst {FUNCTION}+0\nsleep 4\nst {FUNCTION}+0\nsleep 1\nst"
        f" {FUNCTION}+0\n"
    )
    _, out, _ = script(monkeypatch, capsys, text, "--json")
    texts = [json.loads(line)["text"][:2] for line in out.splitlines() if '"op": "st' in line]
    assert texts == ["cc", "cc", "e9"]


def test_profile_next_keeps_the_whole_jump_where_6_1_leaves_a_breakpoint_over_it(
    monkeypatch, capsys
):
    text = (
        f"reg 0 {FUNCTION}+0\nwait\ndis 0\nen 0\nwait\ncall {FUNCTION} x1\ncnt 0\nunreg 0\nwait\n"
    )
    answers = {}
    for profile in ("linux-6.1", "next"):
        status, out, _ = script(monkeypatch, capsys, text, "--json", "--profile", profile)
        lines = [json.loads(line) for line in out.splitlines()]
        assert (status, lines[6]["hits"], lines[-1]["list"]) == (0, 1, [])
        answers[profile] = [
            (line["text"][:2], line["queue"], line["syncs"]) for line in lines[:4] if "text" in line
        ]
    assert answers["next"] == [
        ("cc", "optimizing", 1),
        ("e9", "unoptimizing", 0),
        ("e9", "none", 0),
    ]
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


TOY = "work: mov eax, edi\n inc eax\n lea ecx, [rax + rax*2]\n add eax, ecx\n xor eax, 0x55\n ret\n"


class TestMendsOfTheCommitOf2010:
    @pytest.fixture
    def image(self, tmp_path) -> str:
        path = tmp_path / "toy.s"
        path.write_text(TOY)
        return str(path)

    def last(self, monkeypatch, capsys, image, text, *options) -> dict[str, object]:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        main(["script", image, "-", "--json", *options])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    def test_a_neighbour_that_waits_to_be_undone_keeps_a_jump_off_unless_left_out(
        self, monkeypatch, capsys, image
    ):
        text = "reg 0 work+7\nwait\ndis 0\nreg 1 work+4\ncall work x1\n"
        assert self.last(monkeypatch, capsys, image, text)["ret"] == "5d"
        assert "fault" in self.last(monkeypatch, capsys, image, text, "--without", "f1c97a1b4ef7")

    def test_enabled_1_optimizes_unless_that_is_left_out(self, monkeypatch, capsys, image):
        text = "reg 0 work+7\nwait\ndebugfs enabled=0\ndebugfs enabled=1\nwait\nst work+7\n"
        assert str(self.last(monkeypatch, capsys, image, text)["text"])[:2] == "e9"
        assert (
            str(
                self.last(monkeypatch, capsys, image, text, "--without", "enabled-1-optimizes")[
                    "text"
                ]
            )[:2]
            == "cc"
        )

    def test_a_name_that_means_nothing_here_is_one_line(self, capsys, image):
        for options in (
            ["--without", "enabled-1-optimizes", "--profile", "linux-6.1"],
            ["--without", "nothing"],
        ):
            assert main(["script", image, "-", *options]) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1


class TestAFunctionThatIsThereTwice:
    """Two static ones of different files: 1 + 3 and 1 + 5."""

    CODE = "89f883c00390c39089f883c00590c390"

    @pytest.fixture
    def image(self, tmp_path) -> str:
        segments = [{"addr": 0x40_0000, "hex": self.CODE}]
        symbols = [{"name": "f", "addr": addr, "size": 8} for addr in (0x40_0000, 0x40_0008)]
        path = tmp_path / "twice.json"
        path.write_text(
            json.dumps(
                {"format": "code-image", "version": 1, "segments": segments, "symbols": symbols}
            )
        )
        return str(path)

    @pytest.mark.parametrize("text", ["reg 0 f+2", "call f x1", "st f+2"])
    def test_its_bare_name_is_refused_with_the_addresses_to_choose_from(
        self, monkeypatch, capsys, image, text
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["script", image, "-"]) == 2
        assert (
            "2 functions are called f; write the address of the one that is meant: 0x40000"
            in capsys.readouterr().err
        )

    def test_an_address_names_the_one_that_is_meant(self, monkeypatch, capsys, image):
        monkeypatch.setattr("sys.stdin", io.StringIO("reg 0 0x400008+0\ncall 0x400008 x1\ncnt 0\n"))
        assert main(["script", image, "-", "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert (lines[1]["ret"], lines[2]["hits"]) == ("6", 1)

    def test_so_it_is_with_the_function_to_call(self, capsys, image):
        assert main(["run", image, "--call", "f", "--arg", "1"]) == 2
        assert "2 functions are called f" in capsys.readouterr().err
        assert main(["run", image, "--call", "0x400008", "--arg", "1"]) == 0
        assert "-> 6 (0x6)" in capsys.readouterr().out
        assert main(["run", image, "--call", "0x400009", "--arg", "1"]) == 2


@pytest.mark.parametrize(("profile", "rc"), [("linux-2010", -22), ("linux-6.1", -2), ("next", -2)])
def test_a_symbol_that_the_image_lacks_answers_as_the_profile_says(
    monkeypatch, capsys, profile, rc
):
    _, out, _ = script(
        monkeypatch,
        capsys,
        "reg 0 nowhere+0\nreg 1 nowhere+0 sym\n",
        "--json",
        "--profile",
        profile,
    )
    assert [json.loads(line)["rc"] for line in out.splitlines()] == [rc, rc]


def test_wait_shows_the_text_of_each_probe_to_a_person_only(monkeypatch, capsys):
    text = f"reg 0 {FUNCTION}+0\nwait\n"
    _, out, _ = script(monkeypatch, capsys, text)
    assert f"{FUNCTION}+0x0=e9" in out
    _, out, _ = script(monkeypatch, capsys, text, "--json")
    assert sorted(json.loads(out.splitlines()[1])) == ["list", "op", "syncs"]
