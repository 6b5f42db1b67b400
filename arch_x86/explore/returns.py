"""Calls with a return probe that are open, by names that hold in every control state: which instance of which probe each has."""

from __future__ import annotations

from collections.abc import Hashable

from arch_x86.explore.world import World
from engine.kretprobes import KretprobeInstance

__all__ = ("NO_CALLS", "OpenCalls", "load_calls", "store_calls")

OpenCalls = tuple[tuple[Hashable, tuple[tuple[int, int, int, int], ...]], ...]
"""Of each task, oldest first: number of the probe (-1: unregistered), of its instance, the return address, and where that lay."""
NO_CALLS: OpenCalls = ()


def load_calls(world: World, calls: OpenCalls) -> None:
    """They are open in ``world``; each instance that none of them has is free."""
    returns = world.control.returns
    stacks: dict[Hashable, list[KretprobeInstance]] = {}
    busy: set[int] = set()
    for task, stack in calls:
        stacks[task] = []
        for number, index, ret_addr, frame in stack:
            rp = returns.get(number)
            if rp is not None and index < len(rp.instances):
                ri = rp.instances[index]
                busy.add(id(ri))
            else:  # its probe is unregistered: the call still has to find home
                ri = KretprobeInstance(rp or next(iter(returns.values())))
                ri.rp = None
            ri.ret_addr, ri.frame = ret_addr, frame
            stacks[task].append(ri)
    world.core.kretprobes.open_stacks = stacks
    for rp in returns.values():
        rp.free_instances = [ri for ri in rp.instances if id(ri) not in busy]


def store_calls(world: World) -> OpenCalls:
    """What is open in ``world``."""
    known = {id(ri): (number, index) for number, rp in world.control.returns.items() for index, ri in enumerate(rp.instances)}
    return tuple(
        (task, tuple((*known.get(id(ri), (-1, 0)), ri.ret_addr, ri.frame) for ri in stack))
        for task, stack in world.core.kretprobes.open_stacks.items()
        if stack
    )
