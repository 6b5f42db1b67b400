"""6. What must hold of the core after each control step: lists, flags, text and locks agree."""

from __future__ import annotations

from typing import Final

from arch_x86.explore.world import Node
from arch_x86.isa.encode import JMP32_SIZE
from engine.explore.system import Violation, ViolationKind
from engine.kprobe import AggrKprobe, Queue

__all__ = ("InvariantOracle",)

_INT3: Final = 0xCC


class InvariantOracle:
    """Looks at a control state, once."""

    def check(self, node: Node) -> Violation | None:
        """What is wrong with it, or None."""
        why = self._error(node) or self._lists(node) or (None if any(node.held) else self._text(node))
        return None if why is None else Violation(ViolationKind.INVARIANT, None, None, why)

    def _error(self, node: Node) -> str | None:
        return None if node.error is None else f"a control task ended in an error: {node.error}"

    def _lists(self, node: Node) -> str | None:
        for queue, listed in node.world.core.optimizer.lists.items():
            for op in listed:
                if op.queue is not queue:
                    return f"{op!r} is on the {queue.value} list, but says {op.queue.value}"
                if queue is Queue.OPTIMIZING and (op.disabled or not op.optimized):
                    return f"{op!r} waits to be optimized, though it is not live"
        return None

    def _text(self, node: Node) -> str | None:
        """No lock is held, so no operation is under way: what is armed is registered, and what is enabled is armed."""
        core, text = node.world.core, node.world.text
        for addr, p in core.kprobe_table.items():
            if p.gone:
                continue
            data = text.read(addr, JMP32_SIZE)
            jumps = isinstance(p, AggrKprobe) and p.optinsn is not None and data == p.optinsn.jump
            armed = data[0] == _INT3 or jumps
            if not armed and not p.disabled and not core.kprobes_all_disarmed:
                return f"{p!r} is registered and enabled, but {data.hex(' ')} stands there"
        return None
