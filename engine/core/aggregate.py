"""The handlers of aggregators: one hit, several probes. Answers to kernel/kprobes.c.

There they are aggr_pre_handler(), aggr_post_handler(), aggr_fault_handler(), aggr_break_handler()
and opt_pre_handler().
"""

from __future__ import annotations

from typing import Any

from engine.arch import CurrentInstance
from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("AggrHandlers", "nmissed_of")


class AggrHandlers:
    """The handlers that every aggregator has; they call those of its enabled children.

    While a handler of a child runs, ``kprobe_instance`` of the CPU is that child.
    """

    def __init__(self, cpu: CurrentInstance, *, ends_handled: bool = True) -> None:
        """Take ``cpu`` as the CPU whose trap is being handled.

        :param ends_handled: whether a child without a break_handler stops being ``kprobe_instance``
            when its pre_handler has handled the hit (SafetyStep.HANDLED_HIT_ENDS).
        """
        self._cpu = cpu
        self._ends_handled = ends_handled

    def order(self, p: AggrKprobe) -> tuple[Kprobe, ...]:
        """The probes under ``p`` in the order in which their handlers run: the newest first."""
        return tuple(p.children)

    def pre_handler(self, p: Kprobe, regs: Any) -> int:
        """Run the children's pre_handlers until one returns non-zero (aggr_pre_handler).

        The newest child's comes first.

        :returns: 1 if one has returned non-zero, else 0.
        """
        assert isinstance(p, AggrKprobe)
        return int(any(self.child_pre_handler(child, regs) for child in self.order(p)))

    def child_pre_handler(self, child: Kprobe, regs: Any) -> int:
        """Run the pre_handler of ``child``, unless the child is disabled; the result is 1 or 0.

        A child with a break_handler whose pre_handler returns non-zero stays ``kprobe_instance``,
        so that its break_handler is found when the breakpoint comes that it is for.
        """
        if child.pre_handler is not None and not child.disabled:
            self._cpu.kprobe_instance = child
            if child.pre_handler(child, regs):
                if child.break_handler is None and self._ends_handled:
                    self._cpu.kprobe_instance = None
                return 1
        self._cpu.kprobe_instance = None
        return 0

    def child_opt_pre_handler(self, child: Kprobe, regs: Any) -> None:
        """Run the pre_handler of ``child`` in an optimized hit (opt_pre_handler).

        Its result is ignored.
        """
        if child.pre_handler is not None and not child.disabled:
            self._cpu.kprobe_instance = child
            child.pre_handler(child, regs)
        self._cpu.kprobe_instance = None

    def post_handler(self, p: Kprobe, regs: Any, flags: int) -> None:
        """Run the children's post_handlers, newest first (aggr_post_handler)."""
        assert isinstance(p, AggrKprobe)
        for child in self.order(p):
            if child.post_handler is not None and not child.disabled:
                self._cpu.kprobe_instance = child
                child.post_handler(child, regs, flags)
                self._cpu.kprobe_instance = None

    def break_handler(self, p: Kprobe, regs: Any) -> int:
        """Run the break_handler of the child that handled the hit (aggr_break_handler).

        :returns: 1 if it says that the breakpoint was its own, else 0.
        """
        assert isinstance(p, AggrKprobe)
        waiting = self._cpu.kprobe_instance
        self._cpu.kprobe_instance = None
        return int(
            waiting is not None
            and waiting.break_handler is not None
            and bool(waiting.break_handler(waiting, regs))
        )

    def fault_handler(self, p: Kprobe, regs: Any, trapnr: int) -> int:
        """Ask the children whether one of them mends a fault (aggr_fault_handler).

        A fault in a handler is shown to the child whose handler runs. In a single step no handler
        runs, so each enabled child is asked, until one returns non-zero.

        :returns: 1 if the fault is mended, else 0.
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
    """The probes whose ``nmissed`` counts a miss at ``p``: an aggregator's children, else ``p``."""
    return tuple(p.children) if isinstance(p, AggrKprobe) else (p,)
