"""Every shipped workload: unprobed it gives what Python computed, and ``verify`` is good on it,
also with interrupts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from arch_x86.images import load_image
from arch_x86.isa.decode import decode
from arch_x86.lab.jobs import verify_image
from arch_x86.lab.run import ExecOptions, run_image
from arch_x86.lab.verify import Sweep
from engine.core.profiles import LINUX_6_1, NEXT
from engine.kprobe import Method
from engine.syntax.arguments import parse_argument
from engine.syntax.kprobe_events import parse_spec
from workloads.reference import Case, cases

ELF = Path(__file__).resolve().parents[2] / "workloads" / "elf"
IMAGES = sorted({case.image for case in cases()})
# Calls of at most 200 instructions, from algorithms and from shapes, that get an interrupt at every
# boundary.
IN_FULL = ("sse2-tiny", "lz-match", "shape_lock_xadd", "shape_loop")
AT_LENGTH = ("libmix", "interp.so", "lz.so", "sha256.so", "shapes.so", "sse2.so")
"""Images whose sweeps take long, of functions whose sweeps in another image (an object file, or a
smaller shared object for how it is linked) `make test` has.
"""
SWEPT = [pytest.param(n, marks=pytest.mark.slow if n in AT_LENGTH else ()) for n in IMAGES]
# The first call of each function, which is the shortest, gets sampled interrupts.
ONE_EACH = tuple({(case.image, case.symbol): case for case in reversed(cases())}.values())


@cache
def image(name: str):
    return load_image(ELF / name)


def arguments(case: Case):
    return [parse_argument(text) for text in case.args]


def of(name: str) -> list[Case]:
    return [case for case in cases() if case.image == name]


@pytest.mark.smoke
@pytest.mark.parametrize("name", IMAGES)
def test_an_unprobed_call_gives_the_reference_result(pool, name):
    for case in of(name):
        result = run_image(image(name), case.symbol, arguments(case), pool=pool)
        assert result.fault is None, case.name
        assert result.calls[0].buffers == case.buffers, case.name
        if case.result is not None:
            assert result.calls[0].result == case.result, case.name


@pytest.mark.parametrize("name", SWEPT)
def test_a_probe_on_any_boundary_by_any_method_changes_nothing_and_hits_all_passes(pool, name):
    for case in of(name):
        if case.short or case in ONE_EACH:
            result = verify_image(
                image(name), case.symbol, arguments(case), sweep=Sweep(), pool=pool
            )
            assert result.good, (case.name, result.failures[:3], result.fault)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.smoke if n == "lz-match" else ()) for n in IN_FULL]
)
def test_an_interrupt_at_every_boundary_of_a_short_call_changes_nothing(pool, name):
    found = [case for case in cases() if case.name == name or case.name.startswith(f"{name}-")]
    case = next(case for case in found if case.short)
    result = verify_image(
        image(case.image), case.symbol, arguments(case), sweep=Sweep("boundaries"), pool=pool
    )
    assert result.good, (case.name, result.failures[:3])
    assert result.instructions <= 200
    assert result.runs > result.sites * result.instructions


@pytest.mark.parametrize("name", SWEPT)
def test_sampled_interrupts_change_nothing(pool, name):
    for case in ONE_EACH:
        if case.image == name:
            result = verify_image(
                image(name), case.symbol, arguments(case), sweep=Sweep("sample", 1, 1), pool=pool
            )
            assert result.good, (case.name, result.failures[:3])


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(("shapes_flow.o",), id="flow"),
        pytest.param(
            tuple(name for name in IMAGES if name.startswith("shapes_")),
            id="all",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_profile_linux_6_1_repeats_two_warts_of_that_kernel_and_is_right_elsewhere(pool, images):
    """LOOP is emulated with its count one too high, and RET imm16 without releasing its arguments.
    Profile next is right there, too.
    """
    wrong: dict[str, set[str]] = {}
    for case in cases():
        if case.image in images:
            found = [
                verify_image(
                    image(case.image),
                    case.symbol,
                    arguments(case),
                    sweep=Sweep(),
                    pool=pool,
                    options=ExecOptions(profile=profile),
                )
                for profile in (LINUX_6_1, NEXT)
            ]
            result, sound = found
            assert sound.good, (case.name, sound.failures[:3])
            assert (sound.sites, sound.runs) == (result.sites, result.runs)
            for failure in result.failures:
                assert failure.method is Method.EMULATED
                code = image(case.image)
                insn = decode(code.read(code.by_name[failure.symbol].addr + failure.offset, 15), 0)
                assert insn is not None
                wrong.setdefault(insn.text.split()[0], set()).add(case.symbol)
    assert set(wrong) == {"loop", "loope", "loopne", "ret"}
    assert wrong["ret"] == {"shape_ret_imm"}


def test_the_same_run_twice_gives_the_same_json(pool):
    from engine.syntax.interrupts import parse_interrupts

    case = next(case for case in cases() if case.name == "sha256-64")
    found = [
        run_image(
            image(case.image),
            case.symbol,
            arguments(case),
            [parse_spec("sha256"), parse_spec("p compress+0x2f9")],
            interrupts=parse_interrupts("random:5:300"),
            pool=pool,
        ).to_json()
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0]["interrupts"] > 10


@pytest.mark.slow
def test_verify_with_one_and_two_jobs_agree_on_a_thousand_text_versions():
    """tests/lab/test_verify.py compares them on fewer."""
    arguments = [parse_argument(text) for text in ("buf:616263", "3", "buf:+32")]
    one, two = (
        verify_image(image("sha256.o"), "sha256", arguments, sweep=Sweep(), jobs=jobs)
        for jobs in (1, 2)
    )
    assert one == two
    assert one.good
    assert one.runs > 700
