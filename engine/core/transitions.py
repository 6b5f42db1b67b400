"""How OPTIMIZED and the optimizer's lists follow each other: where the two kernels' state machines
differ.

Answers to optimize_kprobe() and unoptimize_kprobe() in kernel/kprobes.c, at 6274de4984a6 and at
v6.1.

| OPTIMIZED | list | the text holds | 2010 | 6.1 |
| --- | --- | --- | --- | --- |
| no | none | int3 | breakpoint only | the same |
| yes | optimizing | int3 | waits to be optimized | the same |
| yes | none | jump (or int3: armed again while it was being undone) | optimized | the same |
| no | unoptimizing | jump | waits to be undone | |
| yes | unoptimizing | jump | | waits to be undone (since f66c0447cca1) |
| no | freeing | int3, or the original | cleaned, freed at the end of the pass | the same, or forced
back while it waited (4fbd2f83fda0) |
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
    """The optimizer's lists, and the effects that can't wait for it."""

    @property
    def leaves_no_breakpoints(self) -> bool:
        """All probes are disarmed: what a jump is undone to is the original byte, whether its probe
        is disabled or not.
        """
        ...

    def put(self, op: AggrKprobe, queue: Queue) -> None:
        """Put ``op``, which is on no list, on one; kick the optimizer unless that is FREEING."""
        ...

    def dequeue(self, op: AggrKprobe) -> None:
        """Take ``op`` off the list it is on."""
        ...

    def force_unoptimize(self, op: AggrKprobe) -> None:
        """Write the breakpoint over the jump now."""
        ...

    def disarm(self, op: AggrKprobe) -> None:
        """Write the original first byte over the breakpoint now."""
        ...


class Transitions(Protocol):
    """One kernel's rules. Nothing here reads or writes text but through :class:`Queues`."""

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """Everything allows that ``op`` is optimized."""
        ...

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """``op``, which is not disarmed, is not to be optimized any more."""
        ...

    def restored(self, op: AggrKprobe) -> None:
        """A pass has written the breakpoint over the jump of ``op``."""
        ...


class ClearedAtOnce:
    """2010: OPTIMIZED goes as soon as the probe is listed for undoing."""

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """Onto the optimizing list; one that waits to be undone only leaves its list."""
        if op.optimized:
            return
        op.flags |= KprobeFlag.OPTIMIZED
        if op.queued:
            queues.dequeue(op)
        else:
            queues.put(op, Queue.OPTIMIZING)

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """Onto the unoptimizing list; one that waits to be optimized only leaves its list; forced,
        at once.
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
        queues.force_unoptimize(op)
        if op.disabled or queues.leaves_no_breakpoints:
            queues.disarm(op)

    def restored(self, op: AggrKprobe) -> None:
        """The flag is gone already."""


class ClearedWhenRestored:
    """6.1: OPTIMIZED stays until the bytes are restored, and only the lists are looked at to take a
    decision back.
    """

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """Onto the optimizing list; one that waits to be undone only leaves its list."""
        if op.optimized:
            if op.queue is Queue.UNOPTIMIZING:
                queues.dequeue(op)
            return
        op.flags |= KprobeFlag.OPTIMIZED
        if not op.queued:
            queues.put(op, Queue.OPTIMIZING)

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """As in 2010; but one forced back while it waited to be undone goes on the freeing list,
        and is disarmed by the pass.
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
        queues.force_unoptimize(op)
        self.restored(op)

    def restored(self, op: AggrKprobe) -> None:
        """Now the flag goes."""
        op.flags &= ~KprobeFlag.OPTIMIZED


class TakenBackFromFreeing(ClearedWhenRestored):
    """As 6.1, but one that was forced back while it waited to be undone, and is in use again, waits
    for its jump again.
    """

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """Off the freeing list, if it is there: 6.1 forgets that it may be optimized."""
        if op.queue is Queue.FREEING:
            queues.dequeue(op)
        super().optimize(op, queues)


class CancelledByFlag(ClearedWhenRestored):
    """6.1 without e4add247789e: OPTIMIZED stays until the bytes are restored, but is still what
    decisions are taken back by.
    """

    def optimize(self, op: AggrKprobe, queues: Queues) -> None:
        """As in 2010."""
        ClearedAtOnce().optimize(op, queues)

    def unoptimize(self, op: AggrKprobe, queues: Queues, *, force: bool) -> None:
        """Whatever list it is on, it leaves it and loses the flag."""
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
