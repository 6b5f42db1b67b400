"""Who is told of every handler that runs and every miss that is counted, and lets the oracles of hits and return probes judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arch_x86.emu.machine import Machine
from arch_x86.emu.stubs import return_skip
from arch_x86.emu.uc import RAX, RSP
from arch_x86.explore.lane import Lane
from arch_x86.explore.lives import Life
from arch_x86.explore.passes import HitOracle, Seen
from arch_x86.explore.return_oracle import OpenCall, Returned, ReturnOracle
from arch_x86.probes.ptregs import PT_REGS_SIZE
from engine.core.profiles import Profile
from engine.kretprobe import KretprobeInstance
from engine.search.explorable import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from arch_x86.explore.oracles import Site
    from arch_x86.explore.world import Node, World

__all__ = ("Witness",)


class Witness:
    """A :class:`arch_x86.explore.control.HandlerLog`.

    :ivar lane: the vCPU that runs; ``node``: the control state that it sees.
    :ivar calls: the model of the calls that return probes follow.
    """

    node: Node
    lane: Lane

    def __init__(self, machine: Machine, profile: Profile, where: Callable[[int], str]) -> None:
        self._machine = machine
        self._hits = HitOracle(where)
        self.calls = ReturnOracle(machine.stubs.trampoline, rethook=profile.rethook, where=where)
        # A copy that was made for a probe without a post_handler may end in a jump back, for good: who joins with one is never called.
        self._loses_posts = profile.steps_by_int3 and not profile.slot_has_both
        self._returns: list[Returned] = []
        self._wrong: Violation | None = None

    def verdict(self) -> Violation | None:
        """The first thing that went wrong since this was last asked."""
        wrong, self._wrong = self._wrong, None
        return wrong

    def _say(self, wrong: Violation | None) -> None:
        self._wrong = self._wrong or wrong

    # Handlers ---------------------------------------------------------------------------------------------------------

    def _ran(self, seen: Seen, probe: int) -> None:
        self.lane.note(seen, probe)
        self._say(self._hits.ran(self.lane.index, probe, self.node.lives))

    def _has_post(self, probe: int) -> bool:
        return self.node.world.control.probes[probe].post_handler is not None

    def hit(self, probe: int, regs: Any) -> None:
        """A pre_handler runs."""
        del regs
        self._ran(Seen.HIT, probe)
        if self._loses_posts and self._has_post(probe):
            control = self.node.world.control
            p = control.probes[probe]
            if p.ainsn is not None and p.ainsn.boostable and not control.ledger.copied_for_post.get(p.at):
                self.lane.note(Seen.NO_POST, probe)

    def post(self, probe: int, regs: Any) -> None:
        """A post_handler runs."""
        del regs
        self._ran(Seen.POST, probe)

    def entered(self, probe: int, regs: Any) -> None:
        """The entry_handler of a return probe runs."""
        self._ran(Seen.HIT, probe)
        lane, control = self.lane, self.node.world.control
        found = self._machine.ram.read_u64(regs.sp) or 0
        registration, most = control.ledger.registration(probe), control.returns[probe].maxactive
        self._say(self.calls.entered(lane.index, lane.task, probe, registration, most, regs.sp, found))

    def returned(self, probe: int, ri: KretprobeInstance, regs: Any) -> None:
        """The handler of a return probe runs."""
        self._returns.append(Returned(probe, ri.ret_addr, regs.ip, regs.ax))

    # What the vCPU does -----------------------------------------------------------------------------------------------

    def passed(self, site: Site) -> None:
        """The pass that the vCPU is in is over."""
        since = self.node.world.control.ledger.since
        self._say(self._hits.passed(self.lane, site, self.node.lives, self._has_post, since))

    def call_returns(self) -> tuple[tuple[OpenCall, ...], int]:
        """A call has come to the trampoline, which is about to ask for the handlers: the probes that follow it, and RAX."""
        self._returns.clear()
        cpu = self._machine.cpus[self.lane.index]
        cpu.uc.load()
        gpr = cpu.uc.gpr
        frame = gpr[RSP] + PT_REGS_SIZE + return_skip(red_zone=cpu.red_zone) - 8
        return self.calls.returning(self.lane.task, frame), gpr[RAX]

    def call_returned(self, returning: tuple[tuple[OpenCall, ...], int]) -> None:
        """They have run: were they those of :meth:`call_returns`?"""
        calls, value = returning
        registration = self.node.world.control.ledger.registration
        self._say(self.calls.returned(self.lane.index, calls, self._returns, value, self.node.lives, registration))

    def call_ended(self) -> None:
        """A task's outermost call has ended."""
        self._say(self.calls.ended(self.lane.index, self.lane.task))

    # Misses -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def misses(world: World) -> list[int]:
        """``nmissed`` of each probe, then of each return probe."""
        control = world.control
        counts = [p.nmissed for p in control.probes]
        if control.returns:
            counts += [rp.nmissed for rp in control.returns.values()]
        return counts

    def missed(self, world: World, before: list[int]) -> None:
        """A piece of a hit is done, before which :meth:`misses` were so: what has gone up since is a miss."""
        now = self.misses(world)
        if now == before:
            return
        control, lane, probes = world.control, self.lane, len(world.control.probes)
        for n in range(probes):
            for _ in range(now[n] - before[n]):
                lane.note(Seen.MISS, n)
        for at, (n, rp) in enumerate(control.returns.items(), probes):
            for _ in range(now[at] - before[at]):
                lane.note(Seen.FULL, n)
                if self.node.lives[n][0] is Life.CHANGING:
                    continue  # it is being unregistered: 6.1 takes its instances away at once, and a hit that is on its way finds none
                self._say(self.calls.full(lane.index, n, control.ledger.registration(n), rp.maxactive))
