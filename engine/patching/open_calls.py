"""The open calls that return probes follow, by names that hold in every control state.

They tell which instance of which probe each call has.
"""

from __future__ import annotations

from collections.abc import Hashable

from engine.kretprobe import KretprobeInstance
from engine.patching.control_state import ControlState

__all__ = ("NO_CALLS", "OpenCalls", "load_calls", "store_calls")

_Call = tuple[int, int, int, int, int]
"""This record names one open call.

It consists of the number of the probe (-1 if the probe is not known any more), the count of its
registrations, the number of the instance, the return address, and where that lay on the stack.
"""
_Taken = tuple[int, int, tuple[int, ...]]
"""This record has a probe's number, the count of its registrations, and its instances in use."""
OpenCalls = tuple[tuple[tuple[Hashable, tuple[_Call, ...]], ...], tuple[_Taken, ...]]
"""This record has each task's open calls, oldest first, and each probe's instances in use.

More instances may be taken than those of the open calls.
"""
NO_CALLS: OpenCalls = ((), ())


def load_calls(state: ControlState, calls: OpenCalls) -> None:
    """Make ``calls`` the open calls of ``state``, and free each instance that they do not take."""
    returns, ledger, instances = (
        state.control.returns,
        state.control.ledger,
        state.control.instances,
    )
    stacks: dict[Hashable, list[KretprobeInstance]] = {}
    for task, stack in calls[0]:
        stacks[task] = []
        for number, registration, index, ret_addr, frame in stack:
            known = instances.get((number, registration), ())
            # A known instance tells itself whether its probe's handler is still to be called.
            if index < len(known):
                ri = known[index]
            else:
                ri = KretprobeInstance(next(iter(returns.values())))
                ri.rp = None
            ri.ret_addr, ri.frame = ret_addr, frame
            stacks[task].append(ri)
    state.core.kretprobes.open_stacks = stacks
    taken = {(number, registration): indices for number, registration, indices in calls[1]}
    for number, rp in returns.items():
        busy = taken.get((number, ledger.registration(number)), ())
        rp.free_instances = [ri for index, ri in enumerate(rp.instances) if index not in busy]


def store_calls(state: ControlState) -> OpenCalls:
    """Return the calls that are open in ``state``."""
    returns, ledger = state.control.returns, state.control.ledger
    names = {
        id(ri): (*key, index)
        for key, made in state.control.instances.items()
        for index, ri in enumerate(made)
    }
    stacks = tuple(
        (task, tuple((*names.get(id(ri), (-1, 0, 0)), ri.ret_addr, ri.frame) for ri in stack))
        for task, stack in state.core.kretprobes.open_stacks.items()
        if stack
    )
    taken: list[_Taken] = []
    for number, rp in returns.items():
        if len(rp.free_instances) != len(rp.instances):
            free = {id(ri) for ri in rp.free_instances}
            taken.append(
                (
                    number,
                    ledger.registration(number),
                    tuple(n for n, ri in enumerate(rp.instances) if id(ri) not in free),
                )
            )
    return (stacks, tuple(taken))
