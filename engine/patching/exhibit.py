"""Exhibits: a fault of code patching, as an experiment that breaks, and its mended variant.

``optprobe museum`` lists them and runs each; :mod:`engine.patching.design` has the designs that
``make tribunal`` compares.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from engine.patching.experiment import Experiment
from engine.patching.make_experiment import experiment_of_patch
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.patching.scenario_record import Scenario
from engine.patching.setup_port import SetupPort
from engine.search.explorable import ViolationKind

__all__ = ("Case", "Exhibit", "PatchCase", "ScenarioCase")


class Case(Protocol):
    """An experiment that can be made, and said in a few words."""

    @property
    def how(self) -> str:
        """What is explored, in a few words."""
        ...

    def experiment(self, port: SetupPort) -> Experiment:
        """Make the experiment on machines of ``port``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchCase:
    """An experiment of ``optprobe patch``.

    :ivar image: the text of assembly.
    :ivar call: the function that each vCPU calls, with ``argument``.
    :ivar sites: the places whose code is replaced.
    :ivar codes: the new code, as of ``--to``.
    :ivar user: the places ``FROM..TO`` at which a vCPU in a call still counts as in user mode.
    :ivar old: what stands at the sites, in words, where the variants differ in that; or "".
    :ivar back: whether the old code comes back.
    :ivar protocol: the name of the patch protocol.
    :ivar without: the steps of the protocol that are left out.
    """

    image: str
    call: str = "f"
    argument: str = "5"
    sites: tuple[str, ...]
    codes: tuple[str, ...]
    old: str = ""
    user: str | None = None
    back: bool = False
    protocol: str
    without: tuple[str, ...] = ()
    fetch: str = "coherent"
    preempt: bool = False
    cpus: int = 1
    calls: int = 1

    @property
    def how(self) -> str:
        """The protocol, what is left out of it and what it replaces, and how CPUs run meanwhile."""
        left_out = f" without {', '.join(self.without)}" if self.without else ""
        preempt = ", preemption" if self.preempt else ""
        old = f" over {self.old}" if self.old else ""
        user = f", user mode at {self.user}" if self.user else ""
        return f"{self.protocol}{left_out}{old}, fetch model {self.fetch}{preempt}{user}"

    def in_model(self, fetch: str) -> PatchCase:
        """Return the same case in another fetch model."""
        return replace(self, fetch=fetch)

    def experiment(self, port: SetupPort) -> Experiment:
        """Make the experiment on machines of ``port``."""
        request = Request(
            image=port.scenario_image(self.image),
            call=self.call,
            arguments=(self.argument,),
            calls=self.calls,
            cpus=self.cpus,
            preempt=self.preempt,
            fetch=self.fetch,
        )
        spec = PatchSpec(
            sites=self.sites,
            codes=self.codes,
            user=self.user,
            back=self.back,
            protocol=self.protocol,
            without=self.without,
        )
        return experiment_of_patch(request, spec, port)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioCase:
    """An experiment of ``optprobe explore``.

    :ivar profile: the name of the profile in which the scenario runs.
    :ivar without: safety steps that are left out beside those of the scenario.
    :ivar by: the patch protocol in place of the profile's, in a few words; None: the profile's.
    """

    scenario: Scenario
    profile: str
    without: tuple[str, ...] = ()
    by: str | None = None

    @property
    def how(self) -> str:
        """The scenario, its profile, and what is left out."""
        request = self.scenario.request
        left_out = f" without {', '.join(self.without)}" if self.without else ""
        by = f", {self.by}" if self.by else ""
        return (
            f"scenario {self.scenario.name} in {self.profile}{left_out}{by}, fetch model"
            f" {request.fetch}"
        )

    def experiment(self, port: SetupPort) -> Experiment:
        """Make the experiment on machines of ``port``."""
        asked = {"profile": self.profile, "without": self.without}
        return self.scenario.experiment(self.scenario.asked(asked), port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """A fault, the experiment that shows it, and the one in which it is mended.

    :ivar name: the first twelve digits of the kernel's commit, or a word.
    :ivar year: when the fault was mended or refuted.
    :ivar title: the title of the commit, or what the design is.
    :ivar told: two sentences on what went wrong.
    :ivar source: where that is told.
    :ivar kind: the kind of violation that the faulty variant shows.
    :ivar preemptions: the bound within which it shows it, and the mended variant is searched.
    """

    name: str
    year: int
    title: str
    told: tuple[str, str]
    source: str
    faulty: Case
    mended: Case
    kind: ViolationKind
    preemptions: int = 1
