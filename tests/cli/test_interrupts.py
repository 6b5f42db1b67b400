"""Laws of Ctrl-C: the command ends at once with one line, whenever it comes; ``make interrupts``
tries many more moments.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.control.stepped_plane import SteppedPlane
from engine.control.sync import Mutex
from engine.ctrl_c import CtrlC
from engine.patching import verdict
from tests.cli import interrupts

ROOT = Path(__file__).resolve().parents[2]
AT = Path(interrupts.__file__).with_name("interrupt_at.py")
CODE = ".globl work\nwork:\n mov eax, edi\n inc eax\n ret\n"


@pytest.fixture
def image(tmp_path) -> str:
    file = tmp_path / "work.s"
    file.write_text(CODE)
    return str(file)


def interrupted_at(event: int, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, with Ctrl-C at one of the calls and returns of functions in it; numbers below 0
    count from its end.
    """
    return subprocess.run(
        [sys.executable, str(AT), str(event), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_ctrl_c_while_the_program_is_loaded_and_at_work_is_one_line(share):
    words = ("inspect", "workloads/elf/qsort.o", "sort_i32")
    done = interrupted_at(int(share * 200_000), *words)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr == "optprobe: interrupted\n"


@pytest.mark.parametrize("back", [3, 9])
def test_ctrl_c_behind_the_last_word_of_a_command_is_nothing(back):
    """While the interpreter ends, whatever is raised is printed as a traceback."""
    done = interrupted_at(-back, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: optprobe")


def test_a_second_signal_right_behind_the_first_takes_no_result_away(image):
    """Some senders signal a process, and then its group."""
    words = (
        "verify",
        "workloads/elf/sse2.o",
        "--call",
        "sse2_find",
        "--arg",
        f"buf:{'68656c6c6f20' * 400}776f726c64",
        "--arg",
        "2405",
    )
    process = interrupts.start(
        [*words, "--arg", "buf:776f", "--arg", "2", "--interrupts", "boundaries", "--json"]
    )
    time.sleep(1.5)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    out, err = process.communicate(timeout=20)
    assert err.startswith("optprobe: interrupted")
    assert err.count("\n") == 1
    assert out == "" or json.loads(out)["interrupted"] is True


def test_a_later_signal_ends_what_the_first_one_did_not():
    script = (
        "import time, sys; from engine.ctrl_c import CtrlC; import engine.ctrl_c as c; c._SAME ="
        " 0.1; CtrlC.installed()\nfor _ in range(2):\n    try:\n        print('ready', flush=True);"
        " time.sleep(20)\n    except KeyboardInterrupt: time.sleep(0.2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT
    process.stdout.close()


def catches(pid: int, number: int) -> bool:
    """Whether the process has installed a handler of the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_sigterm_is_answered_as_ctrl_c_is(image):
    words = [image, "--call", "work", "--arg", "5", "--probe", "work", "--calls", "4"]
    words += ["--cpus", "4", "--preemptions", "none"]
    process = interrupts.start(["check", *words, "--json"])
    while not catches(process.pid, signal.SIGTERM):
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["interrupted"] if out else err == "optprobe: interrupted\n"


def test_sigterm_raises_what_ctrl_c_raises_and_a_process_that_is_done_dies_of_it():
    script = (
        "import os, signal; from engine.ctrl_c import CtrlC; handler = CtrlC.installed()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM); print('not answered')\n"
        "except KeyboardInterrupt: print('answered', flush=True)\n"
        "handler.done(); os.kill(os.getpid(), signal.SIGTERM); print('not dead')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.stdout, done.returncode) == ("answered\n", -signal.SIGTERM)


def test_where_the_interrupt_is_ignored_it_stays_ignored():
    script = (
        "import signal; signal.signal(2, signal.SIG_IGN); "
        "from engine.ctrl_c import CtrlC; print(CtrlC.installed())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout == "None\n"


def test_an_interrupt_whose_exception_nobody_can_catch_comes_again(capfd):
    """In a method that is called as an object dies, the interpreter prints exceptions and forgets
    them.
    """
    usual = signal.getsignal(signal.SIGINT), sys.unraisablehook
    terminating = signal.getsignal(signal.SIGTERM)

    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)

    def dies() -> None:
        one = Dying()
        del one
        time.sleep(5)

    try:
        assert CtrlC.installed() is not None
        with pytest.raises(KeyboardInterrupt):
            dies()
    finally:
        signal.signal(signal.SIGTERM, terminating)
        signal.signal(signal.SIGINT, usual[0])
        sys.unraisablehook = usual[1]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("where", ["runner", "checkpoint"])
def test_ctrl_c_as_a_search_ends_leaves_its_result(capsys, image, tmp_path, monkeypatch, where):
    from engine.commands.cli import main

    ended = verdict.InProcess if where == "runner" else verdict.Checkpoint
    close = ended.close

    def interrupted(one) -> None:
        close(one)
        raise KeyboardInterrupt

    monkeypatch.setattr(ended, "close", interrupted)
    argv = (
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
        "0",
        "--json",
    )
    status = main([*argv, "--checkpoint", str(tmp_path / "room")])
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (status, err, document["interrupted"]) == (130, "", True)
    assert document["schedules"] > 0


@pytest.mark.parametrize("name", ["verify --jobs 2"])
def test_ctrl_c_at_a_random_moment_ends_the_command_and_its_workers(name, tmp_path):
    words = interrupts.words_of(name, tmp_path)
    (share,) = interrupts.moments(name, 1, seed=5)
    ended = interrupts.interrupt(words, 0.15 + share * 0.8, group=True)
    usual = interrupts.Ended(0, "", "", 0)
    assert interrupts.before_us(ended) or interrupts.wrong(ended, usual) is None, ended


class TestControlTasks:
    """What unwinds in a task passes points, where it must not stop, and locks, whose release must
    not hide it.
    """

    @pytest.fixture
    def plane(self) -> SteppedPlane:
        return SteppedPlane(SimpleNamespace(jiffies=0, in_handler=False))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
    @pytest.mark.parametrize("delayed", [False, True])
    def test_what_ends_all_comes_out_of_the_locks_of_a_task_at_once(self, plane, error, delayed):
        lock = Mutex("lock", 1, plane)

        def work() -> None:
            with lock:
                raise error

        plane.spawn("one", work, delayed=delayed)
        plane.spawn("other", lambda: None)
        plane.step(0)
        with pytest.raises(error):
            plane.step(0)
        assert plane.tasks[0].error is None

    def test_an_error_of_a_lock_that_ctrl_c_left_behind_is_ctrl_c(self, plane):
        outer, inner = Mutex("outer", 1, plane), Mutex("inner", 2, plane)

        def work() -> None:
            with outer:
                plane.lock_order.entering(plane.current, inner)
                raise KeyboardInterrupt

        plane.spawn("one", work)
        with pytest.raises(KeyboardInterrupt):
            plane.step(0)
        assert plane.tasks[0].error is None
