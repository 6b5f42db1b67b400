"""Handlers of aggregators: one hit, several probes. Answers to aggr_pre_handler() and its siblings
in kernel/kprobes.c.
"""

from __future__ import annotations

from typing import Any

from engine.arch import CurrentInstance
from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("AggrHandlers", "nmissed_of")


class AggrHandlers:
    """The handlers that aggregators have. Each calls those of the live children."""

    def __init__(self, cpu: CurrentInstance, *, ends_handled: bool = True) -> None:
        """:param ends_handled: a child without a break_handler that has handled the hit is no
        longer the one whose handler runs.
        """
        self._cpu = cpu
        self._ends_handled = ends_handled

    def order(self, p: AggrKprobe) -> tuple[Kprobe, ...]:
        """The probes under ``p`` as they are called now: the newest first."""
        return tuple(p.children)

    def pre_handler(self, p: Kprobe, regs: Any) -> int:
        """Newest first; the first that returns non-zero ends the chain (int3 path)."""
        assert isinstance(p, AggrKprobe)
        return int(any(self.child_pre_handler(child, regs) for child in self.order(p)))

    def child_pre_handler(self, child: Kprobe, regs: Any) -> int:
        """One child's part of :meth:`pre_handler`."""
        if child.pre_handler is not None and not child.disabled:
            self._cpu.kprobe_instance = child
            if child.pre_handler(child, regs):
                if child.break_handler is None and self._ends_handled:
                    self._cpu.kprobe_instance = None
                return 1
        self._cpu.kprobe_instance = None
        return 0

    def child_opt_pre_handler(self, child: Kprobe, regs: Any) -> None:
        """One child's part of a hit on the optimized path, where what it returns is ignored
        (opt_pre_handler).
        """
        if child.pre_handler is not None and not child.disabled:
            self._cpu.kprobe_instance = child
            child.pre_handler(child, regs)
        self._cpu.kprobe_instance = None

    def post_handler(self, p: Kprobe, regs: Any, flags: int) -> None:
        """Newest first."""
        assert isinstance(p, AggrKprobe)
        for child in self.order(p):
            if child.post_handler is not None and not child.disabled:
                self._cpu.kprobe_instance = child
                child.post_handler(child, regs, flags)
                self._cpu.kprobe_instance = None

    def break_handler(self, p: Kprobe, regs: Any) -> int:
        """That of the child whose pre_handler has ended the chain."""
        assert isinstance(p, AggrKprobe)
        waiting = self._cpu.kprobe_instance
        self._cpu.kprobe_instance = None
        return int(
            waiting is not None
            and waiting.break_handler is not None
            and bool(waiting.break_handler(waiting, regs))
        )

    def fault_handler(self, p: Kprobe, regs: Any, trapnr: int) -> int:
        """That of the child whose handler runs; in a single step, where none does, each until one
        returns non-zero.
        """
        assert isinstance(p, AggrKprobe)
        running = self._cpu.kprobe_instance
        asked = (
            tuple(child for child in p.children if not child.disabled)
            if running is None
            else (running,)
        )
        return int(
            any(
                child.fault_handler(child, regs, trapnr)
                for child in asked
                if child.fault_handler is not None
            )
        )


def nmissed_of(p: Kprobe) -> tuple[Kprobe, ...]:
    """Whose ``nmissed`` a miss at ``p`` counts on: every child of an aggregator, else the probe
    itself.
    """
    return tuple(p.children) if isinstance(p, AggrKprobe) else (p,)
