"""Laws of ``inspect`` in several processes: the output is that of one process, byte for byte, and
what goes wrong ends it as it ends any command.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arch_x86.images import load_image
from arch_x86.lab import inspect_jobs
from arch_x86.lab.inspect_image import inspect_image
from engine.commands.cli import main
from engine.errors import WorkerDied
from engine.image import Image, Range, Reserved, ReservedKind, Segment, Symbol
from tests.conftest import BASE

ROOT = Path(__file__).resolve().parents[2]
ELF = ROOT / "workloads" / "elf"
IMAGES = ("sha256.o", "lz.so", "shapes_jcc.o", "libmix")
FORMS = [(as_json, buffers) for as_json in (True, False) for buffers in (True, False)]


def output(image: Image, jobs: int, *, as_json: bool, buffers: bool, symbol: str | None = None):
    out = io.StringIO()
    inspect_image(out, image, symbol, as_json=as_json, buffers=buffers, jobs=jobs)
    return out.getvalue()


def odd_image() -> Image:
    """Functions with several names, without a size, outside of the text, and with no detour."""
    code = bytes.fromhex("c3" + "b801000000" * 9 + "0f1f440000c3" + "90" * 40 + "06c3cccc")
    names = [("a", 0, 1), ("b", 1, 45), ("c", 1, 20), ("a", 46, 6), ("d", 52, 0), ("e", 0x5000, 4)]
    return Image(
        name='odd "image"',
        segments=(Segment(BASE, code, len(code)),),
        symbols=tuple(Symbol(name, BASE + at, size) for name, at, size in names),
        reserved=(Reserved(BASE + 46, 5, ReservedKind.FTRACE_SITE),),
        blacklist=(Range(BASE + 60, 3),),
    )


@pytest.mark.parametrize(("as_json", "buffers"), FORMS)
@pytest.mark.parametrize("name", IMAGES)
def test_the_output_does_not_depend_on_the_number_of_processes(name, as_json, buffers):
    image = load_image(ELF / name, executes=False)
    one, two = (output(image, jobs, as_json=as_json, buffers=buffers) for jobs in (1, 2))
    assert one == two


@pytest.mark.parametrize(("as_json", "buffers"), FORMS)
@pytest.mark.parametrize("size", [1, 7, 16, 1 << 13])
def test_the_output_does_not_depend_on_where_the_code_is_cut(monkeypatch, size, as_json, buffers):
    monkeypatch.setattr(inspect_jobs, "_TASK_SIZE", size)
    image = odd_image()
    one, three = (output(image, jobs, as_json=as_json, buffers=buffers) for jobs in (1, 3))
    assert one == three
    if as_json:
        assert len(json.loads(one)["functions"]) == 6


def test_one_function_and_no_function_are_written_alike(monkeypatch):
    monkeypatch.setattr(inspect_jobs, "_TASK_SIZE", 8)
    empty = Image(name="empty", segments=(Segment(BASE, b"\xc3", 1),), symbols=())
    for image, symbol in ((odd_image(), "a"), (odd_image(), "c"), (empty, None)):
        for as_json, buffers in FORMS:
            one, two = (
                output(image, jobs, as_json=as_json, buffers=buffers, symbol=symbol)
                for jobs in (1, 2)
            )
            assert one == two


@given(st.lists(st.integers(0, 40_000), max_size=20))
def test_each_byte_is_in_one_task_in_order_and_no_task_is_large(sizes):
    tasks = list(inspect_jobs._tasks([part] for part in inspect_jobs._cut(sizes)))
    found = [(number, offset) for task in tasks for number, a, b in task for offset in range(a, b)]
    assert found == [(number, at) for number, size in enumerate(sizes) for at in range(size)]
    assert sorted({part.number for task in tasks for part in task}) == list(range(len(sizes)))
    for task in tasks:
        assert sum(part.last - part.first for part in task) < 2 * inspect_jobs._TASK_SIZE


class Full(io.StringIO):
    """A stream that takes the start of the document only."""

    def write(self, text: str) -> int:
        if self.tell() > 100:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_output_that_can_not_be_written_leaves_no_process(monkeypatch):
    monkeypatch.setattr(inspect_jobs, "_TASK_SIZE", 64)
    with pytest.raises(OSError, match="No space"):
        inspect_image(Full(), load_image(ELF / "lz.o"), as_json=True, jobs=2)
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_is_told_and_no_other_is_left(monkeypatch, capsys):
    monkeypatch.setattr(inspect_jobs, "_TASK_SIZE", 64)

    class Deadly(io.StringIO):
        def write(self, text: str) -> int:
            for child in multiprocessing.active_children():
                child.kill()
            return super().write(text)

    with pytest.raises(WorkerDied):
        inspect_image(Deadly(), load_image(ELF / "lz.o"), as_json=True, jobs=2)
    assert multiprocessing.active_children() == []
    monkeypatch.setattr(sys, "stdout", Deadly())
    assert main(["inspect", str(ELF / "lz.o"), "--json", "--jobs", "2"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("optprobe: a worker process died")
    assert err.count("\n") == 1


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_all_processes_quietly(options):
    command = [sys.executable, "-m", "engine", "inspect", str(ELF / "shapes.so"), "--buffers"]
    with subprocess.Popen(
        [*command, *options, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        # A worker has the same standard error, so the end of file is theirs, too.
        assert process.stderr.read() == b""


@pytest.mark.parametrize("jobs", ["0", "x", "257"])
def test_a_number_of_processes_that_can_not_be_is_refused(capsys, jobs):
    assert main(["inspect", str(ELF / "lz.o"), "--jobs", jobs]) == 2
    assert "--jobs" in capsys.readouterr().err
