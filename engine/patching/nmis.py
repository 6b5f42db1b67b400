"""NMIs, whose handler runs the function that the vCPU's task calls, with its probes."""

from __future__ import annotations

from engine.patching.hit_pieces import HitPieces
from engine.patching.judge import Judge
from engine.patching.parked_task import Mode
from engine.patching.situation import Situation
from engine.patching.vcpu import Interrupted, VcpuState
from engine.patching.waits import Waits

__all__ = ("Nmis",)


class Nmis:
    """This object delivers NMIs, lets their handler call the function, and ends them."""

    def __init__(self, now: Situation, judge: Judge, hits: HitPieces, waits: Waits) -> None:
        self._cpus = now.port.cpus
        self._judge = judge
        self._hits = hits
        self._waits = waits

    def deliver(self, vcpu: VcpuState) -> None:
        """Deliver an NMI, which a vCPU between calls takes on the empty stack of its task."""
        vectors = self._cpus.deliver_nmi(vcpu.index, in_call=vcpu.mode is Mode.CALL)
        if vectors is not None:
            vcpu.interrupted = Interrupted(
                vcpu.hit, vcpu.passing, vcpu.stepping, vcpu.block, vectors
            )
            vcpu.nmi, vcpu.hit, vcpu.passing, vcpu.stepping = True, None, None, False

    def call_function(self, vcpu: VcpuState) -> None:
        """Let the NMI's handler call the function that the vCPU's task calls."""
        task = vcpu.task if vcpu.mode is Mode.CALL else 2 * vcpu.index
        vcpu.nested, wrong = self._cpus.enter_nmi_function(vcpu.index, task)
        self._judge.function_entered(vcpu, wrong)

    def leave(self, vcpu: VcpuState) -> None:
        """End the NMI, whose function has returned, and go on with what it interrupted."""
        assert vcpu.nested is not None
        assert vcpu.interrupted is not None
        if vcpu.passing is not None:
            self._hits.end_pass(vcpu)
        self._cpus.leave_nmi(vcpu.index, vcpu.nested)
        vcpu.synchronize()  # The NMI's handler has ended in its IRET.
        hit, passing, stepping, _, _ = vcpu.interrupted
        vcpu.nmi, vcpu.nested, vcpu.interrupted = False, None, None
        vcpu.hit, vcpu.passing, vcpu.stepping = hit, passing, stepping
        if vcpu.quiescent:
            self._waits.quiescent(vcpu.index)
