"""The oracle of hits: each pass over a site is a hit or a miss as it should be."""

from __future__ import annotations

from engine.patching.expectations import Life
from engine.patching.oracles.oracle import Oracle
from engine.patching.passes import Pass, Seen
from engine.patching.sites import Site
from engine.patching.vcpu import VcpuState
from engine.search.explorable import Violation, ViolationKind

__all__ = ("Hits",)


class Hits(Oracle):
    """A pass over an armed site, with the probe enabled throughout, is one hit.

    It is one miss instead, if the CPU was in another hit. A pass that overlaps an operation on the
    probe may be either or neither, and any other pass is neither. Each hit of a probe with a
    post_handler is followed by one call of it. Of several probes at a site, the handlers of the
    newest run first. No handler runs once its probe is unregistered.
    """

    def handler_ran(self, vcpu: VcpuState, seen: Seen, probe: int) -> Violation | None:
        """Report a handler that runs though its probe is not registered."""
        cpu, lives = vcpu.index, self.now.node.lives
        if probe < len(lives) and lives[probe][0] is Life.OFF:
            text = (
                f"the handler of probe {probe} runs on CPU {cpu}, though it is not registered any"
                " more"
            )
            return Violation(ViolationKind.EXTRA_HIT, cpu, None, text)
        return None

    def pass_over(self, vcpu: VcpuState, site: Site) -> Violation | None:
        """Compare what the pass has seen of each probe with what it should have seen."""
        one, node = vcpu.passing, self.now.node
        assert one is not None
        lives, where = node.lives, self.now.port.text.where
        asked = [n for n in one.open(lives) if n in site.probes]
        for n in asked:
            wrong = self._counted(one, n, node.has_post_handler(n))
            if wrong is not None:
                kind, text = wrong
                state = (
                    f"{'armed' if one.armed else 'not armed'}, and probe {n} was"
                    f" {lives[n][0].name.lower()} throughout"
                )
                return Violation(
                    kind,
                    vcpu.index,
                    one.addr,
                    f"CPU {vcpu.index} passed {where(one.addr)} with {text}: it was {state}",
                )
        for kind in (Seen.HIT, Seen.POST):
            order = [n for seen, n in one.seen if seen is kind and n in asked]
            if order != sorted(order, key=node.since, reverse=True):
                text = (
                    f"passed {where(one.addr)}, and the handlers of the probes {order} ran in this"
                    " order, not newest first"
                )
                return Violation(
                    ViolationKind.EXTRA_HIT, vcpu.index, one.addr, f"CPU {vcpu.index} {text}"
                )
        return None

    def _counted(self, one: Pass, n: int, posts: bool) -> tuple[ViolationKind, str] | None:
        """What is wrong with what the pass has seen of probe ``n``, or None.

        :param posts: whether the probe has a post_handler.
        :returns: the kind of the violation, and the rest of its sentence.
        """
        seen = [kind for kind, number in one.seen if number == n]
        hits, misses = seen.count(Seen.HIT) + seen.count(Seen.FULL), seen.count(Seen.MISS)
        want = int(one.armed and one.lives[n][0] is Life.ON)
        hits_due, misses_due = (0, want) if one.busy else (want, 0)
        if hits == hits_due and one.busy and one.armed and not want and misses == 1:
            # A miss counts on each probe of the site, on a disabled one beside an enabled one, too.
            misses_due = 1
        if (hits, misses) != (hits_due, misses_due):
            kind = (
                ViolationKind.LOST_HIT
                if hits + misses <= want and hits <= hits_due
                else ViolationKind.EXTRA_HIT
            )
            inside = ", as the CPU was in another hit" if one.busy else ""
            return (
                kind,
                f"{hits} hits and {misses} misses, {hits_due} and {misses_due} expected{inside}",
            )
        posted, due = seen.count(Seen.POST), 0 if Seen.NO_POST in seen or not posts else hits
        if posted != due:
            kind = ViolationKind.LOST_HIT if posted < due else ViolationKind.EXTRA_HIT
            return kind, f"{posted} calls of the post_handler, {due} expected after {hits} hits"
        if posted and seen.index(Seen.POST) < seen.index(Seen.HIT):
            return ViolationKind.EXTRA_HIT, "the post_handler called before the pre_handler"
        return None
