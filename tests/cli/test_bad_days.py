"""Laws of bad days: nothing that was found is lost, and what goes wrong is one line that says what
would be right.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from arch_x86.explore.x86_setup import X86Setup
from engine.commands import replaying, searching
from engine.commands.cli import main
from engine.patching.saved_violations import SavedExperiment
from engine.process_pool import ProcessPool
from engine.report.terminal import Style

ROOT = Path(__file__).resolve().parents[2]
SHA = str(ROOT / "workloads" / "elf" / "sha256.o")
CODE = (
    ".globl work\nwork:\n mov eax, edi\n inc eax\n lea ecx, [rax + rax*2]\n add eax, ecx\n xor eax,"
    " 0x55\n ret\n"
)


@pytest.fixture
def image(tmp_path) -> str:
    file = tmp_path / "work.s"
    file.write_text(CODE)
    return str(file)


def call(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    out, err = capsys.readouterr()
    return status, out, err


def check_of(image: str, *more: str) -> tuple[str, ...]:
    return ("check", image, "--call", "work", "--arg", "5", "--calls", "1", *more)


def scenario_file(
    tmp_path: Path,
    image: str,
    body: str = "k.settle()",
    name: str = "one",
    options: dict[str, str] | None = None,
) -> str:
    """A file with one scenario, whose control task does ``body``. Options as Python text."""
    given = {
        "image": repr(image),
        "call": "'work'",
        "arguments": "('5',)",
        "calls": "1",
        "preemptions": "1",
    } | (options or {})
    words = ", ".join(f"{key}={value}" for key, value in given.items())
    file = tmp_path / f"{name}.py"
    file.write_text(
        f"from arch_x86.explore.scenario import scenario\n@scenario({words})\n"
        f"def {name}(setup):\n    @setup.control\n    def main(k):\n        {body}\n"
    )
    return str(file)


def one_line(err: str) -> bool:
    return (
        err.startswith("optprobe: ")
        and err.count("\n") == 1
        and "Errno" not in err
        and len(err) < 1000
    )


class TestSave:
    @pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "a\0b"])
    @pytest.mark.parametrize("command", ["check", "explore"])
    def test_a_directory_that_can_not_be_written_is_said_before_the_search(
        self, capsys, tmp_path, image, monkeypatch, place, command
    ):
        def no_search(*_words, **_options):
            raise AssertionError("a search began")

        monkeypatch.setattr(searching, "check", no_search)
        (tmp_path / "file").write_text("")
        argv = (
            check_of(image, "--probe", "work+4")
            if command == "check"
            else ("explore", scenario_file(tmp_path, image))
        )
        status, out, err = call(capsys, *argv, "--save", str(tmp_path / place))
        assert (status, out) == (2, "")
        assert one_line(err)
        assert "--save" in err
        assert "give a directory" in err

    @pytest.mark.parametrize("json_", [(), ("--json",)])
    def test_what_was_found_is_printed_whatever_becomes_of_its_file(
        self, capsys, tmp_path, image, monkeypatch, json_
    ):
        """The image has gone, and the disk is full: of the image the bytes are known, and of the
        finding the schedule is printed.
        """
        printed: list[str] = []
        full = False
        search, write = searching.check, SavedExperiment.write

        def searches(*words, **options):
            Path(image).unlink(missing_ok=True)
            return search(*words, **options)

        def writes(*words):
            printed.append(capsys.readouterr().out)
            if full:
                raise OSError(28, "No space left on device")
            write(*words)

        monkeypatch.setattr(searching, "check", searches)
        monkeypatch.setattr(SavedExperiment, "write", writes)
        argv = check_of(
            image,
            "--probe",
            "work+4",
            "--without",
            "stop-machine",
            "--save",
            str(tmp_path / "found"),
            *json_,
        )
        status, _, err = call(capsys, *argv)
        assert (status, err) == (1, "")
        (file,) = (tmp_path / "found").iterdir()
        assert "torn-instruction" in printed[0]
        assert str(file) in printed[0]
        assert call(capsys, "replay", str(file))[0] == 1
        full = True
        Path(image).write_text(CODE)
        status, _, err = call(capsys, *argv)
        assert status == 1
        assert printed[1] == printed[0]
        assert one_line(err)
        assert "No space left on device" in err

    def test_a_bad_scenario_behind_good_ones_takes_nothing_of_them_away(
        self, capsys, tmp_path, image
    ):
        """What is wrong in its options is said before the search; what its code does, behind the
        results of the others.
        """
        first = Path(scenario_file(tmp_path, image))
        bad = Path(
            scenario_file(tmp_path, image, body="while True: k.settle()", name="two")
        ).read_text()
        both = tmp_path / "both.py"
        both.write_text(first.read_text() + bad)
        status, out, err = call(capsys, "explore", str(both), "--json")
        assert status == 2
        assert one_line(err)
        assert [one["scenario"] for one in json.loads(out)["scenarios"]] == ["one"]
        status, out, err = call(capsys, "explore", str(both))
        assert (status, out.splitlines()[0][:4]) == (2, "one:")
        both.write_text(first.read_text() + bad.replace("'work'", "'nowhere'"))
        assert call(capsys, "explore", str(both))[:2] == (2, "")


class TestScenarios:
    @pytest.mark.parametrize(
        ("options", "right"),
        [
            ({"calls": "'x'"}, "calls='x': give a whole number from 1 to 1,000"),
            ({"cpus": "0"}, "cpus=0: give a whole number from 1 to 8"),
            ({"cpus": "99"}, "from 1 to 8"),
            ({"cpus": "True"}, "from 1 to 8"),
            ({"batch": "0"}, "from 1 to 256"),
            ({"image": "3"}, "image=3: give a string"),
            ({"call": "None"}, "call=None: give a string"),
            ({"call": "'nowhere'"}, "no function nowhere; there is work"),
            ({"arguments": "5"}, "arguments=5: give a tuple of strings"),
            ({"arguments": "(5,)"}, "arguments=(5,): give a tuple of strings"),
            ({"arguments": "'55'"}, "arguments='55': give a tuple of strings"),
            ({"preemptions": "-1"}, "preemptions=-1: give a whole number from 0 to 1,000"),
            ({"preempt": "1"}, "preempt=1: give True or False"),
            ({"profiles": "('x',)"}, "profiles=('x',): give some of linux-2010, linux-6.1, next"),
            ({"profiles": "()"}, "profiles=(): give some of"),
            ({"without": "('x',)"}, "x: no such step; give one of"),
            ({"asleep": "('x',)"}, "asleep=('x',): give a tuple of offsets"),
            (
                {"asleep": "(3,)"},
                "inside of `inc eax` at work+0x2; the next instruction begins at work+0x4",
            ),
            ({"colour": "1"}, "unexpected keyword argument 'colour'"),
        ],
        ids=str,
    )
    def test_an_odd_option_is_said_with_what_would_be_right(
        self, capsys, tmp_path, image, options, right
    ):
        status, out, err = call(capsys, "explore", scenario_file(tmp_path, image, options=options))
        assert (status, out) == (2, "")
        assert one_line(err)
        assert right in err

    @pytest.mark.parametrize(
        "what", ["random.random() < 0.5", "os.urandom(1)[0] < 128", "next(count) % 3 == 0"]
    )
    def test_a_scenario_that_is_another_one_each_time_is_said_to_be_so(
        self, capsys, tmp_path, image, what
    ):
        body = f"[k.optimization(on={what}) for _ in range(40)]"
        file = Path(scenario_file(tmp_path, image, body))
        file.write_text(
            f"import itertools, os, random\ncount = itertools.count()\n{file.read_text()}"
        )
        status, out, err = call(capsys, "explore", str(file))
        assert (status, out) == (2, "")
        assert one_line(err)
        assert "the control tasks are not deterministic" in err

    @pytest.mark.parametrize(
        "text",
        [
            "import sys; sys.exit(3)",
            "raise SystemExit",
            "quit()",
            "def f(:",
            "1/0",
            "import nowhere_at_all",
            "open('/nowhere')",
        ],
    )
    def test_a_file_that_does_not_run_is_said_with_its_line(self, capsys, tmp_path, image, text):
        for place in ("in the file", "in the scenario's function"):
            file = Path(scenario_file(tmp_path, image))
            whole = file.read_text()
            first = place == "in the file"
            file.write_text(
                f"\n{text}\n{whole}"
                if first
                else whole.replace("    @setup", f"    {text}\n    @setup")
            )
            status, out, err = call(capsys, "explore", str(file))
            assert (status, out) == (2, "")
            assert one_line(err)
            assert f"line {2 if first else 4}" in err

    @pytest.mark.parametrize(
        ("place", "what"),
        [
            ("/dev/null", "not a regular file"),
            ("/", "a directory"),
            ("/nowhere", "no such file"),
            ("a\0b", "no such file"),
        ],
    )
    def test_only_a_regular_file_is_explored(self, capsys, place, what):
        status, out, err = call(capsys, "explore", place)
        assert (status, out) == (2, "")
        assert one_line(err)
        assert what in err


class TestSaved:
    ODD: tuple[object, ...] = (None, True, 10**30, [[]], {"x": 1}, "a" * 5000 + "\0")

    @pytest.fixture
    def saved(self, capsys, tmp_path, image) -> dict[str, object]:
        argv = check_of(
            image,
            "--probe",
            "work+4",
            "--without",
            "stop-machine",
            "--save",
            str(tmp_path / "found"),
        )
        call(capsys, *argv)
        (file,) = (tmp_path / "found").iterdir()
        return json.loads(file.read_text())

    def test_an_odd_value_anywhere_is_one_line_that_names_its_key(
        self, capsys, tmp_path, saved, monkeypatch
    ):
        """Values of the right kind only make it another case, or none; that is not run here."""
        monkeypatch.setattr(replaying, "replay_experiment", lambda *_: (None, []))
        file = tmp_path / "odd.json"

        def places(value: object, path: tuple[str | int, ...] = ()):
            yield path
            for key, one in (
                value.items()
                if isinstance(value, dict)
                else enumerate(value)
                if isinstance(value, list)
                else ()
            ):
                yield from places(one, (*path, key))

        tried = 0
        for path in places(saved):
            for odd in self.ODD:
                document = json.loads(json.dumps(saved))
                inner = document
                for key in path[:-1]:
                    inner = inner[key]
                if path:
                    inner[path[-1]] = odd
                file.write_text(json.dumps(document if path else odd))
                status, _, err = call(capsys, "replay", str(file))
                assert (status, err) == (0, "") or (status == 2 and one_line(err)), (path, odd, err)
                tried += status == 2
        assert tried > 120

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 100_000,
            '{"a":' * 100_000,
            "",
            "\x00",
            "{",
            "{}",
            "3",
            '{"format": "optprobe-schedule"}',
        ],
    )
    def test_what_is_no_saved_file_is_said_to_be_none(self, capsys, tmp_path, text):
        file = tmp_path / "odd.json"
        file.write_text(text)
        status, out, err = call(capsys, "replay", str(file))
        assert (status, out) == (2, "")
        assert one_line(err)
        assert "give a file that --save wrote" in err


@pytest.mark.parametrize("line", ["[" * 100_000, "3", "{}", '{"schedules": 1}', "null", "x"])
def test_an_odd_checkpoint_is_one_line_that_says_what_to_do(capsys, tmp_path, image, line):
    argv = check_of(
        image, "--probe", "work+4", "--max-schedules", "1", "--checkpoint", str(tmp_path / "room")
    )
    call(capsys, *argv)
    (file,) = (tmp_path / "room").iterdir()
    file.write_text(f"{file.read_text().splitlines()[0]}\n{line}\n")
    status, out, err = call(capsys, *argv)
    assert (status, out) == (2, "")
    assert one_line(err)
    assert "take the file away" in err


class TestInterrupts:
    @pytest.mark.parametrize("command", ["check", "explore"])
    def test_ctrl_c_before_the_search_is_one_line(
        self, capsys, tmp_path, image, monkeypatch, command
    ):
        def interrupted(*_words, **_options):
            raise KeyboardInterrupt

        monkeypatch.setattr(X86Setup, "open", interrupted)
        argv = (
            check_of(image, "--probe", "work+4")
            if command == "check"
            else ("explore", scenario_file(tmp_path, image))
        )
        status, out, err = call(capsys, *argv)
        assert (status, out) == (130, "")
        assert one_line(err)
        assert "interrupted" in err


class TestOptions:
    @pytest.mark.parametrize(
        ("more", "right"),
        [
            (("--resched", "work+1000"), "outside of work, which has 13 bytes"),
            (
                ("--resched", "work+3"),
                "inside of `inc eax` at work+0x2; the next instruction begins at work+0x4",
            ),
            (("--resched", "0x5"), "outside of every function"),
            (("--resched", "p:e work"), "give SYM+OFF"),
            (("--call", "work"), "--call is there twice; give it once"),
            (("--depth", "4"), "--depth: only --strategy pct has it"),
            (("--depth", "4", "--strategy", "random"), "--depth: only --strategy pct has it"),
            (("--seed", "4"), "--seed: only --strategy random and pct has it"),
            (("--preemptions", "1", "--strategy", "pct"), "--depth"),
            (("--probe", "r4097 work"), "E2BIG: probe 'r4097 work': 4097 calls at once"),
            (("--probe", "r99999 f"), "E2BIG"),
            (("--probe", "r nowhere"), "no function nowhere; there is work"),
            (("--probe", "nowhere"), "no function nowhere; there is work"),
            (("--probe", "work+0x9000"), "no probe can go to 0x10009000: not-mapped"),
        ],
        ids=" ".join,
    )
    def test_an_odd_option_is_said_with_what_would_be_right(self, capsys, image, more, right):
        status, out, err = call(capsys, *check_of(image, "--probe", "work+4", *more))
        assert (status, out) == (2, "")
        assert one_line(err)
        assert right in err

    @pytest.mark.parametrize(
        ("name", "shown"),
        [("xor_probe", "xor-probe"), ("x868a6fc0ca24", "868a6fc0ca24"), ("x", "x"), ("x_1", "x-1")],
    )
    def test_a_scenario_is_called_as_its_function_is(self, capsys, tmp_path, image, name, shown):
        file = scenario_file(tmp_path, image, name=name)
        for wanted in ("", f"::{name}", f"::{shown}"):
            status, out, err = call(capsys, "explore", file + wanted)
            assert (status, err, out.splitlines()[0]) == (0, "", f"{shown}: safe")

    @pytest.mark.parametrize(
        "body", ["k.kretprobe('work', 10**9)", "k.kprobe('work', number=10**9)"]
    )
    def test_a_number_that_nothing_has_room_for_is_refused(self, capsys, tmp_path, image, body):
        status, out, _ = call(capsys, "explore", scenario_file(tmp_path, image, body))
        assert status == 1
        assert "at most" in out or "a number is 0 to" in out


@pytest.mark.parametrize(
    ("value", "colour"), [(None, True), ("", True), ("0", False), ("1", False)]
)
def test_no_color_counts_when_it_is_set_and_not_empty(monkeypatch, value, colour):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    assert Style.for_stream(Terminal()).enabled is colour


class TestProcesses:
    def test_a_killed_worker_is_one_line_behind_what_was_found(self, capsys, image, monkeypatch):
        """One is killed while all are at work; the other has nobody to answer then, and ends,
        too.
        """
        in_order = ProcessPool.in_order

        def killed(self, tasks, came):
            for answer in in_order(self, tasks, came):
                os.kill(self._workers[1].process.pid, signal.SIGKILL)
                yield answer

        monkeypatch.setattr(ProcessPool, "in_order", killed)
        argv = check_of(image, "--probe", "work+4", "--cpus", "2", "--jobs", "2", "--json")
        status, out, err = call(capsys, *argv)
        document = json.loads(out)
        assert (status, document["interrupted"], document["bound"]["exhaustive"]) == (
            1,
            True,
            False,
        )
        assert one_line(err)
        assert "a worker process died" in err

    def test_standard_input_that_is_closed_is_one_line(self, capsys, image, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        status, out, err = call(capsys, "script", image, "-")
        assert (status, out) == (2, "")
        assert one_line(err)

    def test_too_little_memory_is_one_line(self, capsys, image, monkeypatch):
        def full(*_words):
            raise MemoryError

        monkeypatch.setattr(Style, "for_stream", full)
        status, _, err = call(capsys, "run", image, "--call", "work", "--arg", "5")
        assert status == 1
        assert one_line(err)
        assert "not enough memory" in err


@pytest.mark.parametrize(
    "argv",
    [("work", "--with", "LIB"), ("--with", "LIB", "work"), ("--json", "work", "--with", "LIB")],
)
def test_inspect_takes_libraries_and_the_function_in_any_order(capsys, image, argv):
    """An assembly file has no use for one, and says so: the words were understood."""
    status, out, err = call(capsys, "inspect", image, *argv)
    assert (status, out) == (2, "")
    assert "leave --with out" in err
    assert call(capsys, "inspect", image, "--buffers", "work")[::2] == (0, "")
    assert "unrecognized" in call(capsys, "inspect", image, "--buffers", "work", "work")[2]
