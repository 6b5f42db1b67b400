"""What exploration is given to find planted faults with: shipped scenarios and a few checks of
small functions, quick ones first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from arch_x86.explore.scenario import Scenario
from arch_x86.explore.scenarios.steps import scenarios_for
from arch_x86.images.asmtext import load_asm
from engine.core.ablation import without
from engine.core.profiles import PROFILES, Profile
from engine.core.safety_steps import STEPS
from engine.patching.experiment import Experiment
from engine.patching.probe_life import life_of_probes
from engine.patching.search_options import Search
from engine.syntax.arguments import parse_argument
from engine.syntax.kprobe_events import parse_spec
from tests.explore.experiments import experiment_of

__all__ = ("MOST_SCHEDULES", "Explored", "explored")

MOST_SCHEDULES: Final = 30_000
"""Where a fault makes the search grow without end, it is cut off."""
_LISTS: Final = (
    ("life", "SCENARIOS"),
    ("life", "nmi"),
    ("life", "nmi_stepped"),
    ("history", "HISTORY"),
    ("load", "LOAD"),
    ("code_goes_away", "joined_while_disarming"),
    ("batches", "BATCHES"),
)
_UNSOUND: Final = frozenset(
    {("nmi", "linux-2010"), ("nmi-stepped", "linux-2010"), ("joined-while-disarming", "linux-6.1")}
)
"""Scenario and profile where the kernel itself is not sound."""


@dataclass(frozen=True, slots=True)
class Explored:
    """A case and how it is searched. ``tier``: 0 for what takes a tenth of a second, 1 for what
    takes a second or more.
    """

    name: str
    tier: int
    build: Callable[[], Experiment]
    search: Search


def _scenarios() -> Sequence[Scenario]:
    """All that come along, each once."""
    found: dict[str, Scenario] = {}
    for module, name in _LISTS:
        try:
            some: Scenario | tuple[Scenario, ...] = getattr(
                import_module(f"arch_x86.explore.scenarios.{module}"), name
            )
        except (ModuleNotFoundError, AttributeError):  # the tree is of before that list was there
            continue
        found |= {one.name: one for one in (some if isinstance(some, tuple) else (some,))}
    for step in (None, *(step.name for step in STEPS)):
        found |= {one.name: one for one in scenarios_for(step)}
    return tuple(found.values())


def _most(one: Scenario) -> int:
    """The bound up to which it is searched in a few seconds."""
    return 0 if one.name == "two-control-tasks" else min(one.preemptions, 1)


def _of_scenario(one: Scenario, profile: Profile, bound: int) -> Explored:
    slow = one.name == "two-control-tasks" or (bound > 0 and profile.name != "linux-2010")
    return Explored(
        f"{one.name} in {profile.name}, bound {bound}",
        int(slow),
        lambda: experiment_of(one, without(profile, frozenset(), preempt=one.request.preempt)),
        Search(preemptions=bound, max_schedules=MOST_SCHEDULES),
    )


_CHECKED: Final = (
    (
        "pushes.s",
        ".globl f\nf: push rbx; mov ebx, edi; lea eax, [rbx + rbx*2]; pop rbx; add eax, 7; ret",
        ("f",),
        1,
        True,
    ),
    (
        "calls.s",
        (
            ".globl f\nf: push rdi; call g; pop rdi; add eax, edi; "
            "ret\n.globl g\ng: lea eax, [rdi + 1]; add eax, edi; ret"
        ),
        ("r:f g", "f+0x1"),
        1,
        True,
    ),
    (
        "jumps.s",
        (
            ".globl f\nf: cmp edi, 3; jle .Ls; xor eax, eax; ret\n.Ls: mov eax, edi; "
            "mov ecx, 2\n.Ll: add eax, ecx; loop .Ll; ret"
        ),
        ("f+0x3", "f"),
        1,
        True,
    ),
    ("two.s", ".globl f\nf: mov eax, edi; inc eax; ret", ("f+0x2",), 2, False),
)


def _checks(profile: Profile) -> Sequence[Explored]:
    def make(name: str, text: str, specs: Sequence[str], cpus: int, reduce: bool) -> Explored:
        def build() -> Experiment:
            return Experiment(
                image=load_asm(text, name),
                call="f",
                arguments=(parse_argument("2"),),
                calls=1,
                cpus=cpus,
                profile=profile,
                reduce=reduce,
                code=[("main", life_of_probes([parse_spec(spec) for spec in specs]))],
                tag=name,
            )

        return Explored(
            f"check {name} in {profile.name}, bound {cpus - 1}",
            cpus - 1,
            build,
            Search(preemptions=cpus - 1, max_schedules=MOST_SCHEDULES),
        )

    # 6.1's LOOP is wrong; two.s takes long
    left_out = {"linux-2010": (), "linux-6.1": ("jumps.s", "two.s"), "next": ("two.s",)}
    return [make(*one) for one in _CHECKED if one[0] not in left_out[profile.name]]


def explored() -> list[Explored]:
    """All, in the order in which they are tried."""
    found = [
        _of_scenario(one, profile, bound)
        for bound in (0, 1)
        for one in _scenarios()
        for profile in PROFILES
        if profile.name in one.profiles
        and (one.name, profile.name) not in _UNSOUND
        and bound <= _most(one)
    ]
    for profile in PROFILES:
        found += _checks(profile)
    return sorted(found, key=lambda one: one.tier)
