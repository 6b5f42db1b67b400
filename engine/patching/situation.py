"""The present state of an exploration, as far as its parts have it in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.patching.control_tree import ControlNode
from engine.patching.data_content import DataContent
from engine.patching.experiment import Experiment
from engine.patching.open_calls import NO_CALLS, OpenCalls
from engine.patching.orders import Orders
from engine.patching.planned_call import PlannedCall
from engine.patching.port import Port
from engine.patching.sites import Site
from engine.patching.unprobed import CallOutcome, UnprobedCalls
from engine.patching.vcpu import VcpuState
from engine.search.actor import Actor
from engine.search.explorable import Coverage

__all__ = ("Situation",)


class Situation:
    """Each part of an exploration, and each oracle, may look at this state.

    :ivar port: the machine.
    :ivar experiment: what happens on the machine.
    :ivar calls: the call that each task makes, by the task's number.
    :ivar vcpus: what is known of each vCPU beside its registers.
    :ivar vcpu: the vCPU that runs, where handlers are called.
    :ivar node: the control state that the vCPUs see.
    :ivar sites: by address, the sites that have had probes in some control state.
    :ivar insns: by address, the original instructions of these sites.
    :ivar patches: the sites whose code a patch protocol replaces.
    :ivar patched_bytes: of each address in one of these sites, that site.
    :ivar patched: for each task, what each of its calls may leave while that code changes; None
        where no code is replaced.
    :ivar passed: the addresses of those of these sites that a call ever passes.
    :ivar unprobed: what the calls do without probes.
    :ivar orders: what the calls may leave where they share data, or None.
    :ivar data: the data in memory.
    :ivar open_calls: the calls that the core's return probes follow.
    :ivar actor: the actor that went on last, which is the vCPU where an event came to one; None
        at the start.
    :ivar trace: the choices and steps that have led to the present state.
    :ivar made: the steps that control tasks have made in this schedule.
    :ivar coverage: how sites were hit, and which vCPUs text writes met in flight.
    :ivar points: the names, of 64 bits, of the pairs of a vCPU's position and a control state
        that were met.
    """

    node: ControlNode
    vcpu: VcpuState
    unprobed: UnprobedCalls
    data: DataContent

    def __init__(
        self, port: Port, experiment: Experiment, calls: Mapping[int, PlannedCall]
    ) -> None:
        self.port = port
        self.experiment = experiment
        self.calls = calls
        self.vcpus = [VcpuState(index) for index in range(port.cpus.number)]
        self.sites: dict[int, Site] = {}
        self.insns: dict[int, bytes] = {}
        self.patches = experiment.patches
        self.patched_bytes = {
            addr: site for site in self.patches for addr in range(site.addr, site.end)
        }
        self.patched: dict[int, list[frozenset[CallOutcome]]] | None = None
        self.passed: frozenset[int] = frozenset()
        self.orders: Orders | None = None
        self.coverage = Coverage()
        self.points: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Go to the start of a schedule, apart from what the port and the vCPUs hold."""
        self.open_calls: OpenCalls = NO_CALLS
        self.actor: Actor | None = None
        self.trace: Any = None
        self.made = 0
