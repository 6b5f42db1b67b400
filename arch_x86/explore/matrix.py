"""``optprobe matrix``: which safety step is needed where, from fresh runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from arch_x86.emu.uc import UcPool
from arch_x86.explore.check import check
from arch_x86.explore.scenario import Scenario
from arch_x86.explore.scenarios.steps import NOT_NEEDED, scenarios_for
from engine.core.ablation import without
from engine.core.profiles import PROFILES, Profile
from engine.core.safety_steps import STEPS
from engine.patching.check_result import CheckResult, Report
from engine.patching.search_options import Search

__all__ = ("CONFIGURATIONS", "Cell", "Configuration", "matrix")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A column."""

    profile: Profile
    preempt: bool

    @property
    def name(self) -> str:
        """As people call it."""
        return f"{self.profile.name}{', preemptible' if self.preempt else ''}"


CONFIGURATIONS: Final = tuple(
    Configuration(profile, preempt) for profile in PROFILES for preempt in (False, True)
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One step left out in one configuration.

    :ivar step: None for nothing left out.
    :ivar scenario: the one that broke, or the last that did not.
    :ivar breaks_anyway: that scenario breaks with all steps, too.
    :ivar seconds: to the find, or to the end of the search.
    """

    step: str | None
    configuration: Configuration
    scenario: str
    report: Report | None
    breaks_anyway: bool
    schedules: int
    exhaustive: bool
    preemptions: int | None
    seconds: float

    @property
    def verdict(self) -> str:
        """``violation``; ``safe`` when every schedule within the bound was visited; else
        ``nothing-found``.
        """
        if self.report is not None:
            return "violation"
        return "safe" if self.exhaustive else "nothing-found"

    @property
    def argument(self) -> str | None:
        """Why it is not needed, where it is not."""
        return NOT_NEEDED.get((self.step or "", self.configuration.profile.name))

    def to_json(self) -> dict[str, object]:
        """An entry of ``cells``; without the time, which is no result."""
        return {
            "step": self.step,
            "profile": self.configuration.profile.name,
            "preempt": self.configuration.preempt,
            "scenario": self.scenario,
            "verdict": self.verdict,
            "breaks_anyway": self.breaks_anyway,
            "violation": None if self.report is None else self.report.to_json(),
            "argument": None if self.report is not None else self.argument,
            "schedules": self.schedules,
            "exhaustive": self.exhaustive,
            "preemptions": self.preemptions,
        }


def matrix(
    search: Search,
    *,
    configurations: Sequence[Configuration] = CONFIGURATIONS,
    pool: UcPool | None = None,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[Cell]:
    """All cells, row by row, each from a fresh run. ``say`` is told what is being run, ``warn`` of
    a checkpoint that can't be written.

    :raises WorkerDied: a process of ``--jobs`` ended. The same holds for what follows.
    :raises KeyboardInterrupt: Ctrl-C cut a search off. The cell that it belongs to is not given,
        and no other one is begun.
    """
    sound: dict[tuple[str, str], bool] = {}

    def is_sound(
        configuration: Configuration, name: str, run: Callable[[frozenset[str]], CheckResult]
    ) -> bool:
        key = (configuration.name, name)
        if key not in sound:
            sound[key] = not run(frozenset()).violations
        return sound[key]

    for step in (None, *STEPS):
        for configuration in configurations:
            if step is None or configuration.profile.name in step.profiles:
                say(f"{'nothing' if step is None else step.name} left out, {configuration.name}")
                yield _cell(
                    step.name if step is not None else None,
                    configuration,
                    search,
                    pool,
                    warn,
                    is_sound,
                )


def _cell(
    step: str | None,
    configuration: Configuration,
    search: Search,
    pool: UcPool | None,
    warn: Callable[[str], None],
    is_sound: Callable[[Configuration, str, Callable[[frozenset[str]], CheckResult]], bool],
) -> Cell:
    began = perf_counter()
    schedules, exhaustive, name = 0, True, ""
    for scenario in scenarios_for(step):
        if configuration.profile.name not in scenario.profiles:
            continue
        name = scenario.name

        def run(names: frozenset[str], one: Scenario = scenario) -> CheckResult:
            profile = without(configuration.profile, names, preempt=configuration.preempt)
            result = check(one.case(profile, preempt=configuration.preempt), search, pool=pool)
            if result.unwritten is not None:
                warn(result.unwritten)
            if result.died is not None:
                raise result.died
            if result.interrupted:
                raise KeyboardInterrupt
            return result

        result = run(frozenset() if step is None else frozenset({step}))
        schedules += result.outcome.schedules
        exhaustive &= result.outcome.exhaustive
        if result.violations:
            seconds = perf_counter() - began
            anyway = step is not None and not is_sound(configuration, name, run)
            return Cell(
                step,
                configuration,
                name,
                result.violations[0],
                anyway,
                schedules,
                exhaustive,
                search.preemptions,
                seconds,
            )
    return Cell(
        step,
        configuration,
        name,
        None,
        False,
        schedules,
        exhaustive,
        search.preemptions,
        perf_counter() - began,
    )
