"""Experiments on x86-64 as most tests of the explorer have them: one control task beside calls of a
function ``f``, and scenarios in a profile.
"""

from __future__ import annotations

from dataclasses import replace

from arch_x86.emu.uc import UcPool
from arch_x86.explore.x86_setup import X86Setup
from engine.core.ablation import without
from engine.core.profiles import Profile
from engine.image import Image
from engine.patching import verdict
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.scenario_record import Scenario
from engine.patching.search_options import Search
from engine.search.explorable import Violation
from engine.search.schedule import Schedule
from engine.syntax.arguments import parse_argument


def experiment(
    image: Image, code, *, steps=(), profile: Profile, preempt: bool = False, **fields
) -> Experiment:
    """``f(5)`` once on each vCPU, unless ``fields`` says otherwise, while ``code`` runs; without
    the safety ``steps``.
    """
    ablated = without(profile, frozenset(steps), preempt=preempt)
    return Experiment(
        image=image,
        call="f",
        arguments=(parse_argument("5"),),
        calls=fields.pop("calls", 1),
        profile=ablated,
        preempt=preempt,
        code=[("main", code)],
        tag="test",
        **fields,
    )


def experiment_of(
    one: Scenario, profile: Profile, *, cpus: int | None = None, preempt: bool | None = None
) -> Experiment:
    """The experiment that a scenario is in ``profile``, with the steps left out that the profile
    leaves out and no others.
    """
    said = one.request
    request = replace(
        said,
        profile=profile,
        without=(),
        cpus=said.cpus if cpus is None else cpus,
        preempt=said.preempt if preempt is None else preempt,
    )
    return one.experiment(request, X86Setup())


def check(
    one: Experiment, search: Search, *, pool: UcPool | None = None, refuses: bool = False
) -> CheckResult:
    """What a search says, on emulator instances of ``pool``."""
    return verdict.check(one, search, X86Setup(pool), refuses=refuses)


def replay_experiment(
    one: Experiment, schedule: Schedule, *, pool: UcPool | None = None
) -> tuple[Violation | None, list[str]]:
    """What a schedule breaks, and its timeline, on emulator instances of ``pool``."""
    return verdict.replay_experiment(one, schedule, X86Setup(pool))
