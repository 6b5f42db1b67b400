"""Where an exploration stands: what its parts have in common."""

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
from engine.patching.unprobed import UnprobedCalls
from engine.patching.vcpu import VcpuState
from engine.search.actor import Actor
from engine.search.explorable import Coverage

__all__ = ("Situation",)


class Situation:
    """What each part of an exploration, and each oracle, may look at.

    :ivar port: the machine; ``experiment``: what happens on it.
    :ivar calls: of each task, its call.
    :ivar vcpus: what is known of each vCPU beside its registers.
    :ivar vcpu: the vCPU that runs, where handlers are called.
    :ivar node: the control state that the vCPUs see.
    :ivar sites: by address, the addresses that have had probes in some control state; ``insns``:
        their original instructions.
    :ivar unprobed: what the calls do without probes; ``orders``: where they share data, what they
        may leave.
    :ivar data: the data in memory.
    :ivar open_calls: the calls that the core's return probes follow.
    :ivar actor: who went on last, a vCPU also where an event came to it; None: nobody yet.
    :ivar trace: how the present state came about; ``made``: steps of control tasks in this
        schedule.
    :ivar coverage: what was seen; ``points``: names, of 64 bits, of the pairs of a vCPU's position
        and a control state that were met.
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
        self.orders: Orders | None = None
        self.coverage = Coverage()
        self.points: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """As at the start of a schedule, but for what the port and the vCPUs hold."""
        self.open_calls: OpenCalls = NO_CALLS
        self.actor: Actor | None = None
        self.trace: Any = None
        self.made = 0
