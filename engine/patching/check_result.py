"""What a search has to say: the verdict, the violations, and the document of ``optprobe check
--json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.brief import count, described
from engine.errors import WorkerDied
from engine.search.explorable import Coverage, Violation
from engine.search.parts import Outcome
from engine.search.schedule import Schedule

__all__ = ("CheckResult", "Report")


@dataclass(frozen=True, slots=True)
class Report:
    """One violation. ``schedule`` is the shrunk one."""

    violation: Violation
    schedule: Schedule
    file: str | None = None

    def __repr__(self) -> str:
        return described(self, str(self.violation.kind), self.violation.explain, str(self.schedule))

    def to_json(self) -> dict[str, object]:
        """An entry of ``violations``."""
        v = self.violation
        return {
            "kind": str(v.kind),
            "cpu": v.cpu,
            "rip": v.rip,
            "explain": v.explain,
            "schedule": str(self.schedule),
            "file": self.file,
        }


@dataclass(slots=True)
class CheckResult:
    """What a search has to say.

    :ivar missing: methods that the sites allow and no schedule used. ``interrupted``: Ctrl-C ended
        it, or that a process had died, which is ``died``.
    :ivar refused: a line for each probe that the core refused when the control tasks ran alone.
    :ivar unwritten: a line about the checkpoint, where that does not have all that was found.
    """

    outcome: Outcome
    cpus: int
    preemptions: int | None
    missing: tuple[str, ...]
    violations: list[Report] = field(default_factory=list[Report])
    interrupted: bool = False
    refused: tuple[str, ...] = ()
    died: WorkerDied | None = None
    unwritten: str | None = None

    def __repr__(self) -> str:
        kinds = ", ".join(str(report.violation.kind) for report in self.violations)
        how = (
            "exhaustive"
            if self.outcome.exhaustive
            else "interrupted"
            if self.interrupted
            else "not exhaustive"
        )
        return described(
            self,
            self.verdict,
            kinds,
            count(self.outcome.schedules, "schedule"),
            how,
            f"preemption bound {self.preemptions}",
        )

    @property
    def coverage(self) -> Coverage:
        """How sites were hit, and who was where while text was written."""
        return self.outcome.coverage

    @property
    def points(self) -> int:
        """Distinct pairs of a vCPU's position and a control state."""
        return len(self.outcome.points)

    @property
    def verdict(self) -> str:
        """One word for what the search showed.

        ``violation``: something broke. ``inconclusive``: a method that the sites allow was never
        used, so nothing is shown for it, however far the search came. ``safe``: every schedule
        within the bound was visited, and nothing broke. ``nothing-found``: nothing broke in the
        schedules that were visited, but there are others: they were drawn at random, or the search
        was cut off.
        """
        if self.violations:
            return "violation"
        if self.missing:
            return "inconclusive"
        return "safe" if self.outcome.exhaustive else "nothing-found"

    @property
    def good(self) -> bool:
        """The command's exit status is 0: nothing broke, and every method that the sites allow was
        used.
        """
        return self.verdict in ("safe", "nothing-found")

    def to_json(self) -> dict[str, object]:
        """The document of ``optprobe check --json``."""
        return {
            "schema": 1,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "bound": {
                "exhaustive": self.outcome.exhaustive,
                "preemptions": self.preemptions,
                "schedules": self.outcome.schedules,
                "cpus": self.cpus,
            },
            "schedules": self.outcome.schedules,
            "points": self.points,
            "coverage": self.coverage.to_json(),
            "violations": [report.to_json() for report in self.violations],
        }
