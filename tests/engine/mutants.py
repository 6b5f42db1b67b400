"""Single-line faults in the core, each of which the state machine must find.

``python -m tests.engine.mutants`` makes each of them in a copy of the project, and runs
``test_core_machine.py`` there, which has to fail. The exit status is 1 when a fault survives. The
machine draws more examples here than in ``make test``: some of the faults are rare.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLES: Final = 400


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault: in ``file``, ``old``, which occurs there once, becomes ``new``.

    :ivar fault: what the fault does, for people.
    """

    fault: str
    file: str
    old: str
    new: str


MUTANTS: Final = (
    Mutant(
        "a new probe does not force back the jump it lies in",
        "engine/core/optprobes.py",
        "            self.unoptimize_kprobe(neighbour, force=True)",
        "            pass",
    ),
    Mutant(
        "another probe in the bytes does not keep the jump off",
        "engine/core/optprobes.py",
        "if self._arch.arch_check_optimized_kprobe(p):",
        "if True:",
    ),
    Mutant(
        "a post_handler that joins does not force the jump back",
        "engine/core/aggregation.py",
        "            self._optprobes.unoptimize_kprobe(ap, force=True)",
        "            pass",
    ),
    Mutant(
        "the last post_handler goes and the aggregator keeps its own",
        "engine/core/unregistration.py",
        "            entry.post_handler = None\n        entry.children",
        "            pass\n        entry.children",
    ),
    Mutant(
        "the newest probe runs last",
        "engine/core/aggregation.py",
        "ap.children.insert(0, p)",
        "ap.children.append(p)",
    ),
    Mutant(
        "a disabled probe's handler runs behind a jump",
        "engine/core/aggregate.py",
        "if child.pre_handler is not None and not child.disabled:\n"
        "            self._cpu.kprobe_instance = child\n"
        "            child.pre_handler(child, regs)",
        "if child.pre_handler is not None:\n"
        "            self._cpu.kprobe_instance = child\n"
        "            child.pre_handler(child, regs)",
    ),
    Mutant(
        "the optimizer undoes the jump and leaves the breakpoint of a disabled probe",
        "engine/core/optimizer.py",
        "if not op.gone and (op.disabled or",
        "if not op.gone and (False or",
    ),
    Mutant(
        "enabling does not arm",
        "engine/core/kprobes.py",
        "                if not self.kprobes_all_disarmed:\n"
        "                    self.optprobes.arm_kprobe(entry)",
        "                pass",
    ),
    Mutant(
        "a probe waiting for its jump is not dequeued when it is taken back",
        "engine/core/transitions.py",
        "        op.flags &= ~KprobeFlag.OPTIMIZED\n"
        "        if op.queued:\n"
        "            queues.dequeue(op)\n"
        "        elif force:",
        "        op.flags &= ~KprobeFlag.OPTIMIZED\n"
        "        if op.queued:\n"
        "            pass\n"
        "        elif force:",
    ),
    Mutant(
        "an unused probe is never reclaimed",
        "engine/core/optimizer.py",
        "if op.unused:\n                self._host.free_aggr_kprobe(op)",
        "if False:\n                self._host.free_aggr_kprobe(op)",
    ),
    Mutant(
        "disarming all leaves what waits for the optimizer armed",
        "engine/core/optimizer.py",
        "or all_go)",
        "or False)",
    ),
    Mutant(
        "arming all arms the disabled ones, too",
        "engine/core/global_switches.py",
        "            if p.disabled:\n"
        "                continue\n"
        "            if on:\n"
        "                core.optprobes.arm_kprobe(p)",
        "            if on:\n                core.optprobes.arm_kprobe(p)",
    ),
    Mutant(
        "code that is gone leaves its probes on the optimizer's lists",
        "engine/core/optprobes.py",
        "if op.queued:\n            self._optimizer.dequeue(op)\n        op.flags",
        "if False:\n            self._optimizer.dequeue(op)\n        op.flags",
    ),
    Mutant(
        "next: nobody is asked when a neighbour's jump is undone",
        "engine/core/optimizer.py",
        "if self._profile.reoptimizes_later:",
        "if False:",
    ),
    Mutant(
        "next: what is enabled while all are disarmed sleeps on",
        "engine/core/kprobes.py",
        "            if entry.disabled and (\n"
        "                self.profile.enables_while_disarmed or not self.kprobes_all_disarmed\n"
        "            ):",
        "            if entry.disabled and not self.kprobes_all_disarmed:",
    ),
    Mutant(
        "next: a disabled probe that takes over a dying one enables it",
        "engine/core/aggregation.py",
        "if p.disabled and not self._profile.rescue_enables:",
        "if False:",
    ),
    Mutant(
        "next: a post_handler that joins a boosted probe is not called",
        "arch_x86/probes/stepping.py",
        "return ainsn.boostable and not (self._both and p.post_handler is not None)",
        "return ainsn.boostable",
    ),
    Mutant(
        "next: what an operation arms and disarms is disarmed only",
        "engine/core/arming.py",
        "        if armed:\n",
        "        if False:\n",
    ),
)


def survives(mutant: Mutant, tree: Path, tests: Sequence[str]) -> bool:
    """Whether the tests pass on the faulty copy."""
    path = tree / mutant.file
    source = path.read_text()
    if source.count(mutant.old) != 1:
        raise SystemExit(
            f"{mutant.file}: the line of {mutant.fault!r} is there {source.count(mutant.old)} times"
        )
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-n",
            "2",
            "-p",
            "no:cacheprovider",
            *tests,
        ]
        environment = {
            **os.environ,
            "OPTPROBE_NO_SHRINK": "1",
            "OPTPROBE_EXAMPLES": str(EXAMPLES),
        }
        return (
            subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, timeout=600
            ).returncode
            == 0
        )
    finally:
        path.write_text(source)


def run_all(mutants: Sequence[Mutant], tests: Sequence[str]) -> int:
    """Run ``tests`` (arguments of pytest) on each of ``mutants``, and print one line each.

    :returns: the exit status.
    """
    alive = 0
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        for part in ("engine", "arch_x86", "tests", "workloads"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        for mutant in mutants:
            lives = survives(mutant, tree, tests)
            alive += lives
            print(f"{'SURVIVES' if lives else 'found   '}  {mutant.fault}", flush=True)
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(run_all(MUTANTS, ["tests/engine/test_core_machine.py"]))
