"""The result of a search: its verdict, its violations, and the document of ``check --json``."""

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
    """A report describes one violation that a search has found.

    :ivar violation: what has happened.
    :ivar schedule: the schedule on which it happens, after it was made short.
    :ivar file: the file of ``--save`` that has it, or None.
    """

    violation: Violation
    schedule: Schedule
    file: str | None = None

    def __repr__(self) -> str:
        return described(self, str(self.violation.kind), self.violation.explain, str(self.schedule))

    def to_json(self) -> dict[str, object]:
        """Return an entry of ``violations`` in the document."""
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
    """This record says what a search has shown.

    :ivar outcome: what the search has visited and found.
    :ivar cpus: how many vCPUs there were.
    :ivar preemptions: the bound, or None.
    :ivar missing: the methods that the sites allow and no schedule used; of a patch, the code that
        no schedule executed.
    :ivar violations: the violations, with schedules that were made short.
    :ivar interrupted: Ctrl-C ended the search, or the failure that ``died`` has.
    :ivar refused: a line for each probe that the core refused when the control tasks ran alone.
    :ivar died: a process of the search has died, or memory has run out; None if neither is so.
    :ivar unwritten: a line about the checkpoint, if that lacks something that was found.
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
        """Return how sites were hit, and which vCPUs text writes met in flight."""
        return self.outcome.coverage

    @property
    def points(self) -> int:
        """Return how many distinct pairs of a vCPU's position and a control state were met."""
        return len(self.outcome.points)

    @property
    def verdict(self) -> str:
        """Return one word for what the search has shown.

        ``violation``: a rule was broken. ``inconclusive``: a method that the sites allow
        was never used, or code of a patch never executed, so nothing is shown for it, however
        far the search came. ``safe``:
        every schedule within the bound was visited, and no rule was broken.
        ``nothing-found``: no rule was broken in the schedules that were visited, but there
        are others: schedules were drawn at random, or the search was cut off.
        """
        if self.violations:
            return "violation"
        if self.missing:
            return "inconclusive"
        return "safe" if self.outcome.exhaustive else "nothing-found"

    @property
    def good(self) -> bool:
        """Return whether the command's exit status is 0.

        That is so if no rule was broken, and every method that the sites allow was used.
        """
        return self.verdict in ("safe", "nothing-found")

    def to_json(self) -> dict[str, object]:
        """Return the document of ``optprobe check --json``."""
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
