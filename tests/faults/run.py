"""``make mutants``: each fault is planted in a copy of the project, and three finders look for it,
each until it has found something.

Exploration is :mod:`tests.faults.explore`, ``verify`` is :mod:`tests.faults.verify`, the unit tests
are those of the part that the fault is in. Each answer goes to a file as it comes, a JSON line
each; a run that was killed goes on where it was. At the end a table in Markdown.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from engine.process_pool import ProcessPool
from engine.search.checkpoint import code_mark
from tests.faults.cases import MOST_SCHEDULES
from tests.faults.fault import Fault, Kind
from tests.faults.lines import ROOT, may_find
from tests.faults.suite import FAULTS, looked_at_by

__all__ = ("FINDERS", "main")

FINDERS: Final = ("exploration", "verify", "unit")
_PARTS: Final = ("engine", "arch_x86", "optprobe", "tests", "workloads")
_SECONDS: Final = 600
"""Most seconds of CPU time that a finder may take: one that takes more than that has met something
that does not end.
"""
_SECONDS_OF_LINES: Final = 3600
"""Most seconds of CPU time of the look which lines each case runs: it runs every case, traced."""
_SHARE: Final = 0.9
"""Exploration and ``verify`` alone have to find so much of all, but for faults of the explorer
itself, which are the unit tests'.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a finder said of a fault. ``found``: what it met, None for nothing."""

    key: str
    finder: str
    found: str | None


class Tree:
    """A copy of the project to plant faults in.

    :param source: the project; the faults and their finders are always those of here.
    :param most: schedules of each case that exploration may visit.
    """

    def __init__(self, source: Path, room: Path, most: int) -> None:
        self.room = room
        self.most = most
        for part in _PARTS:
            shutil.copytree(
                source / part, room / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copytree(ROOT / "tests" / "faults", room / "tests" / "faults", dirs_exist_ok=True)
        shutil.copy(source / "pyproject.toml", room)
        compileall.compile_dir(room, quiet=2)

    def run(
        self, arguments: Sequence[str], seconds: int = _SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """A Python command in the tree, with its packages. Nothing is compiled to files: a fault
        must not outlive its text.

        :param seconds: CPU time after which the command is killed.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.room),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPTPROBE_NO_SHRINK": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.room,
            env=environment,
            capture_output=True,
            text=True,
            preexec_fn=lambda: _limit(seconds),
        )

    def source(self, fault: Fault) -> str:
        """The text of the file that ``fault`` is in; "" where there is no such file."""
        path = self.room / fault.file
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def find(self, fault: Fault, finder: str, cases: Sequence[str]) -> Answer:
        """Plant ``fault``, let ``finder`` look for it (exploration in ``cases``), and mend it."""
        path = self.room / fault.file
        good = path.read_text(encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        path.write_text(good.replace(fault.old, fault.new), encoding="utf-8")
        try:
            return Answer("", finder, self._look(fault, finder, cases))
        finally:
            path.write_text(good, encoding="utf-8")

    def _look(self, fault: Fault, finder: str, cases: Sequence[str]) -> str | None:
        match finder:
            case "exploration" if not cases:
                return None
            case "exploration":
                done = self.run(
                    [
                        "-m",
                        "tests.faults.explore",
                        "--cases",
                        json.dumps(cases),
                        "--most",
                        str(self.most),
                    ]
                )
            case "verify":
                done = self.run(["-m", "tests.faults.verify"])
            case _:
                there = [name for name in looked_at_by(fault) if (self.room / name).exists()]
                done = self.run(
                    [
                        "-m",
                        "pytest",
                        "-q",
                        "-x",
                        "--no-header",
                        "--tb=no",
                        "-p",
                        "no:cacheprovider",
                        *there,
                    ]
                )
        if done.returncode == 0:
            return None
        if done.returncode < 0:
            return f"did not end within {_SECONDS} seconds"
        lines = [
            line
            for line in done.stdout.splitlines()
            if finder != "unit" or line.startswith(("FAILED", "ERROR"))
        ]
        return (lines or done.stderr.splitlines() or ["an error"])[-1][:300]


def _can_be_planted(fault: Fault, tree: Path) -> bool:
    """The text that ``fault`` changes is in ``tree``. It always is in the project itself; another
    version may have other code there.

    :raises SystemExit: it is not in the project itself, where a fault has to follow the code.
    """
    path = tree / fault.file
    times = path.read_text(encoding="utf-8").count(fault.old) if path.exists() else 0
    if times != 1 and tree.resolve() == ROOT:
        raise SystemExit(f"{fault.file}: the text of {fault.name!r} is there {times} times")
    return times == 1


def _is_for(fault: Fault, finder: str) -> bool:
    """A fault of the explorer itself is for the unit tests alone."""
    return finder == "unit" or fault.kind is not Kind.EXPLORER


def _limit(seconds: int) -> None:
    """Limit the CPU time of the process of a finder. It must not inherit that a worker of the pool
    takes no SIGINT, for some tests send it.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_by_exception() -> None:
    """SIGTERM, by which the pool ends a worker, unwinds this process: the finder that it waits for
    ends, too, and no tree is left.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))


def _mark(tree: Path) -> str:
    return code_mark(tree / "engine", tree / "arch_x86")


def _key(fault: Fault, mark: str) -> str:
    return blake2b(
        repr((fault.file, fault.old, fault.new, mark)).encode(), digest_size=6
    ).hexdigest()


def _lines_run(
    tree: Callable[[], Tree], file: Path, mark: str, *, quick: bool
) -> dict[str, dict[str, list[int]]]:
    """Which lines each case of the exploration runs; kept beside the answers, since it takes a few
    minutes.
    """
    kept = file.with_suffix(f".lines-{mark}{'-quick' if quick else ''}.json")
    if not kept.exists():
        print("looking which lines each case of the exploration runs", file=sys.stderr, flush=True)
        fresh = kept.with_suffix(".new")
        done = tree().run(
            [
                "-m",
                "tests.faults.explore",
                "--lines",
                str(fresh.resolve()),
                *(["--quick"] if quick else []),
            ],
            _SECONDS_OF_LINES,
        )
        if done.returncode:
            raise SystemExit(f"without any fault the exploration fails: {done.stdout}{done.stderr}")
        fresh.rename(kept)
    return json.loads(kept.read_text(encoding="utf-8"))


def _read(file: Path) -> dict[tuple[str, str], Answer]:
    known: dict[tuple[str, str], Answer] = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                one: dict[str, Any] = json.loads(line)
                known[one["key"], one["finder"]] = Answer(one["key"], one["finder"], one["found"])
    return known


def _chosen(words: Sequence[str]) -> list[Fault]:
    if not words:
        return list(FAULTS)
    return [
        fault for fault in FAULTS if any(word in fault.name or word in fault.file for word in words)
    ]


def _cell(answer: Answer | None, *, asked: bool) -> str:
    if not asked:
        return ""
    return "?" if answer is None else "-" if answer.found is None else "found"


def _cells(fault: Fault, known: dict[tuple[str, str], Answer], mark: str) -> list[str]:
    """What each finder says of ``fault`` in the version with that mark."""
    return [
        _cell(known.get((_key(fault, mark), finder)), asked=_is_for(fault, finder))
        for finder in FINDERS
    ]


def table(
    faults: Iterable[Fault],
    known: dict[tuple[str, str], Answer],
    mark: str,
    before: tuple[Path, str] | None = None,
) -> str:
    """In Markdown: by fault who finds it; one that is still to be asked is a question mark.

    :param before: an older version, and its mark: what it says stands in front, ``n/a`` where it
        does not have the code of the fault.
    """
    columns = ["exploration", "verify", "unit tests"]
    if before is not None:
        columns = [*(f"{column}, before" for column in columns), *columns]
    lines = [f"| fault | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for fault in faults:
        cells = _cells(fault, known, mark)
        if before is not None:
            tree, older = before
            cells = [
                *(
                    _cells(fault, known, older)
                    if _can_be_planted(fault, tree)
                    else ["n/a"] * len(FINDERS)
                ),
                *cells,
            ]
        lines.append(f"| {fault.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _summary(
    faults: Sequence[Fault], known: dict[tuple[str, str], Answer], mark: str
) -> tuple[str, int]:
    """One line of counts, and the exit status."""
    by: dict[str, set[str]] = {
        finder: {
            fault.name
            for fault in faults
            if (one := known.get((_key(fault, mark), finder))) is not None and one.found is not None
        }
        for finder in FINDERS
    }
    ours = by["exploration"] | by["verify"]
    every = ours | by["unit"]
    text = (
        f"{len(faults)} faults: exploration finds {len(by['exploration'])}, verify"
        f" {len(by['verify'])}, both together {len(ours)}, the unit tests {len(by['unit'])}, all"
        f" together {len(every)}"
    )
    for_ours = sum(_is_for(fault, "exploration") for fault in faults)
    return text, int(len(every) < len(faults) or len(ours) < _SHARE * for_ours)


def _run(
    given: argparse.Namespace,
    faults: Sequence[Fault],
    mark: str,
    known: dict[tuple[str, str], Answer],
) -> None:
    """Ask what has not been asked, and write the answers down."""
    finders: list[str] = given.finders.split(",")
    asked = [
        (finder, fault)
        for finder in finders
        for fault in faults
        if _is_for(fault, finder) and (_key(fault, mark), finder) not in known
    ]
    if not asked:
        return
    file: Path = given.file
    _end_by_exception()
    with tempfile.TemporaryDirectory() as name, file.open("a", encoding="utf-8") as out:

        def new_tree() -> Tree:
            _end_by_exception()
            return Tree(given.tree, Path(tempfile.mkdtemp(dir=name)), given.most)

        run = (
            _lines_run(new_tree, file, mark, quick=given.quick) if "exploration" in finders else {}
        )

        def ask(tree: Tree, one: tuple[str, Fault]) -> Answer:
            finder, fault = one
            cases = may_find(fault, tree.source(fault), run) if finder == "exploration" else []
            return tree.find(fault, finder, cases)

        with ProcessPool(new_tree, ask, given.jobs) as pool:
            for done, ((_, fault), answer) in enumerate(
                zip(asked, pool.in_order(asked), strict=True)
            ):
                key = _key(fault, mark)
                known[key, answer.finder] = Answer(key, answer.finder, answer.found)
                out.write(
                    json.dumps(
                        {
                            "key": key,
                            "fault": fault.name,
                            "finder": answer.finder,
                            "found": answer.found,
                        }
                    )
                    + "\n"
                )
                out.flush()
                told = "nothing" if answer.found is None else answer.found
                print(
                    f"{done + 1}/{len(asked)} {answer.finder}: {fault.name}: {told}",
                    file=sys.stderr,
                    flush=True,
                )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 where every fault is found, and enough of them by exploration and
    ``verify``.
    """
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument(
        "words", nargs="*", help="only faults whose name or file has one of these words in it"
    )
    parser.add_argument("--list", action="store_true", help="list the faults, and run nothing")
    parser.add_argument(
        "--table", action="store_true", help="print the table of what is known, and run nothing"
    )
    parser.add_argument("--finders", default=",".join(FINDERS))
    parser.add_argument(
        "--quick", action="store_true", help="leave out the explorations that take a second or more"
    )
    parser.add_argument(
        "--most",
        type=int,
        default=MOST_SCHEDULES,
        help="schedules of each case that exploration may visit",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--file", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument(
        "--tree", type=Path, default=ROOT, help="the project to plant the faults in"
    )
    parser.add_argument(
        "--before",
        type=Path,
        help=(
            "an older version of the project, tried with --tree: its answers stand in the"
            " table, too"
        ),
    )
    given = parser.parse_args(arguments)
    faults = _chosen(given.words)
    if given.list:
        print("\n".join(f"{fault.kind}: {fault.name} ({fault.file})" for fault in faults))
        return 0
    wanted, faults = faults, [fault for fault in faults if _can_be_planted(fault, given.tree)]
    if len(faults) < len(wanted):
        print(
            f"{len(wanted) - len(faults)} of {len(wanted)} faults are in code that this version"
            " does not have",
            file=sys.stderr,
        )
    mark = _mark(given.tree)
    known = _read(given.file)
    if not given.table:
        _run(given, faults, mark, known)
    text, status = _summary(faults, known, mark)
    before = None if given.before is None else (given.before, _mark(given.before))
    print(table(faults, known, mark, before))
    print(f"\n{text}")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
