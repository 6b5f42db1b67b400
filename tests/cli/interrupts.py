"""Ctrl-C at random moments of each command: ``python -m tests.cli.interrupts [--seed N] [--moments
N] [--words WORD]...``, or ``make interrupts``.

A moment is a share of the time that the command takes when nobody interrupts it, drawn from a seed;
each command is interrupted at every moment by a signal to its process group, as a terminal does it,
and by one to its process alone. What must hold is in :func:`wrong`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

__all__ = ("COMMANDS", "Ended", "interrupt", "moments", "wrong")

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 2.0
"""Seconds in which a command has to end; some cores are busy with other things."""

_SHA = (
    "workloads/elf/sha256.o",
    "--call",
    "sha256",
    "--arg",
    "buf:616263",
    "--arg",
    "3",
    "--arg",
    "buf:+32",
)
_QSORT = (
    "workloads/elf/qsort.o",
    "--call",
    "sort_i32",
    "--arg",
    "buf:0200000001000000",
    "--arg",
    "2",
)
_SSE = (
    "workloads/elf/sse2.o",
    "--call",
    "sse2_find",
    "--arg",
    "buf:68656c6c6f20776f726c64",
    "--arg",
    "11",
    "--arg",
    "buf:776f",
    "--arg",
    "2",
)
_CHECK = ("check", *_QSORT, "--probe", "sort_i32", "--calls", "1")
_SCENARIO = "arch_x86/explore/scenarios/steps.py::jump-into-range"
_SCRIPT = "reg 0 sort_i32+0\nwait\ncall sort_i32 x1\ndis 0\nwait\n"
_TORN = "v3:a6357eae:c0*3,c1*4,0*2"

COMMANDS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "inspect": ("inspect", "workloads/elf/sha256.o"),
    "inspect --json": ("inspect", "workloads/elf/sha256.o", "--json"),
    "inspect --jobs 2": ("inspect", "workloads/elf/shapes.so", "--jobs", "2", "--json"),
    "run": ("run", *_SHA, "--probe", "sha256", "--interrupts", "every:100"),
    "run --json": ("run", *_SHA, "--probe", "sha256", "--interrupts", "every:100", "--json"),
    "script": ("script", "workloads/elf/qsort.o", "SCRIPT"),
    "script --json": ("script", "workloads/elf/qsort.o", "SCRIPT", "--json"),
    "verify": ("verify", *_SSE, "--interrupts", "sample:1:60"),
    "verify --json": ("verify", *_SSE, "--interrupts", "sample:1:60", "--json"),
    "verify --jobs 2": ("verify", *_SSE, "--interrupts", "sample:1:90", "--jobs", "2"),
    "verify --json --jobs 2": (
        "verify",
        *_SSE,
        "--interrupts",
        "sample:1:90",
        "--jobs",
        "2",
        "--json",
    ),
    "check": _CHECK,
    "check --json": (*_CHECK, "--json"),
    "check --jobs 2": (*_CHECK, "--jobs", "2"),
    "check --json --jobs 2": (*_CHECK, "--json", "--jobs", "2", "--checkpoint", "ROOM"),
    "check, a violation": (*_CHECK, "--without", "stop-machine", "--json", "--save", "ROOM"),
    "explore": ("explore", _SCENARIO, "--json"),
    "explore --jobs 2": ("explore", _SCENARIO, "--jobs", "2"),
    "matrix": (
        "matrix",
        "--profile",
        "linux-2010",
        "--no-preempt",
        "--max-schedules",
        "20",
        "--json",
    ),
    "matrix --jobs 2": (
        "matrix",
        "--profile",
        "linux-2010",
        "--no-preempt",
        "--max-schedules",
        "20",
        "--jobs",
        "2",
    ),
    "replay": ("replay", _TORN, "--", *_CHECK[1:], "--without", "stop-machine"),
    "replay --json": ("replay", _TORN, "--json", "--", *_CHECK[1:], "--without", "stop-machine"),
    "demo": ("demo",),
    "museum": ("museum", "5c02ece81848"),
    "museum --json": ("museum", "5c02ece81848", "--json"),
    "litmus": ("litmus", "--seconds", "3"),
    "litmus --json": ("litmus", "--seconds", "3", "--json"),
}
"""What is interrupted, by name. SCRIPT is a file of operations, ROOM a directory."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended. ``took``: seconds from the signal to the end of all that hold its
    output, None if it never came.
    """

    status: int
    out: str
    err: str
    took: float


def words_of(name: str, room: Path) -> list[str]:
    """The command line of one of :data:`COMMANDS`."""
    script = room / "script"
    script.write_text(_SCRIPT)
    return [
        {"SCRIPT": str(script), "ROOM": str(room / "room")}.get(word, word)
        for word in COMMANDS[name]
    ]


def moments(name: str, number: int, seed: int) -> Iterator[float]:
    """Shares of the command's time, a bit of what follows it included."""
    random = Random(f"{seed}:{name}")
    return (random.random() * 1.03 for _ in range(number))


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    """The command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )


def interrupt(words: Sequence[str], after: float, *, group: bool) -> Ended:
    """Run it, send SIGINT after some seconds, and wait until it and its workers have gone.

    :raises subprocess.TimeoutExpired: they have not.
    """
    process = start(words)
    time.sleep(after)
    sent = time.monotonic()
    send: Callable[[int, int], None] = os.killpg if group else os.kill
    try:
        send(process.pid, signal.SIGINT)  # a process that has ended is there until it is waited for
        out, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Ended(process.returncode, out, err, time.monotonic() - sent)


def before_us(ended: Ended) -> bool:
    """The signal came while Python itself started: none of our code had run, and what is shown is
    Python's.
    """
    ours = any(
        f"/{package}/" in ended.err.replace(str(ROOT), "") for package in ("engine", "arch_x86")
    )
    return (
        ended.out == ""
        and not ours
        and (
            ended.status == -signal.SIGINT
            or "Traceback" in ended.err
            or "Fatal Python" in ended.err
        )
    )


def wrong(ended: Ended, usual: Ended) -> str | None:
    """What is not as it should be, against the run that nobody interrupts: it ends soon, with one
    line at most, by status 130 (or by the signal, which a shell shows as 130), or as usual where it
    was done already; a JSON document is whole, and says ``interrupted``.
    """
    if ended.took > WITHIN:
        return f"took {ended.took:.1f} s"
    if ended.err.count("\n") > 1 or not (ended.err == "" or ended.err.startswith("optprobe: ")):
        return f"standard error: {ended.err}"
    if (ended.status, ended.err) == (usual.status, usual.err):
        return None
    if ended.status not in (130, -signal.SIGINT):
        return f"status {ended.status}"
    # inspect writes its document as it goes: it ends anywhere
    if not ended.out.startswith("{") or '"functions"' in ended.out:
        return None
    try:
        documents = [json.loads(line) for line in ended.out.splitlines()]
    except ValueError:
        return f"not JSON: {ended.out[-200:]}"
    (last,) = documents[-1:]
    if "verdict" in last and not last["interrupted"] and last != json.loads(usual.out):
        return "does not say that it was interrupted"
    return None


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cli.interrupts",
        description="Ctrl-C at random moments of each command.",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--moments", type=int, default=10, help="of each command and way to send the signal"
    )
    parser.add_argument(
        "only", nargs="*", metavar="WORD", help="only commands whose names have one of these"
    )
    args = parser.parse_args(argv)
    faults = 0
    print(f"{'COMMAND':<24} TAKES  INTERRUPTED  DONE BEFORE  PYTHON'S START  SLOWEST  WRONG")
    for name in COMMANDS:
        if args.only and not any(word in name for word in args.only):
            continue
        ways: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as room:
            words = words_of(name, Path(room))
            began = time.monotonic()
            process = start(words)
            out, err = process.communicate(timeout=300)
            takes = time.monotonic() - began
            usual = Ended(process.returncode, out, err, 0)
        slowest = 0.0
        found: list[str] = []
        for share in moments(name, args.moments, args.seed):
            for group in (True, False):
                with tempfile.TemporaryDirectory() as room:
                    try:
                        ended = interrupt(words_of(name, Path(room)), share * takes, group=group)
                    except subprocess.TimeoutExpired:
                        found.append(
                            f"at {share * takes:.3f} s, {'group' if group else 'alone'}: does"
                            " not end"
                        )
                        continue
                slowest = max(slowest, ended.took)
                if before_us(ended):
                    ways["before"] += 1
                    continue
                ways["usual" if ended.status == usual.status else "interrupted"] += 1
                fault = wrong(ended, usual)
                if fault is not None:
                    found.append(
                        f"at {share * takes:.3f} s, {'group' if group else 'alone'}: {fault}"
                    )
        print(
            f"{name:<24} {takes:5.2f}  {ways['interrupted']:>11}  {ways['usual']:>11} "
            f" {ways['before']:>14}  {slowest:7.2f}  {len(found):>5}",
            flush=True,
        )
        for one in found:
            print(f"    {one}")
        faults += len(found)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
