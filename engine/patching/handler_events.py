"""Notes each handler that runs, and each miss that is counted, on the pass over a site that it
belongs to, and tells the oracles.
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
    """A :class:`engine.patching.handler_log.HandlerLog`. What runs, runs on
    :attr:`Situation.vcpu`.
    """

    def __init__(self, now: Situation, judge: Judge) -> None:
        self._now = now
        self._judge = judge
        profile = now.experiment.profile
        # A copy that was made for a probe without a post_handler may end in a jump back, for good:
        # who joins with one is never called.
        self._loses_posts = profile.steps_by_int3 and not profile.slot_has_both

    def _ran(self, seen: Seen, probe: int) -> None:
        vcpu = self._now.vcpu
        vcpu.note(seen, probe)
        self._judge.handler_ran(vcpu, seen, probe)

    def hit(self, probe: int, regs: Any) -> None:
        """A pre_handler runs."""
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
        """A post_handler runs."""
        del regs
        self._ran(Seen.POST, probe)

    def entered(self, probe: int, regs: Any) -> None:
        """The entry_handler of a return probe runs."""
        self._ran(Seen.HIT, probe)
        self._judge.call_followed(self._now.vcpu, probe, regs)

    def returned(self, probe: int, ri: KretprobeInstance, regs: Any) -> None:
        """The handler of a return probe runs."""
        self._judge.return_handler_ran(self._now.vcpu, probe, ri, regs)

    # Misses ---------------------------------------------------------------------------------------

    @staticmethod
    def misses(state: ControlState) -> list[int]:
        """``nmissed`` of each probe, then of each return probe."""
        control = state.control
        counts = [p.nmissed for p in control.probes]
        if control.returns:
            counts += [rp.nmissed for rp in control.returns.values()]
        return counts

    def missed(self, state: ControlState, before: list[int]) -> None:
        """A piece of a hit is done, before which :meth:`misses` were so: what has gone up since is
        a miss.
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
