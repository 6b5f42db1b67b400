"""The rules by which OPTIMIZED and the optimizer's lists change. Answers to kernel/kprobes.c.

There they are in optimize_kprobe() and unoptimize_kprobe(), which differ between 6274de4984a6 and
v6.1. An aggregator is in one of these states:

| OPTIMIZED | list | text | in 2010 | in 6.1 |
| --- | --- | --- | --- | --- |
| no | none | int3 | a breakpoint only | the same |
| yes | optimizing | int3 | waits to be optimized | the same |
| yes | none | jump [1] | optimized | the same |
| no | unoptimizing | jump | waits to be undone | never |
| yes | unoptimizing | jump | never | waits to be undone (since f66c0447cca1) |
| no | freeing | int3, or original | undone; freed at the end of the pass | the same [2] |

1. Or int3 over its first byte, where the probe was armed again while its jump waited to be undone.
2. Or forced back while it waited to be undone (4fbd2f83fda0).
"""

from __future__ import annotations

from typing import Protocol

from engine.kprobe import AggrKprobe, KprobeFlag, Queue

__all__ = (
    "CancelledByFlag",
    "ClearedAtOnce",
    "ClearedWhenRestored",
    "Queues",
    "TakenBackFromFreeing",
    "Transitions",
)


class Queues(Protocol):
    """The optimizer's lists, and the changes of text that can't wait for its pass."""

    @property
    def leaves_no_breakpoints(self) -> bool:
        """Whether an undone jump leaves the original byte, since all probes are disarmed."""
        ...

    def put(self, op: AggrKprobe, queue: Queue) -> None:
        """Put ``op``, which is on no list, on ``queue``; schedule a pass unless that is FREEING."""
        ...

    def dequeue(self, op: AggrKprobe) -> None:
        """Take ``op`` off the list that it is on."""
        ...

    def force_unoptimize(self, op: AggrKprobe) -> None:
        """Write the breakpoint over the jump of ``op`` at once."""
        ...

    def disarm(self, op: AggrKprobe) -> None:
        """Write the original first byte over the breakpoint of ``op`` at once."""
        ...


class Transitions(Protocol):
    """The rules of one kernel.

    They read and change the flag OPTIMIZED and the lists, and change text through :class:`Queues`
    only. The caller holds kprobe_mutex, and text_mutex where ``force`` is true.
    """

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """Let ``op`` be optimized; everything else allows it (optimize_kprobe)."""
        ...

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """Let ``op``, which is not disarmed, not be optimized any more (unoptimize_kprobe).

        :param force: write the breakpoint over a jump at once.
        """
        ...

    def restored(self, op: AggrKprobe) -> None:
        """Note that a pass has written the breakpoint over the jump of ``op``."""
        ...


class ClearedAtOnce:
    """The rules of 2010: OPTIMIZED is cleared as soon as the aggregator is listed for undoing."""

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """List ``op`` for optimizing; one that waits to be undone only leaves its list."""
        if op.optimized:
            return
        op.flags |= KprobeFlag.OPTIMIZED
        if op.queued:
            queues.dequeue(op)
        else:
            queues.put(op, Queue.OPTIMIZING)

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """List ``op`` for undoing; one that waits to be optimized only leaves its list.

        With ``force`` the jump is undone at once, also that of one that waits to be undone.
        """
        if not op.optimized:
            if force and op.queued:
                queues.dequeue(op)
                self._force(op, queues)
            return
        op.flags &= ~KprobeFlag.OPTIMIZED
        if op.queued:
            queues.dequeue(op)
        elif force:
            self._force(op, queues)
        else:
            queues.put(op, Queue.UNOPTIMIZING)

    def _force(self, op: AggrKprobe, queues: Queues) -> None:
        """Undo the jump of ``op``, and its breakpoint, too, if that is not needed."""
        queues.force_unoptimize(op)
        if op.disabled or queues.leaves_no_breakpoints:
            queues.disarm(op)

    def restored(self, op: AggrKprobe) -> None:
        """Do nothing: the flag was cleared when ``op`` was listed."""


class ClearedWhenRestored:
    """The rules of 6.1: OPTIMIZED stays set until the original bytes are restored.

    So a breakpoint that is hit between the two writes of undoing still leads to the copies in the
    detour buffer, and not into the rest of the jump. Whether a decision can be taken back is told
    by the lists alone.
    """

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """List ``op`` for optimizing; one that waits to be undone only leaves its list."""
        if op.optimized:
            if op.queue is Queue.UNOPTIMIZING:
                queues.dequeue(op)
            return
        op.flags |= KprobeFlag.OPTIMIZED
        if not op.queued:
            queues.put(op, Queue.OPTIMIZING)

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """List ``op`` for undoing, as in 2010.

        One that is forced back while it waits to be undone goes to the freeing list, so that the
        pass removes its breakpoint (4fbd2f83fda0): the operation that forces it back may be another
        probe's.
        """
        if not op.optimized:
            return
        if op.queue is Queue.UNOPTIMIZING:
            if force:
                self._force(op, queues)
                queues.dequeue(op)
                queues.put(op, Queue.FREEING)
        elif op.queued:
            queues.dequeue(op)
            op.flags &= ~KprobeFlag.OPTIMIZED
        elif force:
            self._force(op, queues)
        else:
            queues.put(op, Queue.UNOPTIMIZING)

    def _force(self, op: AggrKprobe, queues: Queues) -> None:
        """Undo the jump of ``op`` and clear its flag."""
        queues.force_unoptimize(op)
        self.restored(op)

    def restored(self, op: AggrKprobe) -> None:
        """Clear the flag, now that the breakpoint stands where the jump was."""
        op.flags &= ~KprobeFlag.OPTIMIZED


class TakenBackFromFreeing(ClearedWhenRestored):
    """The rules of ``next``: those of 6.1, with a way back from the freeing list.

    A probe that was forced back while it waited to be undone, and is in use again, is listed for
    optimizing. 6.1 leaves it on the freeing list, and forgets that it may be optimized.
    """

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """Take ``op`` off the freeing list, if it is there, and go on as in 6.1."""
        if op.queue is Queue.FREEING:
            queues.dequeue(op)
        super().optimize(op, queues)


class CancelledByFlag(ClearedWhenRestored):
    """The rules of 6.1 without e4add247789e: the flag tells whether a decision can be taken back.

    OPTIMIZED stays set until the bytes are restored, so the flag no longer tells which list an
    aggregator is on.
    """

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """Do as in 2010: an aggregator whose flag is set stays on the list that it is on."""
        ClearedAtOnce().optimize(op, queues)

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """Take ``op`` off whatever list it is on, and clear its flag.

        One that is on no list is listed for undoing, or with ``force`` undone at once.
        """
        if op.queued and (op.optimized or force):
            queues.dequeue(op)
            if op.optimized:
                self.restored(op)
            else:
                self._force(op, queues)
        elif op.optimized and force:
            self._force(op, queues)
        elif op.optimized:
            queues.put(op, Queue.UNOPTIMIZING)
