"""The fetches of an exploration: which stores to the text each vCPU has seen, and what it executes.

:mod:`engine.patching.fetch_model` has the rules. This module keeps them going: it tells the vCPUs
of stores, offers the ways in which a vCPU may fetch its next instruction, lets the vCPU execute the
one that is chosen, and sees which instructions synchronize.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.patching.control_tree import ControlNode, ControlStep
from engine.patching.fetch_model import (
    Store,
    View,
    Way,
    classes_near,
    fetch_model,
    left_after,
    ways_to_fetch,
)
from engine.patching.places import Places
from engine.patching.situation import Situation
from engine.patching.vcpu import VcpuState

__all__ = ("Fetch", "Fetches")


class Fetch(NamedTuple):
    """The fetch of an instruction that a vCPU is about to execute.

    :ivar alone: the vCPU executes this one instruction, and then it is looked at again.
    :ivar view: the stores that the vCPU has not seen behind the instruction.
    :ivar replaced: the vCPU is shown other bytes than the present text has.
    """

    alone: bool
    view: View
    replaced: bool


class Fetches:
    """This object decides what the vCPUs of an exploration fetch.

    :ivar follows: whether any vCPU may have stores left that it has not seen. In the model
        ``coherent`` none has, unless an oracle asks for them (``strict``).
    """

    def __init__(self, now: Situation, places: Places) -> None:
        experiment = now.experiment
        model = fetch_model(experiment.fetch)
        self._now = now
        self._places = places
        self._cpus = now.port.cpus
        self._text = now.port.text
        self._buffers, self._stubs = self._text.buffers, self._text.stubs
        self._slots = self._text.slots if experiment.reduce else range(0)
        self._insn_size_max = self._text.facts.insn_size_max
        self._coherent = model.coherent
        self._unit = 1 if model.unit is None else model.unit
        self.follows = not model.coherent or experiment.strict
        self._synchronizing = frozenset[int](self._text.synchronizing() if self.follows else ())
        for addr in self._synchronizing:
            places.stop_at(addr)

    # Stores ---------------------------------------------------------------------------------------

    def stored(self, before: ControlNode, edge: ControlStep, task: int) -> None:
        """Note what a step of control task ``task`` has stored, which no vCPU has seen yet.

        :param before: the control state in front of the step.
        """
        if not self.follows:
            return
        waited = before.waits.get(task)
        stopped = before.stopped or (waited is not None and waited.stops)
        if stopped and not edge.node.stopped:
            # Every CPU leaves stop_machine() through a serializing instruction.
            for vcpu in self._now.vcpus:
                vcpu.synchronize()
            return
        stores = self._stores_of(before, edge)
        if not stores:
            return
        # A vCPU enters a slot by the return from a trap, which synchronizes it.
        elsewhere = [store for store in stores if store.addr not in self._slots]
        for vcpu in self._now.vcpus:
            if not vcpu.over:
                told = stores if self._may_be_in_slot(vcpu) else elsewhere
                vcpu.view = left_after(vcpu.view, told, self._unit)

    def _may_be_in_slot(self, vcpu: VcpuState) -> bool:
        """Return whether a task of the vCPU stands in a slot, so that it need not enter one."""
        return any(
            ip in self._slots
            for ip in (self._cpus.ip(vcpu.index), *(one.resume for one in vcpu.parked))
        )

    def _stores_of(self, before: ControlNode, edge: ControlStep) -> list[Store]:
        """Return the stores of ``edge`` that changed text which was there before."""
        stores, made = list[Store](), dict[int, int]()
        for write in edge.writes:
            addr, new = write.addr, write.data
            old = bytearray(self._text.read(before.version, addr, len(new)))
            if len(old) != len(new):
                continue  # A page of text came or went.
            for offset in range(len(old)):
                old[offset] = made.get(addr + offset, old[offset])
            made.update(zip(range(addr, addr + len(new)), new, strict=True))
            if bytes(old) != new:
                stores.append(Store(addr, bytes(old), new))
                if addr not in self._buffers:
                    self._places.stop_in(addr, addr + len(new))
        return stores

    # Fetches --------------------------------------------------------------------------------------

    def ways(self, vcpu: VcpuState) -> tuple[Way, ...]:
        """Return the ways in which the vCPU may fetch its next instruction, if there are several.

        The first one has the bytes of the present text.
        """
        return self._ways(vcpu)[0]

    def _ways(self, vcpu: VcpuState) -> tuple[tuple[Way, ...], int, int]:
        """Return the ways of :meth:`ways`, whose views have a part of the vCPU's classes only.

        :returns: the ways, and where that part of the vCPU's view begins and ends.
        """
        view = vcpu.view
        if self._coherent or not view or vcpu.hit is not None or not vcpu.live:
            return (), 0, 0
        ip, size = self._cpus.ip(vcpu.index), self._insn_size_max
        first, last = classes_near(view, ip, size, self._unit)
        near = view[first:last]
        end = ip + size
        if not any(
            store.addr < end and ip < store.addr + len(store.old)
            for _, stores in near
            for store in stores
        ):
            return (), 0, 0
        text = self._text.read(self._now.node.version, ip, size)
        ways = ways_to_fetch(ip, text, near, self._text.insn_size)
        return ways if len(ways) > 1 else (), first, last

    def choose_next(self, vcpu: VcpuState) -> None:
        """Let the vCPU fetch its next instruction in the way behind the one chosen so far."""
        vcpu.chosen += 1

    def begin(self, vcpu: VcpuState) -> Fetch:
        """Show the vCPU, which has stores left to see, what it is to fetch next."""
        ip, view = self._cpus.ip(vcpu.index), vcpu.view
        ways, first, last = self._ways(vcpu)
        if ways:
            insn, near = ways[vcpu.chosen]
            view = (*view[:first], *near, *view[last:])
            replaced = insn != ways[0].insn
            if replaced:
                self._text.fetch_as(vcpu.index, ip, insn)
        elif ip in self._synchronizing or ip in self._buffers or ip in self._stubs:
            insn = self._text.read(self._now.node.version, ip, self._insn_size_max)
            replaced = False
        else:
            return Fetch(alone=False, view=view, replaced=False)
        vcpu.chosen = 0
        if self._text.is_synchronizing(insn, ip):
            view = ()
        return Fetch(alone=True, view=view, replaced=replaced)

    def end(self, vcpu: VcpuState, fetch: Fetch) -> None:
        """Note that the vCPU has executed what it was shown."""
        if vcpu.view:  # Else what followed the instruction has synchronized: the end of an NMI.
            vcpu.view = fetch.view
        if fetch.replaced:
            self._text.fetch_as(vcpu.index, 0, b"")
