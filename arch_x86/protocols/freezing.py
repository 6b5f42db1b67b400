"""Protocols that suspend all tasks, and move those that stand in the bytes to be replaced.

Hooking libraries for user-mode code do so: every thread is suspended, the thread whose instruction
pointer lies in the replaced bytes gets the matching address in the copy of these instructions, and
on the way back the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence

from arch_x86.protocols.protocol import Patch, Patcher, protocol

__all__ = ("freeze_and_move",)


@protocol(
    move="a task inside the bytes goes on at the matching place in the other code",
    new_tasks="no task begins while the others are suspended",
    allocate_first="memory is allocated before the tasks are suspended, one of which may hold the"
    " allocator's lock",
)
def freeze_and_move(p: Patcher, patches: Sequence[Patch]) -> None:
    """All tasks are suspended; those inside the bytes are moved; then the bytes are copied."""
    if p.does("allocate-first"):
        p.allocate("the copy of the old code")
    moves = [pair for patch in patches for pair in patch.moves] if p.does("move") else []
    p.freeze("patch", moves=moves, new_tasks=p.does("new-tasks"))
    if not p.does("allocate-first"):
        p.allocate("the copy of the old code")
    for patch in patches:
        p.copy(patch.addr, patch.new, patch.reason)
    p.thaw("patch")
