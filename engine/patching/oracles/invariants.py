"""The oracle of the core: in each control state its lists, flags, text and locks agree.

What operations promise (docs/explore.md, "What an operation promises") is looked at here, too.
"""

from __future__ import annotations

from engine.kprobe import AggrKprobe, Queue
from engine.patching.control_tree import ControlNode
from engine.patching.oracles.oracle import Oracle
from engine.patching.promises import broken_promise, may_lack_jump
from engine.search.explorable import Violation, ViolationKind

__all__ = ("Invariants",)


class Invariants(Oracle):
    """Looks at each control state once, when it is met first."""

    def control_state(self, node: ControlNode) -> Violation | None:
        """Report the first thing that is wrong in the control state ``node``."""
        why = self._error(node) or self._lists(node) or self._pass(node)
        # While a lock is held an operation is under way, and may have done half of what it does.
        if why is None and not any(node.held):
            why = (
                self._text(node)
                or self._children(node)
                or self._jumps(node)
                or broken_promise(node)
            )
        return None if why is None else Violation(ViolationKind.INVARIANT, None, None, why)

    def _error(self, node: ControlNode) -> str | None:
        """Require that no control task has ended in an error.

        As the methods below, this returns a sentence on what is wrong, or None.
        """
        return None if node.error is None else f"a control task ended in an error: {node.error}"

    def _lists(self, node: ControlNode) -> str | None:
        """Require that each aggregator names the list that it is on.

        One that waits to be optimized is enabled and has the flag OPTIMIZED.
        """
        for queue, listed in node.state.core.optimizer.lists.items():
            for op in listed:
                if op.queue is not queue:
                    return f"{op!r} is on the {queue.value} list, but says {op.queue.value}"
                if queue is Queue.OPTIMIZING and (op.disabled or not op.optimized):
                    return f"{op!r} waits to be optimized, though it is not live"
        return None

    def _pass(self, node: ControlNode) -> str | None:
        """Require that a pass of the optimizer owns kprobe_mutex.

        It does so from the step that takes the locks of the tables to the one that drops them.
        """
        core = node.state.core
        for task in node.state.plane.tasks:
            inside = (
                task.delayed
                and task.started
                and not (task.done or task.dropped or task.lock is not None)
            )
            if inside and core.optimizer.due[1] and core.kprobe_mutex.owner is not task:
                return "a pass of the optimizer is under way, and does not own kprobe_mutex"
        return None

    def _text(self, node: ControlNode) -> str | None:
        """Require that each enabled probe of the table is armed in the text.

        No lock is held here, so no operation is under way.
        """
        core, text, facts = node.state.core, node.state.text, node.state.facts
        for addr, p in core.kprobe_table.items():
            if p.gone:
                continue
            data = text.read(addr, facts.jump_size)
            jumps = isinstance(p, AggrKprobe) and p.optinsn is not None and data == p.optinsn.jump
            armed = data.startswith(facts.breakpoint) or jumps
            made_of_ftrace = node.state.port.ftrace(p.ainsn)
            if made_of_ftrace is not None:
                call, original = made_of_ftrace
                there = text.read(addr, len(call))
                armed = there == call
                if not armed and there != original:
                    return f"{p!r} is made of ftrace, and {data.hex(' ')} stands there"
            if not armed and not p.disabled and not core.kprobes_all_disarmed:
                return f"{p!r} is registered and enabled, but {data.hex(' ')} stands there"
        return None

    def _children(self, node: ControlNode) -> str | None:
        """Require that aggregators and their children agree.

        They have the same address and the same slot, and name each other.
        """
        for addr, entry in node.state.core.kprobe_table.items():
            if entry.addr != addr:
                return f"the table has {entry!r} at {addr:#x}"
            if not isinstance(entry, AggrKprobe):
                continue
            for child in entry.children:
                if child.addr != addr or child.parent is not entry:
                    return f"{child!r} is listed under {entry!r}, and does not say so"
                if not child.gone and child.ainsn is not entry.ainsn:
                    return f"{child!r} has another slot than {entry!r}"
        return None

    def _jumps(self, node: ControlNode) -> str | None:
        """Require that OPTIMIZED, the lists and the text agree about jumps.

        No enabled probe may lie inside the bytes of a jump.
        """
        core, text = node.state.core, node.state.text
        for addr, op in core.kprobe_table.items():
            if not isinstance(op, AggrKprobe) or op.optinsn is None or op.gone:
                continue
            jumps = text.read(addr, node.state.facts.jump_size) == op.optinsn.jump
            if jumps and not op.optimized and op.queue is not Queue.UNOPTIMIZING:
                return f"{op!r} has a jump, and does not say so"
            if jumps and op.queue in (Queue.OPTIMIZING, Queue.FREEING):
                return f"{op!r} has a jump, though it is on the {op.queue.value} list"
            if (
                op.optimized
                and not jumps
                and not op.queued
                and not may_lack_jump(node.state.control, op)
            ):
                return f"{op!r} says that it is optimized, and has no jump"
            for inside in range(addr + 1, addr + op.optinsn.size) if jumps else ():
                other = core.get_kprobe(inside)
                if other is not None and not other.disabled and not core.kprobes_all_disarmed:
                    return f"{other!r} is enabled, inside of the bytes of the jump of {op!r}"
        return None
