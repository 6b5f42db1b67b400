"""Notes of the handlers that run and the misses that are counted, for the oracles.

Each is noted on the pass over a site in which it happens.
"""

from __future__ import annotations

from typing import Any

from engine.kretprobe import KretprobeInstance
from engine.patching.control_state import ControlState
from engine.patching.judge import Judge
from engine.patching.passes import Seen
from engine.patching.situation import Situation

__all__ = ("HandlerEvents",)


class HandlerEvents:
    """This is the :class:`engine.patching.handler_log.HandlerLog` of an exploration.

    The handlers that it is told of run on :attr:`Situation.vcpu`.
    """

    def __init__(self, now: Situation, judge: Judge) -> None:
        self._now = now
        self._judge = judge
        profile = now.experiment.profile
        # In such a profile the copy of an instruction that was made for a probe without a
        # post_handler may end in a jump back as long as it exists. The post_handler of a probe that
        # joins later is then never called.
        self._loses_posts = profile.steps_by_int3 and not profile.slot_has_both

    def _ran(self, seen: Seen, probe: int) -> None:
        vcpu = self._now.vcpu
        vcpu.note(seen, probe)
        self._judge.handler_ran(vcpu, seen, probe)

    def hit(self, probe: int, regs: Any) -> None:
        """Note on the pass that the pre_handler of a probe runs.

        If the probe's post_handler can never run, that is noted, too.
        """
        del regs
        self._ran(Seen.HIT, probe)
        if self._loses_posts:
            control = self._now.node.state.control
            p = control.probes[probe]
            if p.post_handler is None or p.ainsn is None:
                return
            if p.ainsn.boostable and not control.ledger.copied_for_post.get(p.at):
                self._now.vcpu.note(Seen.NO_POST, probe)

    def post(self, probe: int, regs: Any) -> None:
        """Note on the pass that the post_handler of a probe runs."""
        del regs
        self._ran(Seen.POST, probe)

    def entered(self, probe: int, regs: Any) -> None:
        """Note on the pass that the entry_handler of a return probe runs, and tell the oracles."""
        self._ran(Seen.HIT, probe)
        self._judge.call_followed(self._now.vcpu, probe, regs)

    def foreign_hit(self, number: int, regs: Any) -> None:
        """Note on the pass that the handler of another user's breakpoint runs."""
        del regs
        self._now.vcpu.note(Seen.FOREIGN, number)

    def returned(self, probe: int, ri: KretprobeInstance, regs: Any) -> None:
        """Tell the oracles that the handler of a return probe runs."""
        self._judge.return_handler_ran(self._now.vcpu, probe, ri, regs)

    # Misses ---------------------------------------------------------------------------------------

    @staticmethod
    def misses(state: ControlState) -> list[int]:
        """Return ``nmissed`` of each probe, followed by that of each return probe."""
        control = state.control
        counts = [p.nmissed for p in control.probes]
        if control.returns:
            counts += [rp.nmissed for rp in control.returns.values()]
        return counts

    def missed(self, state: ControlState, before: list[int]) -> None:
        """Note the misses that a piece of a hit has counted.

        :param state: the control state.
        :param before: what :meth:`misses` returned before the piece; each number that has
            gone up since then is a miss.
        """
        now = self.misses(state)
        if now == before:
            return
        vcpu, probes = self._now.vcpu, len(state.control.probes)
        for n in range(probes):
            for _ in range(now[n] - before[n]):
                vcpu.note(Seen.MISS, n)
        for at, n in enumerate(state.control.returns, probes):
            for _ in range(now[at] - before[at]):
                vcpu.note(Seen.FULL, n)
                self._judge.instance_missing(vcpu, n)
