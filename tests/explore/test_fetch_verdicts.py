"""What the fetch models say of the kernels' protocols: all steps are enough in each model, and a
core sync that is left out shows where docs/fetch-models.md says.
"""

from __future__ import annotations

import pytest

from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT
from engine.patching.experiment import Experiment
from engine.patching.fetch_model import FETCH_MODELS
from engine.patching.search_options import Search
from engine.search.explorable import ViolationKind
from tests.conftest import asm_image
from tests.explore.experiments import check, experiment

PROFILES = (LINUX_2010, LINUX_6_1, NEXT)
SITE = "lea eax, [rdi + rdi]; lea ecx, [rax + 1]; ret"
"""The five bytes of a jump here are 8d 04 3f 8d 48, and differ from those of the jump in the last
byte, too.
"""
NOT_NEEDED = {"bp-sync-1", "bp-sync-3"}
TEARING = ("bp-sync-2", "unopt-sync-1", "unopt-sync-2")
FAST = ("stale", "unit:8", "torn")
"""The models that `make test` looks at."""


def in_and_out(offset: int):
    def task(k):
        p = k.kprobe("f", offset)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()

    return task


def in_and_disabled(k):
    p = k.kprobe("f")
    k.register(p)
    k.settle()
    k.disable(p)
    k.unregister(p)
    k.settle()


def off_without_a_jump(k):
    p = k.kprobe("f", 1)
    k.register(p)
    k.disable(p)
    k.unregister(p)


def case(code, *, offset: int = 0, **fields) -> Experiment:
    """``f`` has ``offset`` one-byte instructions in front of the site."""
    fields.setdefault("profile", LINUX_6_1)
    return experiment(asm_image("nop; " * offset + SITE), code, **fields)


def at(offset: int, **fields) -> Experiment:
    return case(in_and_out(offset), offset=offset, interrupts=False, **fields)


def verdict(pool, one: Experiment, *, bound: int = 1):
    result = check(one, Search(preemptions=bound), pool=pool)
    assert result.outcome.exhaustive or result.violations
    return result


def torn(pool, one: Experiment) -> bool:
    """Whether a vCPU executes a torn instruction; nothing else may go wrong."""
    result = verdict(pool, one, bound=0)
    kinds = {report.violation.kind for report in result.violations}
    assert kinds <= {ViolationKind.TORN}
    return bool(kinds)


# All steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        one.name if one.name in FAST else pytest.param(one.name, marks=pytest.mark.slow)
        for one in FETCH_MODELS
    ],
)
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_with_all_steps_a_life_is_safe_in_each_model(pool, profile, model):
    result = verdict(pool, case(in_and_out(0), profile=profile, fetch=model))
    assert result.verdict == "safe"
    assert min(result.coverage.int3, result.coverage.jump) > 0


@pytest.mark.parametrize("profile", [LINUX_6_1, NEXT], ids=lambda profile: profile.name)
@pytest.mark.parametrize("model", ["stale", pytest.param("torn", marks=pytest.mark.slow)])
def test_with_core_syncs_a_probe_is_not_hit_once_it_is_disabled(pool, profile, model):
    assert verdict(pool, case(in_and_disabled, profile=profile, fetch=model)).verdict == "safe"


@pytest.mark.parametrize(("model", "breaks"), [("coherent", False), ("stale", True)])
def test_without_a_core_sync_linux_2010_has_hits_of_a_disabled_probe(pool, model, breaks):
    """Kernel commit 5c02ece81848 added the core syncs behind the stores of breakpoints."""
    one = experiment(
        asm_image("nop; inc eax; ret"),
        off_without_a_jump,
        profile=LINUX_2010,
        interrupts=False,
        fetch=model,
    )
    kinds = {report.violation.kind for report in verdict(pool, one).violations}
    assert kinds == ({ViolationKind.EXTRA_HIT} if breaks else set())


# One step left out --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", TEARING)
@pytest.mark.parametrize("model", ["coherent", "stale", "torn"])
def test_a_sync_left_out_tears_in_torn_and_not_while_stores_come_in_order(pool, model, step):
    assert torn(pool, at(0, steps=[step], fetch=model)) is (model == "torn")


@pytest.mark.parametrize("step", TEARING)
@pytest.mark.parametrize(
    "offset", [3, 4, 7, *(pytest.param(one, marks=pytest.mark.slow) for one in (0, 1, 2, 5, 6, 8))]
)
def test_a_sync_left_out_tears_where_the_jump_crosses_the_border_of_a_unit(pool, offset, step):
    crosses = offset // 8 != (offset + 4) // 8
    assert torn(pool, at(offset, steps=[step], fetch="unit:8")) is crosses


@pytest.mark.slow
@pytest.mark.parametrize("unit", [16, 32])
@pytest.mark.parametrize("step", TEARING)
def test_a_wider_unit_has_its_own_borders(pool, unit, step):
    for offset in (4, unit - 5, unit - 4):
        crosses = offset // unit != (offset + 4) // unit
        assert torn(pool, at(offset, steps=[step], fetch=f"unit:{unit}")) is crosses


@pytest.mark.parametrize("step", sorted(NOT_NEEDED))
def test_a_sync_at_a_breakpoint_that_stood_there_or_stays_is_not_needed(pool, step):
    """In front of the first one stands the breakpoint of the armed probe, and behind the last one
    stands no other poke.
    """
    assert not torn(pool, at(0, steps=[step], fetch="torn"))


# --strict -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [None, *TEARING])
def test_strict_finds_a_missing_sync_while_all_fetches_are_coherent(pool, step):
    one = at(0, steps=[] if step is None else [step], strict=True)
    assert torn(pool, one) is (step is not None)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_strict_is_silent_with_all_steps(pool, profile):
    assert verdict(pool, case(in_and_out(0), profile=profile, strict=True)).verdict == "safe"
