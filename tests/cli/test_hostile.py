"""Laws of the command line under hostile input and output: one clear line and an exit status, no
traceback, no hang.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.commands.cli import main
from engine.syntax.arguments import BUFFER_MAX
from tests.images.elf_builder import FUNC, Object

ROOT = Path(__file__).resolve().parents[2]
SHA = str(ROOT / "workloads" / "elf" / "sha256.o")
ABC = ["--call", "sha256", "--arg", "buf:616263", "--arg", "3", "--arg", "buf:+32"]
MANY = "9" * 5000


def shell(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``script``, in which ``optprobe`` is the command, in a process of its own."""
    script = f'optprobe() {{ "{sys.executable}" -m engine "$@"; }}; {script}'
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, **env},
    )


def one_line(text: str) -> bool:
    return text.startswith("optprobe: ") and text.count("\n") == 1 and len(text) < 1000


def fifo(tmp_path: Path) -> str:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


def large(tmp_path: Path) -> str:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, BUFFER_MAX + 1)
    return str(path)


class TestFiles:
    @pytest.mark.parametrize(
        "place",
        [
            fifo,
            str,
            lambda _: "/dev/zero",
            lambda _: "/dev/null",
            lambda _: "/no/such",
            lambda _: "a\0b",
        ],
    )
    @pytest.mark.parametrize(
        "argv",
        [
            ("run", "{}", "--call", "f"),
            ("run", SHA, *ABC, "--with", "{}"),
            ("run", SHA, *ABC, "--arg", "buf:@{}"),
        ],
    )
    def test_only_a_regular_file_is_read(self, capsys, tmp_path, place, argv):
        where = place(tmp_path)
        assert main([word.replace("{}", where) for word in argv]) == 2
        assert one_line(capsys.readouterr().err)

    def test_a_file_larger_than_a_buffer_is_refused(self, capsys, tmp_path):
        assert main(["run", SHA, *ABC, "--arg", f"buf:@{large(tmp_path)}"]) == 2
        err = capsys.readouterr().err
        assert one_line(err)
        assert str(BUFFER_MAX) in err

    def test_the_largest_buffers_go_to_the_guest_and_back(self, capsys, tmp_path):
        source = tmp_path / "last.s"
        source.write_text("last:\n  mov byte ptr [rdi + rsi - 1], 7\n  ret\n")
        argv = [
            "run",
            str(source),
            "--call",
            "last",
            "--arg",
            f"buf:+{BUFFER_MAX}",
            "--arg",
            str(BUFFER_MAX),
            "--json",
        ]
        assert main(argv) == 0
        assert f'{"00" * (BUFFER_MAX - 1)}07"' in capsys.readouterr().out


HOSTILE = {
    "offset": (["--probe", f"sha256+{MANY}"], "64 bits"),
    "hexadecimal offset": (["--probe", f"sha256+0x{MANY}"], "64 bits"),
    "address": (["--probe", f"0x{MANY}"], "64 bits"),
    "maxactive": (["--probe", f"r{MANY} sha256"], "64 bits"),
    "event": (["--probe", f"p:a/{'b' * 5000}! sha256"], "SYM"),
    "argument": (["--arg", MANY], "integer"),
    "buffer": (["--arg", f"buf:+{MANY}"], "number"),
    "double": (["--arg", f"f64:{MANY}x"], "f64:1.5"),
    "cpus": (["--cpus", MANY], "--cpus"),
    "stub": (["--stub", f"{MANY}=ret:1"], "stub"),
    "stub value": (["--stub", f"f=ret:{MANY}"], "stub"),
    "profile": (["--profile", MANY], "linux-2010"),
    "interrupts": (["--interrupts", f"every:{MANY}"], "--interrupts"),
    "option": ([f"--{MANY}"], "unrecognized"),
    "a line break": (["--profile", "a\nb"], "linux-2010"),
    "terminal codes": (["--probe", "\x1b[31m"], "SYM"),
    "no text": (["--probe", "sha\udcff"], "SYM"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_word_is_one_line_of_bounded_length_that_prints(capsys, case):
    words, right = HOSTILE[case]
    assert main(["run", SHA, *ABC, *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert one_line(err)
    assert err.rstrip("\n").isprintable()
    assert right in err


@pytest.mark.parametrize(("text", "value"), [("-0x10", -16), ("-5", -5), ("-0b11", -3)])
def test_a_negative_argument_is_no_option(capsys, tmp_path, text, value):
    source = tmp_path / "same.s"
    source.write_text("same:\n  mov rax, rdi\n  ret\n")
    assert main(["run", str(source), "--call", "same", "--arg", text, "--json"]) == 0
    assert f'"result": {value & (1 << 64) - 1},' in capsys.readouterr().out


class TestStubs:
    @pytest.fixture
    def caller(self, tmp_path) -> str:
        """``seven()``, which calls ``helper``, undefined, and returns what that returns."""
        built = Object()
        text = built.text(b"\x48\x83\xec\x08\xe8\0\0\0\0\x48\x83\xc4\x08\xc3")
        built.symbol("seven", text, 0, 14, FUNC)
        built.rela(text, 5, 4, built.symbol("helper"), -4)
        path = tmp_path / "caller.o"
        path.write_bytes(built.build())
        return str(path)

    def test_an_unresolved_function_returns_what_stub_says(self, capsys, caller):
        assert main(["run", caller, "--call", "seven", "--stub", "helper=ret:7", "--json"]) == 0
        assert '"result": 7,' in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "words"), [("helped", ("nothing", "helper")), ("seven", ("defined", "helper"))]
    )
    def test_a_stub_that_nothing_would_call_is_refused_and_names_what_could_be_meant(
        self, capsys, caller, name, words
    ):
        assert main(["run", caller, "--call", "seven", "--stub", f"{name}=ret:1"]) == 2
        err = capsys.readouterr().err
        assert one_line(err)
        assert all(word in err for word in (name, *words))

    def test_a_stub_for_an_image_that_lacks_nothing_is_refused(self, capsys):
        assert main(["run", SHA, *ABC, "--stub", "memcpy=ret:0"]) == 2
        assert "leave --stub out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("p:here compress+17", ("p:here compress+17", "compress+0x11", "EILSEQ")),
        ("0x10000001", ("0x10000001", "compress+0x1", "EILSEQ")),
        ("compress+0x1", ("'compress+0x1':", "EILSEQ")),
        ("p compres", ("p compres", "compres+0x0", "EINVAL", "compress")),
    ],
)
def test_a_refused_probe_is_named_by_its_spec_its_place_and_its_errno(capsys, spec, words):
    assert main(["run", SHA, *ABC, "--probe", spec]) == 2
    err = capsys.readouterr().err
    assert one_line(err)
    assert all(word in err for word in words)


RUN = f"optprobe run {SHA} --call sha256 --arg buf:616263 --arg 3 --arg buf:+32"
INSPECT = f"optprobe inspect {SHA}"
DEMO = f"optprobe demo --image {SHA}"


class TestOutput:
    @pytest.mark.parametrize(
        "command", [RUN, f"{RUN} --json", INSPECT, f"{INSPECT} --json", DEMO, "optprobe --help"]
    )
    @pytest.mark.parametrize("where", [">&-", ">/dev/full"])
    def test_output_that_can_not_be_written_is_one_line_and_exit_status_1(self, command, where):
        done = shell(f"{command} {where}")
        assert done.returncode == 1
        assert one_line(done.stderr)
        assert "output" in done.stderr

    @pytest.mark.parametrize("command", [RUN, INSPECT, f"{RUN} --cpus 0"])
    @pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
    def test_without_standard_error_everything_else_stays(self, command, where):
        with_it, without = shell(command), shell(f"{command} {where}")
        assert (without.returncode, without.stdout, without.stderr) == (
            with_it.returncode,
            with_it.stdout,
            "",
        )

    def test_a_pipe_that_closes_early_ends_the_command_quietly(self):
        done = shell(f"{INSPECT} | head -1; echo ${{PIPESTATUS[0]}}")
        assert done.stderr == ""
        assert done.stdout.splitlines()[1] in ("0", "1")

    @pytest.fixture
    def umlaut(self, tmp_path) -> str:
        """An object file ``ü.o`` with a function ``fü``."""
        built = Object()
        built.symbol("fü", built.text(b"\x90\x90\x90\x90\x90\xc3"), 0, 6, FUNC)
        path = tmp_path / "ü.o"
        path.write_bytes(built.build())
        return str(path)

    @pytest.mark.parametrize("env", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
    def test_names_beyond_ascii_print_escaped_where_the_locale_lacks_them(self, umlaut, env):
        for rest in ("run {} --call fü --probe 'p:e fü'", "verify {} --call fü", "inspect {}"):
            done = shell(f"optprobe {rest.format(umlaut)}", **env)
            assert (done.returncode, done.stderr) == (0, "")
            assert "f" in done.stdout

    def test_names_that_the_locale_can_not_read_are_refused_in_one_line(self, umlaut):
        done = shell(
            f"optprobe run {umlaut} --call fü", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
        )
        assert done.returncode == 2
        assert one_line(done.stderr)
