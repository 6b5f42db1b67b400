"""Where tasks share nothing, only one of them has to be in the middle of its call at a time.

A task meets the control tasks in three ways only: through the text that it fetches, through the
core's answers to its hits, and through the waits that it holds up. Take a schedule in which
something goes wrong with one task's call, and leave out the steps of all other tasks. What is left
is a schedule, too: a wait has fewer tasks to wait for, and a control task that could go on earlier
need not. It costs no more, and the same goes wrong in it. So while one task is in the middle of a
call, no other task is preempted, interrupted, or run past a control step in the middle of its own
call: the calls of the others are made whole. The search finds as much as before, and need not visit
every pair of two tasks' positions.

For the same reason the calls that other tasks have left do not matter while a task is in the middle
of a call. That call ends in a state that was met without them, since at every control step all
tasks may be between calls, with any number of calls made, at no cost. So states with a task in a
call count as one state if they differ only in the calls that the others have left. If all calls go
alike, states without a task in a call count as one if they differ only in which vCPU has how many
calls left.

This holds where calls write to their own stacks and buffers only, which is looked at when they run
without probes, and where a return probe, whose instances all tasks draw from one pool, has enough
instances for all tasks at once (:mod:`engine.patching.unprobed`). It relies on tasks that do not
meet in any other way: each task has a record of its own of the hit that it is in, and a wait is for
each of the vCPUs and tasks that it began with, so one that passes never ends the wait for another
one (tests/explore/test_waits.py). A poke protocol that may break this, such as one with a reference
count of pokes, has to be explored with ``--no-reduction``, which visits all combinations.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.patching.parked_task import Mode
from engine.patching.vcpu import VcpuState

__all__ = ("others_in_flight", "own_writes")


def others_in_flight(vcpus: Iterable[VcpuState], vcpu: VcpuState) -> bool:
    """Return whether a task that does not run on ``vcpu`` now is in the middle of its call."""
    for other in vcpus:
        if other is not vcpu and (other.mode is Mode.CALL or other.nmi):
            return True
        for one in other.parked:
            if one.mode is Mode.CALL:
                return True
    return False


def own_writes(writes: Iterable[tuple[int, int]], own: Iterable[range]) -> bool:
    """Return whether each of ``writes`` lies in one of the spans ``own``.

    :param writes: the physical address and the size in bytes of each write.
    :param own: spans of physical addresses.
    """
    spans = tuple(own)
    return all(
        any(addr in span and addr + size <= span.stop for span in spans) for addr, size in writes
    )
