"""One check for each instruction shape and method: whatever is copied, boosted, stepped, emulated
or replaced by a jump, in flight.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from arch_x86.images import load_image
from arch_x86.isa.disasm import disassemble
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Verifier
from arch_x86.probes.boost import is_boostable
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.patching.experiment import Experiment
from engine.patching.search_options import Search
from engine.search.explorable import ViolationKind
from engine.syntax.arguments import parse_argument
from engine.syntax.kprobe_events import parse_spec
from tests.explore.experiments import check
from workloads.reference import cases

ELF = Path(__file__).resolve().parents[2] / "workloads" / "elf"
IMAGES = ("shapes_flow.o", "shapes_jcc.o", "shapes_misc.o", "shapes_rip.o", "shapes_str.o")


def shapes_of(image: str) -> dict[tuple[str, bool, str], tuple[int, str, str, tuple[str, ...]]]:
    """By mnemonic, whether RIP-relative, and method: the shortest call that executes one, and
    where.
    """
    best: dict[tuple[str, bool, str], tuple[int, str, str, tuple[str, ...]]] = {}
    loaded = load_image(ELF / image)
    for one in cases():
        # each level of it is a pass over the site: ten times the schedules
        if one.image != image or one.symbol == "shape_recurse":
            continue
        verifier = Verifier(
            loaded, one.symbol, [parse_argument(a) for a in one.args], options=ExecOptions()
        )
        code, kallsyms = verifier.bench.arch.code, verifier.bench.machine.kallsyms
        for addr in verifier.sites():
            found, function = kallsyms.lookup(addr), code.function_at(addr)
            if found is None or function is None:
                continue
            insn = function.insn_at(addr)
            methods = ["boosted" if is_boostable(code, addr) else "not boosted"]
            methods += ["jump"] if isinstance(can_optimize(code, addr), OptimizePlan) else []
            for method in methods:
                shape = (
                    " ".join(
                        disassemble(insn.raw, addr).split()[
                            : 2 if insn.raw[0] in (0xF0, 0xF2, 0xF3) else 1
                        ]
                    ),
                    insn.rip_relative,
                    method,
                )
                here = (
                    verifier.golden.instructions,
                    f"{found[0].name}+{found[1]:#x}",
                    one.symbol,
                    one.args,
                )
                best[shape] = min(here, best.get(shape, (1 << 62, "", "", ())))
        verifier.close()
    return best


@pytest.fixture(scope="module")
def shapes():
    known: dict[str, dict] = {}

    def of(image: str):
        if image not in known:
            known[image] = shapes_of(image)
        return known[image]

    return of


def in_and_out(spec):
    """A breakpoint, a jump where that may be, and out again."""

    def main(k):
        p = k.kprobe(spec.symbol, spec.offset)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()

    return main


MOST_SCHEDULES = 250
"""To save time: `make campaign` has many more, at every site."""
LONG = ("shape_lodsb", "shape_std_movsb")
"""Calls that are so long that no schedule is in flight at a write among the first of them."""


def sites_of(shapes) -> dict[tuple[str, str, tuple[str, ...]], set[tuple[str, str]]]:
    """By site and call, the mnemonic there and the methods: one life of a probe has them all."""
    found: dict[tuple[str, str, tuple[str, ...]], set[tuple[str, str]]] = {}
    for (mnemonic, _, method), (_, *site) in sorted(shapes.items()):
        found.setdefault(tuple(site), set()).add((mnemonic, method))
    return found


@pytest.mark.parametrize(
    "every", [pytest.param(8, id="an eighth"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("profile", [LINUX_2010, LINUX_6_1], ids=lambda p: p.name)
@pytest.mark.parametrize("image", IMAGES)
def test_each_shape_and_method_is_safe_in_flight_but_for_loop_as_6_1_emulates_it(
    pool, shapes, image, profile, every
):
    """A probe's life beside a call, every boundary, one preemption; each way was taken, also while
    text was written. Of every eight sites `make test` has one in each profile, and not the same;
    and all of those that 6.1 emulates in ways of its own.
    """
    for number, ((place, symbol, arguments), probed) in enumerate(sites_of(shapes(image)).items()):
        loops = profile.emulation_warts and any(name.startswith("loop") for name, _ in probed)
        emulated = profile.emulation_warts and image == "shapes_flow.o"
        if number % every != profile.emulation_warts % every and not emulated:
            continue
        spec = parse_spec(place)
        case = Experiment(
            image=load_image(ELF / image),
            call=symbol,
            arguments=tuple(parse_argument(text) for text in arguments),
            calls=1,
            profile=without(profile, frozenset()),
            code=[("main", in_and_out(spec))],
            tag=place,
        )
        most = 6 * MOST_SCHEDULES if symbol in LONG else MOST_SCHEDULES
        result = check(case, Search(preemptions=1, max_schedules=most), pool=pool)
        shape = (probed, result.violations)
        if loops:
            assert {report.violation.kind for report in result.violations} == {
                ViolationKind.WRONG_RESULT
            }, shape
            continue
        assert result.violations == [], shape
        assert result.coverage.int3, shape
        assert result.coverage.in_flight_at_write, shape
        assert result.coverage.jump or all(method != "jump" for _, method in probed), shape
