"""The matrix: which safety step is needed in which configuration, from fresh searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final

from engine import defaults
from engine.core.profiles import PROFILES, Profile
from engine.core.safety_steps import STEPS
from engine.patching.check_result import CheckResult, Report
from engine.patching.scenario_record import Scenario
from engine.patching.search_options import Search
from engine.patching.setup_port import SetupPort
from engine.patching.verdict import check

__all__ = ("CONFIGURATIONS", "Cell", "Configuration", "ShownSteps", "matrix")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration is a column of the matrix: a profile, with or without preemption."""

    profile: Profile
    preempt: bool

    @property
    def name(self) -> str:
        """Return the name of the column."""
        return f"{self.profile.name}{', preemptible' if self.preempt else ''}"


CONFIGURATIONS: Final = tuple(
    Configuration(profile, preempt) for profile in PROFILES for preempt in (False, True)
)


@dataclass(frozen=True, slots=True)
class ShownSteps:
    """These scenarios and arguments show what each safety step is for.

    :ivar scenarios_for: returns the scenarios that break without a step; for None those that
        hold with all steps.
    :ivar not_needed: by step and profile, why leaving the step out breaks nothing.
    :ivar needed_late: the steps for which that holds in no other fetch model than ``coherent``.
    """

    scenarios_for: Callable[[str | None], Sequence[Scenario]]
    not_needed: Mapping[tuple[str, str], str]
    needed_late: frozenset[str] = frozenset()

    def argument(self, step: str | None, profile: str, fetch: str) -> str | None:
        """Return why leaving ``step`` out breaks nothing in the fetch model, or None."""
        if step is None or (step in self.needed_late and fetch != defaults.FETCH):
            return None
        return self.not_needed.get((step, profile))


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the matrix says what happens if one step is left out in one configuration.

    :ivar step: the step that is left out, or None.
    :ivar configuration: the column of the cell.
    :ivar fetch: the name of the fetch model.
    :ivar scenario: the name of the scenario that broke, or of the last one that did not.
    :ivar report: the violation that was found, or None.
    :ivar breaks_anyway: that scenario breaks with all steps, too.
    :ivar schedules: how many schedules the searches have visited.
    :ivar exhaustive: every schedule within the bound was visited.
    :ivar preemptions: the bound, or None.
    :ivar argument: why the step is not needed here, or None.
    :ivar seconds: the time until the violation was found, or until the searches ended.
    """

    step: str | None
    configuration: Configuration
    fetch: str
    scenario: str
    report: Report | None
    breaks_anyway: bool
    schedules: int
    exhaustive: bool
    preemptions: int | None
    argument: str | None
    seconds: float

    @property
    def verdict(self) -> str:
        """Return the verdict on the cell in one word.

        It is ``violation`` if there is one, ``safe`` if every schedule within the bound was
        visited, and else ``nothing-found``.
        """
        if self.report is not None:
            return "violation"
        return "safe" if self.exhaustive else "nothing-found"

    def to_json(self) -> dict[str, object]:
        """Return an entry of ``cells``, without the time, which is no result."""
        return {
            "step": self.step,
            "profile": self.configuration.profile.name,
            "preempt": self.configuration.preempt,
            "fetch": self.fetch,
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
    port: SetupPort,
    shown: ShownSteps,
    configurations: Sequence[Configuration] = CONFIGURATIONS,
    *,
    fetch: str = defaults.FETCH,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[Cell]:
    """Yield all cells, row by row, each from fresh searches.

    :param fetch: the name of the fetch model of all cells.
    :param say: is told what is being run.
    :param warn: is told of a checkpoint that can't be written.
    :raises WorkerDied: a process of ``--jobs`` ended. No cell is given for that search, and no
        other one is begun.
    :raises KeyboardInterrupt: Ctrl-C cut a search off. No cell is given for that search, and no
        other one is begun.
    """
    runs = _Runs(search, port, shown, fetch, warn)
    for step in (None, *STEPS):
        for configuration in configurations:
            if step is None or configuration.profile.name in step.profiles:
                say(f"{'nothing' if step is None else step.name} left out, {configuration.name}")
                yield runs.cell(step.name if step is not None else None, configuration)


class _Runs:
    """This object runs the searches of a matrix."""

    def __init__(
        self,
        search: Search,
        port: SetupPort,
        shown: ShownSteps,
        fetch: str,
        warn: Callable[[str], None],
    ) -> None:
        self._search = search
        self._port = port
        self._shown = shown
        self._fetch = fetch
        self._warn = warn
        self._sound: dict[tuple[str, str], bool] = {}

    def cell(self, step: str | None, configuration: Configuration) -> Cell:
        """Search the scenarios of ``step`` in ``configuration``, up to one that breaks."""
        began = perf_counter()
        schedules, exhaustive, name = 0, True, ""
        report, anyway = None, False
        for scenario in self._shown.scenarios_for(step):
            if configuration.profile.name not in scenario.profiles:
                continue
            name = scenario.name
            result = self._run(scenario, configuration, step)
            schedules += result.outcome.schedules
            exhaustive &= result.outcome.exhaustive
            if result.violations:
                report = result.violations[0]
                seconds = perf_counter() - began
                anyway = step is not None and not self._is_sound(scenario, configuration)
                break
        else:
            seconds = perf_counter() - began
        return Cell(
            step,
            configuration,
            self._fetch,
            name,
            report,
            anyway,
            schedules,
            exhaustive,
            self._search.preemptions,
            self._shown.argument(step, configuration.profile.name, self._fetch),
            seconds,
        )

    def _is_sound(self, scenario: Scenario, configuration: Configuration) -> bool:
        """Return whether the scenario breaks nothing with all steps.

        It is searched only once in each configuration.
        """
        key = (configuration.name, scenario.name)
        if key not in self._sound:
            self._sound[key] = not self._run(scenario, configuration, None).violations
        return self._sound[key]

    def _run(
        self, scenario: Scenario, configuration: Configuration, step: str | None
    ) -> CheckResult:
        """Search the scenario with only ``step`` left out."""
        request = replace(
            scenario.request,
            profile=configuration.profile,
            preempt=configuration.preempt,
            fetch=self._fetch,
            without=() if step is None else (step,),
        )
        result = check(scenario.experiment(request, self._port), self._search, self._port)
        if result.unwritten is not None:
            self._warn(result.unwritten)
        if result.died is not None:
            raise result.died
        if result.interrupted:
            raise KeyboardInterrupt
        return result
