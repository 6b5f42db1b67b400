"""Handlers of aggregators: one hit, several probes. Answers to aggr_pre_handler() and its siblings in kernel/kprobes.c."""

from __future__ import annotations

from typing import Any

from engine.kprobe import AggrKprobe, Kprobe

__all__ = ("aggr_post_handler", "aggr_pre_handler", "nmissed_of", "opt_pre_handler")


def aggr_pre_handler(p: Kprobe, regs: Any) -> int:
    """Run the live children's pre_handlers, newest first; the first that returns non-zero ends the chain (int3 path)."""
    assert isinstance(p, AggrKprobe)
    for child in tuple(p.children):
        if child.pre_handler is not None and not child.disabled and child.pre_handler(child, regs):
            return 1
    return 0


def aggr_post_handler(p: Kprobe, regs: Any, flags: int) -> None:
    """Run the live children's post_handlers, newest first."""
    assert isinstance(p, AggrKprobe)
    for child in tuple(p.children):
        if child.post_handler is not None and not child.disabled:
            child.post_handler(child, regs, flags)


def opt_pre_handler(op: AggrKprobe, regs: Any) -> None:
    """Run the live children's pre_handlers, newest first, on the optimized path: what they return is ignored."""
    for child in tuple(op.children):
        if child.pre_handler is not None and not child.disabled:
            child.pre_handler(child, regs)


def nmissed_of(p: Kprobe) -> tuple[Kprobe, ...]:
    """Whose ``nmissed`` a miss at ``p`` counts on: every child of an aggregator, else the probe itself."""
    return tuple(p.children) if isinstance(p, AggrKprobe) else (p,)
