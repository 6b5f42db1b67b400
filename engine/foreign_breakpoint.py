"""The record of a breakpoint that is no probe's and no poke's. Answers to include/linux/kdebug.h.

Its user has a handler in the chain that notify_die() calls, or one that is asked before kprobes, as
kgdb_ll_trap() is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.brief import described

__all__ = ("ForeignBreakpoint",)


@dataclass(eq=False, slots=True)
class ForeignBreakpoint:
    """A breakpoint of another user than kprobes, at one instruction.

    :ivar addr: the address of the instruction.
    :ivar handler: is called with the pt_regs of each hit, before the instruction is emulated.
    :ivar before_probes: the user is asked before kprobes whose breakpoint was hit, as kgdb is; else
        after kprobes, as the callbacks of ``register_die_notifier()`` are.
    :ivar registered: the user's handler is registered.
    :ivar saved: what the breakpoint has replaced, for as long as it is set, or None.
    """

    addr: int
    handler: Callable[[Any], None]
    before_probes: bool = False
    registered: bool = False
    saved: bytes | None = None

    def __repr__(self) -> str:
        told = [
            "registered" if self.registered else "",
            "" if self.saved is None else f"replaces {self.saved.hex()}",
        ]
        return described(self, f"{self.addr:#x}", *told)
