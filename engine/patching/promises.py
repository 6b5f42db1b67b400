"""What the core's operations promise when they return, checked in each control state.

The checks are made only where no operation is under way. What is expected comes from
:class:`engine.patching.expectations.Ledger`; what there is comes from the core, the text and the
optimizer's lists. Each check returns a sentence on what is wrong, or None. Where the kernel of a
profile does not keep a promise, the profile says so, and the code here that lets it pass names that
field of the profile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine.core.transitions import ClearedAtOnce
from engine.kprobe import AggrKprobe, Kprobe, Queue
from engine.patching.control_state import ControlState
from engine.patching.control_tree import ControlNode
from engine.patching.operations import Control

__all__ = ("broken_promise", "may_lack_jump")

_WORKER: Final = "kprobe_optimizer"


def broken_promise(node: ControlNode) -> str | None:
    """Return what an operation has promised and what does not hold in ``node``, or None.

    No lock is held in ``node``.
    """
    state = node.state
    control = state.control
    if control.broken is not None:
        return control.broken
    if control.ledger.under_way:
        return None
    idle = not any(state.core.optimizer.due) and all(
        task.done for task in state.plane.tasks if task.name == _WORKER
    )
    return (
        _left_behind(control)
        or _enabled(control)
        or _switched_off(state)
        or (_not_optimized(state) if idle else None)
        or (_leaks(state) if node.done else None)
    )


def _entry_of(control: Control, p: Kprobe) -> Kprobe | None:
    """Return the entry of the table that is ``p``, or that has ``p`` as a child."""
    return next((one for one in control.core.kprobe_table.values() if _holds(one, p)), None)


def _holds(entry: Kprobe, p: Kprobe) -> bool:
    return entry is p or (
        isinstance(entry, AggrKprobe) and any(child is p for child in entry.children)
    )


def _left_behind(control: Control) -> str | None:
    """Check that the table has a probe if and only if the probe is registered."""
    for n, p in enumerate(control.probes):
        entry, registered = _entry_of(control, p), control.ledger.registered(n)
        if entry is not None and not registered:
            return f"probe {n} is not registered any more, and the table still has it"
        if entry is None and registered:
            return f"probe {n} is registered, and the table does not have it"
    return None


def _enabled(control: Control) -> str | None:
    """Check that an entry of the table is enabled if and only if one of its probes is.

    An aggregator's probes are its children; any other entry is its own probe.
    """
    ledger, profile = control.ledger, control.core.profile
    for entry in control.core.kprobe_table.values():
        if entry.gone:
            continue
        numbers = [n for n, p in enumerate(control.probes) if _holds(entry, p)]
        enabled = [n for n in numbers if ledger.enabled(n)]
        # A probe that was enabled while all probes were disarmed may stay disarmed in some kernels
        # (Profile.enables_while_disarmed).
        if entry.disabled and any(not ledger.asleep(n) for n in enabled):
            return f"probe {enabled[0]} is enabled, and its entry of the table is not"
        # In some kernels a disabled probe that takes over an unused aggregator enables it
        # (Profile.rescue_enables).
        if (
            not entry.disabled
            and not enabled
            and not (profile.rescues_unused and profile.rescue_enables)
        ):
            return f"{entry!r} is enabled, and none of its probes {numbers} is"
    return None


def _switched_off(state: ControlState) -> str | None:
    """Check that the text fits the two global switches.

    While all probes are disarmed, the text is the original at each site; while optimization is
    forbidden, there is no jump.
    """
    ledger, core = state.control.ledger, state.core
    if ledger.armed and ledger.optimizing:
        return None
    for addr, size in _places(state):
        data, original = state.text.read(addr, size), state.image.read(addr, size)
        if not ledger.armed and data != original:
            return (
                f"all probes are disarmed, and {data.hex(' ')} stands at {addr:#x} for"
                f" {original.hex(' ')}"
            )
        if not ledger.optimizing and data[:1] == state.facts.jump != original[:1]:
            return f"optimization is switched off, and there is a jump at {addr:#x}"
    if core.optimizer.lists[Queue.UNOPTIMIZING]:
        return "a switch was turned off, and the unoptimizing list is not empty"
    return None


def _places(state: ControlState) -> Iterator[tuple[int, int]]:
    """Yield each address that ever had a probe, and how many bytes of text belong to it."""
    for addr in sorted({p.addr for p in state.control.probes if p.addr is not None}):
        entry = state.core.get_kprobe(addr)
        size = (
            entry.optinsn.size if isinstance(entry, AggrKprobe) and entry.optinsn is not None else 1
        )
        call = None if entry is None else state.port.ftrace(entry.ainsn)
        if call is not None:
            size = len(call[0])
        if state.text.covers(addr, size) and not state.text.is_unloaded(addr):
            yield addr, size


def _not_optimized(state: ControlState) -> str | None:
    """Check for empty lists and a jump for each probe that may be optimized.

    This holds where no pass of the optimizer is scheduled or under way.
    """
    core, ledger = state.core, state.control.ledger
    for queue, listed in core.optimizer.lists.items():
        # Probes that are listed to be optimized stay listed while optimization is not allowed.
        if listed and not (queue is Queue.OPTIMIZING and not (ledger.armed and ledger.optimizing)):
            return f"the {queue.value} list is not empty, and no pass of the optimizer will come"
    if not (ledger.armed and ledger.optimizing):
        return None
    for entry in core.kprobe_table.values():
        if (
            isinstance(entry, AggrKprobe)
            and entry.optready
            and not entry.gone
            and _may_be_optimized(state, entry)
        ):
            data = state.text.read(entry.at, state.facts.jump_size)
            if data != entry.optinsn.jump:
                return (
                    f"{entry!r} may be optimized, all is settled, and {data.hex(' ')} stands there"
                )
    return None


def _may_be_optimized(state: ControlState, entry: AggrKprobe) -> bool:
    """Return whether nothing that the kernel of this profile looks at keeps the jump away."""
    control, profile = state.control, state.core.profile
    ledger = control.ledger
    here = [n for n, p in enumerate(control.probes) if any(child is p for child in entry.children)]
    if len(here) != len(entry.children) or not any(
        ledger.enabled(n) and not ledger.asleep(n) for n in here
    ):
        return False
    if any(
        child.post_handler is not None or child.break_handler is not None
        for child in entry.children
    ):
        return False
    inside = range(entry.at + 1, entry.at + entry.optinsn.size)
    neighbours = [n for n, p in enumerate(control.probes) if p.addr in inside]
    if any(ledger.enabled(n) for n in neighbours) or _blocked(state, inside):
        return False
    # In some kernels a probe that a neighbour has kept from being optimized is not tried again when
    # the neighbour goes (Profile.reoptimizes_neighbour). In others it is not tried again if the
    # neighbour had a jump of its own, which goes later (Profile.reoptimizes_later).
    if neighbours and not profile.reoptimizes_neighbour:
        return False
    if not profile.reoptimizes_later and not ledger.jumped.isdisjoint(neighbours):
        return False
    return not (entry.optimized and may_lack_jump(control, entry))


def may_lack_jump(control: Control, op: AggrKprobe) -> bool:
    """Return whether ``op``, which says it is optimized, may have no jump while it is armed.

    This is so if it was armed again before its jump was undone, in a kernel that then writes
    the breakpoint over the jump (Profile.rearms_whole).
    """
    return not control.core.profile.rearms_whole and op.at in control.ledger.rearmed


def _blocked(state: ControlState, inside: range) -> bool:
    """Return whether the table has an entry in ``inside`` that is enabled or on a list."""
    entries = [entry for addr, entry in state.core.kprobe_table.items() if addr in inside]
    return any(
        not entry.disabled or (isinstance(entry, AggrKprobe) and entry.queued) for entry in entries
    )


def _leaks(state: ControlState) -> str | None:
    """Check that nothing is in use when every control task has ended and nothing is registered."""
    core, control = state.core, state.control
    if any(control.ledger.registered(n) for n in range(len(control.probes))):
        return None
    # In the kernel of 2010 a probe that waits to be undone stays in the table for ever if a
    # neighbour forces it back.
    kept = isinstance(core.profile.transitions, ClearedAtOnce) and all(
        isinstance(p, AggrKprobe) and p.unused for p in core.kprobe_table.values()
    )
    if core.kprobe_table and kept:
        return None
    found = {
        "entries of the table": len(core.kprobe_table),
        "slots": state.arch.slots.used,
        "detour buffers": state.arch.detours.used,
        "aggregators": core.optprobes.prepared,
        "probes on the optimizer's lists": sum(map(len, core.optimizer.lists.values())),
        "return probes' instances": sum(
            len(rp.instances) + len(rp.free_instances) for rp in control.returns.values()
        ),
    }
    left = [f"{count} {name}" for name, count in found.items() if count]
    return (
        f"nothing is registered any more, and still in use are {', '.join(left)}" if left else None
    )
