"""Laws of too little of something: memory, room on the disk, files, processes. What was found is
shown, and what is wrong is one line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from arch_x86.emu.room import EMULATOR_ROOM
from engine.commands.cli import main
from engine.errors import InputError
from engine.patching import verdict
from engine.process_pool import ProcessPool
from engine.search.checkpoint import Checkpoint
from engine.search.parts import PartResult

ROOT = Path(__file__).resolve().parents[2]
CODE = ".globl work\nwork:\n mov eax, edi\n inc eax\n ret\n"


@pytest.fixture
def image(tmp_path) -> str:
    file = tmp_path / "work.s"
    file.write_text(CODE)
    return str(file)


def check_of(image: str, *more: str, preemptions: int = 0) -> tuple[str, ...]:
    return (
        "check",
        image,
        "--call",
        "work",
        "--arg",
        "5",
        "--calls",
        "1",
        "--probe",
        "work",
        "--preemptions",
        str(preemptions),
        *more,
    )


def call(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    out, err = capsys.readouterr()
    return status, out, err


def shell(script: str) -> subprocess.CompletedProcess[str]:
    script = f'optprobe() {{ "{sys.executable}" -m engine "$@"; }}; {script}'
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )


def one_line(err: str) -> bool:
    return (
        err.startswith("optprobe: ")
        and err.count("\n") == 1
        and "Errno" not in err
        and len(err) < 1000
    )


class TestMemory:
    @pytest.mark.parametrize(
        ("kilobytes", "command"),
        [(300_000, "verify {} --call work --jobs 2"), (EMULATOR_ROOM >> 10, "run {} --call work")],
    )
    def test_too_little_memory_for_the_emulator_is_one_line_of_ours(
        self, image, command, kilobytes
    ):
        """Left alone, Unicorn ends the process with a line of its own."""
        done = shell(f"ulimit -v {kilobytes}; optprobe {command.format(image)}")
        assert (done.returncode, done.stdout) == (1, "")
        assert one_line(done.stderr)
        assert "not enough memory" in done.stderr

    @pytest.mark.parametrize("json_", [(), ("--json",)])
    def test_a_search_that_runs_out_of_memory_shows_what_it_found(
        self, capsys, image, monkeypatch, json_
    ):
        work = verdict.InProcess.work

        def full(self, parts, tick):
            for number, result in enumerate(work(self, parts, tick)):
                if number:
                    raise MemoryError
                yield result

        monkeypatch.setattr(verdict.InProcess, "work", full)
        status, out, err = call(
            capsys, *check_of(image, "--strategy", "random", *json_, preemptions=2)
        )
        assert status == 1
        assert one_line(err)
        assert "not enough memory" in err
        assert json.loads(out)["interrupted"] if json_ else "interrupted" in out


class TestWorkers:
    @pytest.fixture
    def killed(self, monkeypatch) -> None:
        """One of the workers of ``verify`` is killed when four sites are done."""
        as_they_come = ProcessPool.as_they_come

        def killed(self, tasks):
            for done, answer in enumerate(as_they_come(self, tasks)):
                if done == 3:
                    process = self._workers[0].process
                    os.kill(process.pid, signal.SIGKILL)
                    process.join()
                yield answer

        monkeypatch.setattr(ProcessPool, "as_they_come", killed)

    @pytest.mark.usefixtures("killed")
    def test_a_killed_worker_of_verify_is_one_line_behind_what_was_found(self, capsys):
        words = (
            "workloads/elf/qsort.o",
            "--call",
            "sort_i32",
            "--arg",
            "buf:0200000001000000",
            "--arg",
            "2",
        )
        argv = ("verify", str(ROOT / words[0]), *words[1:], "--jobs", "2")
        status, out, err = call(capsys, *argv, "--json")
        document = json.loads(out)
        assert (status, document["verdict"], document["interrupted"]) == (1, "nothing-found", True)
        assert 4 <= document["sites"] <= 6
        assert document["runs"] >= document["sites"]
        assert one_line(err)
        assert "a worker process died" in err

    def test_processes_that_can_not_be_started_are_no_dead_ones(self, capsys, image, monkeypatch):
        def full(_self) -> None:
            raise OSError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(ForkProcess, "start", full)
        status, out, err = call(
            capsys, "verify", image, "--call", "work", "--arg", "5", "--jobs", "2", "--json"
        )
        assert (status, json.loads(out)["sites"]) == (1, 0)
        assert one_line(err)
        assert "cannot start a process: Resource temporarily unavailable; use fewer --jobs" in err


class TestDisk:
    def test_a_checkpoint_that_can_not_be_written_any_more_takes_no_result_away(
        self, capsys, image, tmp_path
    ):
        argv = check_of(image, "--checkpoint", str(tmp_path / "room"), "--json")
        done = shell(f"ulimit -f 1; optprobe {' '.join(argv)}")
        assert done.returncode == 1
        assert one_line(done.stderr)
        assert "--checkpoint: cannot write" in done.stderr
        assert "File too large" in done.stderr
        assert call(capsys, *argv) == (0, done.stdout, "")  # a line that was cut off does not count

    def test_a_checkpoint_for_which_there_is_no_room_is_said_before_the_search(
        self, image, tmp_path
    ):
        done = shell(f"ulimit -f 0; optprobe {' '.join(check_of(image))} --checkpoint {tmp_path}")
        assert (done.returncode, done.stdout) == (2, "")
        assert one_line(done.stderr)
        assert "--checkpoint: cannot write" in done.stderr

    def test_a_checkpoint_is_no_device(self, tmp_path):
        """Of some there is no end."""
        (tmp_path / "a").symlink_to("/dev/full")
        with pytest.raises(InputError, match="not a regular file"):
            Checkpoint(tmp_path / "a", "a")

    @pytest.mark.parametrize("place", ["/dev/null", "/proc/nowhere", "a\0b"])
    def test_a_checkpoint_where_none_can_be_says_what_would_be_right(self, capsys, image, place):
        status, out, err = call(capsys, *check_of(image, "--checkpoint", place))
        assert (status, out) == (2, "")
        assert one_line(err)
        assert "--checkpoint" in err
        assert "give a directory" in err

    def test_two_processes_do_not_write_one_checkpoint(self, tmp_path):
        script = (
            "import sys; from pathlib import Path; from engine.search.checkpoint import"
            " Checkpoint\none = Checkpoint(Path(sys.argv[1]), 'a'); "
            "print('open', flush=True); sys.stdin.read()"
        )
        file = tmp_path / "a.jsonl"
        other = subprocess.Popen(
            [sys.executable, "-c", script, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(InputError, match="another process is at this search"):
            Checkpoint(file, "a")
        other.kill()
        other.communicate()
        with closing(Checkpoint(file, "a")) as one:  # the lock has ended with it
            one.write(PartResult(schedules=3))
        with closing(Checkpoint(file, "a")) as one:
            assert [result.schedules for result in one.known(5)] == [3]


class TestStreams:
    def test_a_closed_stream_s_number_is_nobody_else_s(self, image, tmp_path):
        """What a library writes to standard error would be found in the checkpoint, which was
        opened next.
        """
        file = tmp_path / "one.py"
        file.write_text(
            f"import os\nfrom arch_x86.explore.scenario import scenario\n@scenario(image={image!r},"
            " call='work', arguments=('5',), calls=1, preemptions=0)\ndef one(setup):\n   "
            " @setup.control\n    def main(k):\n        os.write(2, b'noise')\n       "
            " k.settle()\n"
        )
        done = shell(f"optprobe explore {file} --checkpoint {tmp_path} 2>&-")
        assert (done.returncode, done.stderr) == (0, "")
        (written,) = tmp_path.glob("*.jsonl")
        assert "noise" not in written.read_text()

    @pytest.mark.parametrize("where", ["2>&-"])
    def test_a_complaint_that_can_not_be_written_is_not_written_elsewhere(
        self, image, tmp_path, where
    ):
        words = " ".join([*check_of(image), "--checkpoint", str(tmp_path / "room"), "--json"])
        done = shell(f"ulimit -f 1; optprobe {words} {where}")
        assert (done.returncode, done.stderr) == (1, "")
        assert json.loads(done.stdout)["verdict"] == "safe"


def test_a_script_from_a_standard_input_that_is_closed_is_one_line(image):
    """The shell's ``<&-``: then Python has no such stream at all."""
    command = [sys.executable, "-m", "engine", "script", image, "-"]
    done = subprocess.run(
        command,
        preexec_fn=lambda: os.close(0),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    wanted = "give a text file of operations, one a line, or - for standard input"
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"optprobe: standard input is closed; {wanted}\n",
    )
