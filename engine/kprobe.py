"""Probe records. Answers to include/linux/kprobes.h.

A *plain* probe is what a user registers. An *aggregator* stands in the table in place of the probes
at one address as soon as there is a second one or the address can be optimized; it owns the detour
buffer and the place in the optimizer's lists.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntFlag, StrEnum
from typing import Any, Final, Protocol

from engine.brief import described, shortened

__all__ = (
    "AggrKprobe",
    "BreakHandler",
    "FaultHandler",
    "Kprobe",
    "KprobeFlag",
    "KprobeStatus",
    "Method",
    "PostHandler",
    "PreHandler",
    "Queue",
    "Regs",
)


class KprobeFlag(IntFlag):
    """The flags of a probe (``kprobe.flags``), with the kernel's numbers."""

    GONE = 1
    DISABLED = 2
    OPTIMIZED = 4
    FTRACE = 8
    ON_FUNC_ENTRY = 16


class KprobeStatus(Enum):
    """How far a CPU's hit has come (KPROBE_HIT_* in include/linux/kprobes.h)."""

    HIT_ACTIVE = 1
    HIT_SS = 2
    REENTER = 4
    HIT_SSDONE = 8


class Queue(Enum):
    """The optimizer's list that an aggregator is on."""

    NONE = "none"
    OPTIMIZING = "optimizing"
    UNOPTIMIZING = "unoptimizing"
    FREEING = "freeing"


class Method(StrEnum):
    """How a hit at a site runs the probed instruction."""

    INT3 = "int3"
    """A breakpoint is hit, and the copy is single-stepped."""
    BOOSTED = "boosted"
    """A breakpoint is hit, and the copy runs with a jump back behind it."""
    EMULATED = "emulated"
    """A breakpoint is hit, and the host does what the instruction would do."""
    OPTIMIZED = "optimized"
    """A jump leads to the detour buffer."""
    FTRACE = "ftrace"
    """A call of ftrace's trampoline is executed, and there is no instruction to run.

    The call stands in place of a no-op or of a call of ``__fentry__``.
    """


_NO_FLAGS: Final = KprobeFlag(0)
_GONE: Final = KprobeFlag.GONE.value
_OPTIMIZED: Final = KprobeFlag.OPTIMIZED.value
_FTRACE: Final = KprobeFlag.FTRACE.value
_DISABLED_OR_GONE: Final = (KprobeFlag.DISABLED | KprobeFlag.GONE).value


class Regs(Protocol):
    """The registers that every handler may count on. The architecture layer's pt_regs has more."""

    ip: int
    sp: int
    flags: int


PreHandler = Callable[["Kprobe", Any], "int | None"]
"""A function ``pre_handler(p, regs)``, called before the probed instruction.

A non-zero result means that the handler has set ``regs.ip`` itself. It counts only where the CPU
came by a breakpoint.
"""
PostHandler = Callable[["Kprobe", Any, int], None]
"""A function ``post_handler(p, regs, flags)``, called after the probed instruction.

A probe with one is neither boosted nor optimized.
"""


FaultHandler = Callable[["Kprobe", Any, int], "int | None"]
"""A function ``fault_handler(p, regs, trapnr)``, called for a fault; only linux-2010 has it.

The fault is in guest code that a handler of ``p`` called, at ``regs.ip``, or in the single step of
the probed instruction, with ``regs.ip`` at that instruction. A non-zero result means that the fault
is mended, and that execution goes on at ``regs.ip``.
"""

BreakHandler = Callable[["Kprobe", Any], "int | None"]
"""A function ``break_handler(p, regs)`` for a breakpoint without a probe; only linux-2010 has it.

It is called when such a breakpoint is hit after ``pre_handler`` has set ``regs.ip`` and returned
non-zero. A non-zero result means that ``regs`` are those of the hit again, and that the probed
instruction is to run. A probe with a break_handler is not optimized.
"""


class Kprobe:
    """One probe, at ``addr`` or at ``symbol_name`` + ``offset`` bytes, but not both.

    :param flags: ``KprobeFlag.DISABLED`` to register the probe disabled.
    :ivar addr: the probe's address, which registering sets.
    :ivar given: the flags that the probe was registered with.
    :ivar nmissed: the number of hits whose handlers could not run.
    :ivar ainsn: the architecture layer's record of the slot.
    :ivar parent: the aggregator that the probe is a child of, or None.
    """

    __slots__ = (
        "addr",
        "ainsn",
        "break_handler",
        "fault_handler",
        "flags",
        "given",
        "nmissed",
        "offset",
        "parent",
        "post_handler",
        "pre_handler",
        "symbol_name",
    )

    def __init__(
        self,
        *,
        addr: int | None = None,
        symbol_name: str | None = None,
        offset: int = 0,
        pre_handler: PreHandler | None = None,
        post_handler: PostHandler | None = None,
        fault_handler: FaultHandler | None = None,
        break_handler: BreakHandler | None = None,
        flags: KprobeFlag = _NO_FLAGS,
    ) -> None:
        self.addr = addr
        self.symbol_name = symbol_name
        self.offset = offset
        self.pre_handler = pre_handler
        self.post_handler = post_handler
        self.fault_handler = fault_handler
        self.break_handler = break_handler
        self.flags = flags
        self.given = flags
        self.nmissed = 0
        self.ainsn: Any = None
        self.parent: AggrKprobe | None = None

    @property
    def kind(self) -> str:
        """The letter by which debugfs shows the probe: k, or r for the entry of a return probe."""
        return "k"

    @property
    def at(self) -> int:
        """The address of a registered probe."""
        assert self.addr is not None
        return self.addr

    @property
    def disabled(self) -> bool:
        """Whether the flag DISABLED or GONE is set."""
        # The bits are taken as plain integers, since operations on flags cost a microsecond each.
        return self.flags._value_ & _DISABLED_OR_GONE != 0

    @property
    def gone(self) -> bool:
        """Whether the code under the probe was removed."""
        return self.flags._value_ & _GONE != 0

    @property
    def ftrace(self) -> bool:
        """Whether the probe is made of ftrace, without breakpoint, slot or jump (kprobe_ftrace)."""
        return self.flags._value_ & _FTRACE != 0

    def __repr__(self) -> str:
        return described(self, self.place, self.flags.name or "")

    @property
    def place(self) -> str:
        """The place that the probe asks for, as text: ``symbol+0xoffset``, or an address."""
        return (
            f"{shortened(self.symbol_name)}+{self.offset:#x}"
            if self.symbol_name
            else f"{self.addr or 0:#x}"
        )


class AggrKprobe(Kprobe):
    """An aggregator (struct optimized_kprobe, whose ``kp`` has children).

    :ivar children: its probes, newest first, but one with a ``break_handler`` last.
    :ivar optinsn: the architecture layer's record of the prepared detour buffer, or None.
    :ivar op_id: the number that its detour buffer passes to the callback.
    :ivar queue: the optimizer's list that it is on.
    """

    __slots__ = ("children", "op_id", "optinsn", "queue")

    def __init__(self, op_id: int) -> None:
        super().__init__()
        self.children: list[Kprobe] = []
        self.optinsn: Any = None
        self.queue = Queue.NONE
        self.op_id = op_id

    @property
    def optready(self) -> bool:
        """Whether its detour buffer is prepared (kprobe_optready)."""
        return self.optinsn is not None

    @property
    def optimized(self) -> bool:
        """Whether OPTIMIZED is set: the jump is in the text, or the aggregator waits for it."""
        return self.flags._value_ & _OPTIMIZED != 0

    @property
    def unused(self) -> bool:
        """Whether it is disabled and without children (kprobe_unused).

        The optimizer reclaims such an aggregator.
        """
        return self.disabled and not self.children

    @property
    def queued(self) -> bool:
        """Whether it is on one of the optimizer's lists (kprobe_queued)."""
        return self.queue is not Queue.NONE

    @property
    def disarmed(self) -> bool:
        """Whether it is disabled and on no list (kprobe_disarmed)."""
        return self.disabled and not self.queued
