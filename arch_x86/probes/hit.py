"""This module runs one hit in its order: kprobe_int3_handler() and optimized_callback() (v6.1).

A hit goes from the trap to the resumed code in pieces, whichever of three ways the CPU came by:

    a breakpoint          TRAP -> POKE -> RESUMED, or FOUND where it is no poke's after all
                          TRAP -> FOUND -> BETWEEN ... -> HANDLED -> RESUMED
                          TRAP -> FOUND -> NOTIFY -> RESUMED, or REFUSED where it is nobody's
    a detour buffer       TRAP -> FOUND -> BETWEEN ... -> HANDLED -> RESUMED
    ftrace's trampoline   TRAP -> FOUND -> BETWEEN ... -> HANDLED -> RESUMED

There is one order for all who run hits. ``run`` takes all pieces at once (:meth:`HitPath.run`; for
the first two ways the handlers have ``at_once``, which takes the same pieces in less time), and an
exploration takes one at a time (:meth:`HitPath.advance`), since what lies between two pieces is a
choice point: another CPU or control task may act there. FOUND and each BETWEEN run the handler of
one probe. All that a CPU knows between two pieces is its :class:`Hit` and its
:class:`arch_x86.probes.stepping.KprobeCtlblk`.

The pieces of each way are methods of :class:`arch_x86.probes.breakpoint.BreakpointHandler`,
:class:`arch_x86.probes.optimized_hit.OptimizedHandler` and
:class:`arch_x86.probes.ftrace.FtraceHandler`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.hit_phases import HitPhase

if TYPE_CHECKING:
    from arch_x86.probes.ptregs import PtRegs
    from engine.hit_phases import HitKind
    from engine.kprobe import Kprobe

__all__ = ("Hit", "HitPath", "Piece", "Way")

# These members are looked up once, since to look up a member of an enumeration takes as long as the
# rest of a piece of a hit.
_TRAP, _RESUMED, _REFUSED = HitPhase.TRAP, HitPhase.RESUMED, HitPhase.REFUSED


@dataclass(slots=True)
class Hit:
    """This record is a hit in progress on a CPU.

    :ivar kind: the way by which the CPU came.
    :ivar regs: the registers that the stub or the detour buffer has pushed. The pieces change them,
        and the CPU goes on with them.
    :ivar argument: behind a detour buffer the number of its probe; behind ftrace's trampoline the
        address that it returns to.
    :ivar phase: the piece that is next, or how the hit ended.
    :ivar probe: the probe that the table had at the site.
    :ivar children: of an aggregator, the probes whose handlers are still to run, as they were
        listed when the first one ran. A probe that joins meanwhile comes in front of them, and one
        that leaves is disabled.
    """

    kind: HitKind
    cpu: int
    regs: PtRegs
    argument: int = 0
    phase: HitPhase = _TRAP
    probe: Kprobe | None = None
    children: tuple[Kprobe, ...] = ()


Piece = Callable[[Hit], HitPhase]
"""A piece does its part of a hit, and returns the phase that is next."""


def _impossible(hit: Hit) -> HitPhase:
    raise AssertionError(f"a hit of kind {hit.kind.name} is never in phase {hit.phase.name}")


@dataclass(frozen=True, slots=True)
class Way:
    """A way has the pieces for one :class:`HitKind`, by the phase in which each runs."""

    trap: Piece
    found: Piece
    between: Piece
    handled: Piece
    poke: Piece = _impossible
    notify: Piece = _impossible

    def by_phase(self) -> tuple[Piece, ...]:
        """Return the pieces in the order of :class:`HitPhase`, whose numbers begin at 1."""
        return (
            _impossible,
            self.trap,
            self.poke,
            self.found,
            self.handled,
            self.between,
            self.notify,
        )


class HitPath:
    """This class takes hits through their pieces.

    :param int3: the pieces of a hit on a breakpoint.
    :param optimized: those of a hit behind a jump.
    :param ftrace: those of a hit on an ftrace location.
    """

    def __init__(self, int3: Way, optimized: Way, ftrace: Way) -> None:
        # The index is a HitKind, whose numbers begin at 1.
        self._pieces = (
            (),
            int3.by_phase(),
            optimized.by_phase(),
            ftrace.by_phase(),
        )

    def advance(self, hit: Hit) -> None:
        """Run the next piece of ``hit``, and set its phase to the one that follows.

        :raises ReentryError: the hit came in a phase of another hit in which the kernel has no room
            for one more.
        """
        hit.phase = self._pieces[hit.kind][hit.phase](hit)

    def run(self, hit: Hit) -> bool:
        """Run all pieces of ``hit`` that are left; return False for a breakpoint that is nobody's.

        :raises ReentryError: the hit came in a phase of another hit in which the kernel has no room
            for one more.
        """
        pieces, phase = self._pieces[hit.kind], hit.phase
        while phase is not _RESUMED and phase is not _REFUSED:
            phase = hit.phase = pieces[phase](hit)
        return phase is _RESUMED
