"""``make pokes``: the kernel's patch protocols in every fetch model, searched as far as it goes.

Each protocol turns no-ops into calls while vCPUs execute them. With two vCPUs the search goes to
its end at a bound of two preemptions; with four, and preemption, schedules are drawn by PCT. The
table goes to standard output, in Markdown, a row as it comes. Exit status 1: something was found.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Final

from arch_x86.explore.x86_setup import X86Setup
from arch_x86.images.asmtext import load_asm
from bench.program import run_guarded
from engine.image import Image
from engine.patching.check_result import CheckResult
from engine.patching.fetch_model import FETCH_MODELS
from engine.patching.make_experiment import experiment_of_patch
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.patching.search_options import Search
from engine.patching.verdict import check
from engine.report.terminal import Progress

__all__ = ("CASES", "Case", "explored", "main")

_TEXT: Final = """
taken:
 add ebx, 100
 ret
.skip 70000, 0xcc
f:
 push rbx
 mov ebx, edi
{sites}
 lea eax,[rbx+1]
 pop rbx
 ret
"""
_NOP5: Final = " .byte 0x0f,0x1f,0x44,0,0"
_FIRST: Final = 3
"""The first no-op is at this offset in ``f``; the next ones are right behind it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A protocol, and how many sites it is given."""

    protocol: str
    sites: int


CASES: Final = (
    Case("text_poke_smp", 1),
    Case("text_poke_smp_batch", 2),
    Case("text_poke_bp", 1),
    Case("text_poke_bp", 2),
    Case("text_poke_bp_batch", 2),
    Case("smp_text_poke_batch", 2),
)


def _image(sites: int) -> Image:
    return load_asm(_TEXT.format(sites="\n".join([_NOP5] * sites)), "pokes")


def explored(case: Case, fetch: str, search: Search, **fields: object) -> CheckResult:
    """Search ``case`` in the model ``fetch``: the calls go in, and out again.

    :param fields: other fields of the request, such as ``cpus``.
    """
    request = Request(
        image=_image(case.sites), call="f", arguments=("5",), calls=1, fetch=fetch, **fields
    )  # pyright: ignore[reportArgumentType]
    spec = PatchSpec(
        sites=tuple(f"f+{_FIRST + 5 * number:#x}" for number in range(case.sites)),
        codes=("call:taken",),
        back=True,
        protocol=case.protocol,
    )
    port = X86Setup()
    return check(experiment_of_patch(request, spec, port), search, port)


def _told(result: CheckResult) -> str:
    if result.violations:
        found = result.violations[0]
        return f"**{found.violation.kind}**: {found.violation.explain} (`{found.schedule}`)"
    return f"{result.verdict}, {result.outcome.schedules:,}"


def main() -> int:
    """Search all cases in all models, and print the table."""
    parser = argparse.ArgumentParser(prog="make pokes")
    parser.add_argument("--schedules", type=int, default=10_000, help="of PCT, for each cell")
    parser.add_argument("--preemptions", type=int, default=2, help="the bound with two vCPUs")
    names = [model.name for model in FETCH_MODELS]
    parser.add_argument("--fetch", action="append", choices=names, help="only this model")
    protocols = list(dict.fromkeys(case.protocol for case in CASES))
    parser.add_argument(
        "--protocol", action="append", choices=protocols, metavar="P", help="only this protocol"
    )
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    line, wrong = Progress("pokes"), False
    print("| protocol | sites | model | two vCPUs, exhaustive | four vCPUs, preemption, PCT |")
    print("| --- | ---: | --- | --- | --- |", flush=True)
    cases = [case for case in CASES if args.protocol is None or case.protocol in args.protocol]
    for number, case in enumerate(cases):
        for model in args.fetch or names:
            line.update(number, len(cases), f"protocols; {case.protocol} in {model}")
            whole = explored(
                case,
                model,
                Search(preemptions=args.preemptions, jobs=args.jobs),
                cpus=2,
            )
            drawn = explored(
                case,
                model,
                Search(strategy="pct", depth=3, max_schedules=args.schedules, jobs=args.jobs),
                cpus=4,
                preempt=True,
            )
            wrong = wrong or bool(whole.violations or drawn.violations)
            line.clear()
            cells = (case.protocol, str(case.sites), model, _told(whole), _told(drawn))
            print(f"| {' | '.join(cells)} |", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main))
