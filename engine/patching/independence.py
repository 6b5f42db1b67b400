"""Tasks that share nothing: only one of them has to be in the middle of its call at a time.

A task meets the control tasks through the text that it fetches, the core's answer to its hits, and
the waits that it holds up. Take a schedule in which something goes wrong with one task's call, and
leave out what all other tasks do. What is left is a schedule: a wait has fewer to wait for, and a
control task that could go on sooner need not. It costs no more, and the same goes wrong in it. So
who could be preempted, interrupted, or run past a control step, while another task is in the middle
of a call, is not: its calls are made whole. That keeps what a search finds, and takes the product
of two tasks' positions out of it.

For the same reason it does not matter, while one is in the middle of a call, what the others have
left to do: that call ends in a state that was met without it, since at every control step all tasks
may be between calls, with any number of them made, at no cost. So a state with a task in a call is
one whatever the others have left; and if all calls go alike, a state without is one whichever vCPU
has how many.

It holds where calls write to their own stack and buffers only, which is looked at when they run
without probes, and where the instances of a return probe, which all tasks draw from one pool, are
enough for all of them at once (:mod:`engine.patching.unprobed`). It takes for granted that tasks do
not meet otherwise: each has a record of its own of the hit it is in, and a wait is for each of
those it began with, so that one that comes by never ends it for another
(tests/explore/test_waits.py). Who builds a protocol where that is in question, a reference count of
pokes, say, explores it with ``--no-reduction``, which visits all combinations.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.patching.parked_task import Mode
from engine.patching.vcpu import VcpuState

__all__ = ("others_in_flight", "own_writes")


def others_in_flight(vcpus: Iterable[VcpuState], vcpu: VcpuState) -> bool:
    """A task that does not run on ``vcpu`` now is in the middle of its call."""
    for other in vcpus:
        if other is not vcpu and (other.mode is Mode.CALL or other.nmi):
            return True
        for one in other.parked:
            if one.mode is Mode.CALL:
                return True
    return False


def own_writes(writes: Iterable[tuple[int, int]], own: Iterable[range]) -> bool:
    """Each of ``writes`` (physical address and size in bytes) lies in one of the spans ``own``."""
    spans = tuple(own)
    return all(
        any(addr in span and addr + size <= span.stop for span in spans) for addr, size in writes
    )
