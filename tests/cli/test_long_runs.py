"""Laws of how the long runs of bench/ end: with one line and status 130 at Ctrl-C, whenever it
comes, and with one line and status 1 when a worker process dies. What was found stays in the file.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import program
from bench.lines import answers, read
from engine.report.terminal import Progress
from tests.cli.interrupts import Ended, before_us

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Task:
    """What is worked out: a process that works at ``deadly`` is killed; one at ``interrupts`` sends
    its parent Ctrl-C when two answers are in the file.
    """

    key: str
    file: Path


def work(task: Task) -> dict[str, object]:
    if task.key == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.key == "interrupts":
        while task.file.read_text().count("\n") < 2:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(30)
    return {"key": task.key}


def end_of(keys: list[str], file: Path) -> int:
    """The exit status of a long run over ``keys`` in two processes."""

    def main() -> int:
        answers(
            file,
            [Task(key, file) for key in keys],
            work,
            jobs=2,
            line=Progress("long"),
            noun="tasks",
        )
        return 0

    return program._guarded(main)()


def test_a_killed_worker_is_one_line_and_what_came_before_it_stays(capsys, tmp_path):
    file = tmp_path / "answers"
    assert end_of(["1", "2", "3", "deadly", "4", "5"], file) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "optprobe: a worker process died, perhaps for lack of memory; use fewer --jobs\n"
    )
    assert list(read(file)) == ["1", "2", "3"]


def test_ctrl_c_is_one_line_that_says_how_far_it_came(capsys, tmp_path):
    file = tmp_path / "answers"
    assert end_of(["1", "2", "interrupts", "3"], file) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "optprobe: interrupted after 2 of 4 tasks\n")
    assert list(read(file)) == ["1", "2"]


def test_a_long_run_without_incident_has_the_status_of_its_main(tmp_path):
    assert end_of(["1", "2"], tmp_path / "answers") == 0


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (("campaign", "--file", "FILE"), 0.5),
        (("campaign", "--file", "FILE"), 2.0),
        (("soundness", "--file", "FILE", "--cpus", "1"), 2.0),
        (("necessity", "--max-schedules", "2000"), 2.0),
        (("tribunal",), 2.0),
    ],
)
def test_ctrl_c_ends_a_long_run_with_one_line_whenever_it_comes(words, after, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bench.program",
            *(str(tmp_path / "lines") if word == "FILE" else word for word in words),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    if before_us(Ended(process.returncode, out, err, 0)):
        return
    assert (process.returncode, out) == (130, "")
    assert err.startswith("optprobe: interrupted")
    assert err.count("\n") == 1
