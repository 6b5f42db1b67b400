"""``make campaign``: check every optimizable site that a call of a shipped workload passes.

The answers go to a file, one JSON line a site, in a fixed order, each written as it is found. What
is in the file already is not done again, so a run that was killed goes on where it was, and ends
with the same lines. Each site is checked by itself, in the call with the fewest instructions that
passes it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch_x86.explore.x86_setup import X86Setup
from arch_x86.images import load_image
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Verifier
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from bench.lines import answers
from bench.program import run_guarded
from engine.core.ablation import without
from engine.core.profiles import profile_named
from engine.patching.experiment import Experiment
from engine.patching.probe_life import life_of_probes
from engine.patching.search_options import Search
from engine.patching.verdict import check
from engine.report.terminal import Progress
from engine.syntax.arguments import parse_argument
from engine.syntax.kprobe_events import parse_spec
from workloads.reference import cases

_ELF = Path(__file__).resolve().parents[1] / "workloads" / "elf"


@dataclass(frozen=True, slots=True)
class Site:
    """One site, and the call that it is checked in."""

    image: str
    place: str
    call: str
    arguments: tuple[str, ...]
    profile: str
    preemptions: int
    max_schedules: int

    @property
    def key(self) -> str:
        """What names the site and its search in the file."""
        return f"{self.image} {self.place} {self.profile} {self.preemptions} {self.max_schedules}"


def sites(profile: str, preemptions: int, max_schedules: int, progress: Progress) -> Iterator[Site]:
    """All sites, in the order of images and addresses."""
    try:
        shortest = _shortest_calls(progress)
    finally:
        progress.clear()
    for (image_name, _), (_, place, call, args) in sorted(shortest.items()):
        yield Site(image_name, place, call, args, profile, preemptions, max_schedules)


def _shortest_calls(
    progress: Progress,
) -> dict[tuple[str, int], tuple[int, str, str, tuple[str, ...]]]:
    """The call with the fewest instructions that passes each site.

    :returns: by image and address of the site: the instructions of the call, the site's place, the
        function that is called, and its arguments.
    """
    best: dict[tuple[str, int], tuple[int, str, str, tuple[str, ...]]] = {}
    known = cases()
    for done, one in enumerate(known):
        progress.update(done, len(known), "calls looked at")
        image = load_image(_ELF / one.image)
        verifier = Verifier(
            image, one.symbol, [parse_argument(a) for a in one.args], options=ExecOptions()
        )
        code, kallsyms = verifier.bench.arch.code, verifier.bench.machine.kallsyms
        for addr in verifier.sites():
            found = kallsyms.lookup(addr)
            if found is None or not isinstance(can_optimize(code, addr), OptimizePlan):
                continue
            here = (
                verifier.golden.instructions,
                f"{found[0].name}+{found[1]:#x}",
                one.symbol,
                one.args,
            )
            if here < best.get((one.image, addr), (1 << 62, "", "", ())):
                best[one.image, addr] = here
        verifier.close()
    return best


def check_site(site: Site) -> dict[str, Any]:
    """The answer for one site, as a JSON line has it."""
    spec = parse_spec(site.place)
    experiment = Experiment(
        image=load_image(_ELF / site.image),
        call=site.call,
        arguments=tuple(parse_argument(a) for a in site.arguments),
        calls=1,
        profile=without(profile_named(site.profile), frozenset()),
        code=[("main", life_of_probes([spec]))],
        tag=site.place,
    )
    search = Search(preemptions=site.preemptions, max_schedules=site.max_schedules)
    result = check(experiment, search, X86Setup())
    document = result.to_json()
    return {
        "key": site.key,
        "call": site.call,
        **{key: document[key] for key in ("verdict", "bound", "points", "coverage", "violations")},
    }


def main() -> int:
    """Run the campaign, or go on with one."""
    parser = argparse.ArgumentParser(prog="make campaign")
    parser.add_argument("--file", default="campaign.jsonl")
    parser.add_argument("--profile", default="linux-2010")
    parser.add_argument("--preemptions", type=int, default=1)
    parser.add_argument("--max-schedules", type=int, default=4_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sites", type=int, default=None, help="stop after so many")
    args = parser.parse_args()
    file, line = Path(args.file), Progress("campaign")
    wanted = list(sites(args.profile, args.preemptions, args.max_schedules, line))[: args.sites]
    mine = answers(file, wanted, check_site, jobs=args.jobs, line=line, noun="sites")
    verdicts = Counter(answer["verdict"] for answer in mine)
    schedules = sum(answer["bound"]["schedules"] for answer in mine)
    whole = sum(answer["bound"]["exhaustive"] for answer in mine)
    print(
        f"{len(mine):,} sites, {schedules:,} schedules, {whole:,} exhaustive: "
        + ", ".join(f"{n:,} {v}" for v, n in sorted(verdicts.items()))
    )
    for answer in mine:
        if answer["verdict"] not in ("safe", "nothing-found"):
            print(
                f"  {answer['verdict']}: {answer['key']}: "
                + "; ".join(v["explain"] for v in answer["violations"])
            )
    return 0 if set(verdicts) <= {"safe", "nothing-found"} else 1


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main))
