"""The result of ``optprobe patch``: what a search has shown, and which code was replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.patched_sites import PatchedSite
from engine.patching.setup_port import SetupPort
from engine.patching.verdict import replay_experiment

__all__ = ("PatchResult", "patch_result")


@dataclass(slots=True)
class PatchResult(CheckResult):
    """This record says what a search has shown of a patch.

    :ivar sites: the places whose code was replaced, in ascending order.
    :ivar protocol: the name of the patch protocol.
    :ivar without: the names of its steps that were left out.
    :ivar fetch: the name of the fetch model.
    :ivar back: whether the old code came back.
    :ivar timeline: the lines that show the first violation step by step; none without one.
    """

    sites: tuple[PatchedSite, ...] = ()
    protocol: str = ""
    without: tuple[str, ...] = ()
    fetch: str = ""
    back: bool = False
    timeline: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return CheckResult.__repr__(self)

    def to_json(self) -> dict[str, object]:
        """Return the document of ``optprobe patch --json``: that of ``check``, and more."""
        sites = [
            {"addr": site.addr, "old": site.old.hex(), "new": site.new.hex()} for site in self.sites
        ]
        return {
            **CheckResult.to_json(self),
            "protocol": self.protocol,
            "without": list(self.without),
            "fetch": self.fetch,
            "back": self.back,
            "sites": sites,
            "timeline": list(self.timeline),
        }


def patch_result(
    experiment: Experiment,
    result: CheckResult,
    port: SetupPort,
    *,
    protocol: str,
    without: Sequence[str],
) -> PatchResult:
    """Return ``result``, with what it is of and the timeline of its first violation.

    :param protocol: the name of the patch protocol.
    :param without: the names of the steps that were left out.
    """
    lines: Sequence[str] = ()
    if result.violations and not result.interrupted:
        lines = replay_experiment(experiment, result.violations[0].schedule, port)[1]
    return PatchResult(
        **{one.name: getattr(result, one.name) for one in fields(CheckResult)},
        sites=experiment.patches,
        protocol=protocol,
        without=tuple(without),
        fetch=experiment.fetch,
        back=experiment.patch_changes > 1,
        timeline=tuple(lines),
    )
