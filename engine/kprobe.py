"""Probe records. Answers to include/linux/kprobes.h.

A *plain* probe is what a user registers. An *aggregator* stands in the table in place of the probes
at one address as soon as there is a second one or the address can be optimized; it owns the detour
buffer and the place in the optimizer's queues.
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
    """``kprobe.flags``, with the kernel's numbers."""

    GONE = 1
    DISABLED = 2
    OPTIMIZED = 4
    FTRACE = 8
    ON_FUNC_ENTRY = 16


class KprobeStatus(Enum):
    """Where a hit is (KPROBE_HIT_* in include/asm-generic/kprobes.h)."""

    HIT_ACTIVE = 1
    HIT_SS = 2
    REENTER = 4
    HIT_SSDONE = 8


class Queue(Enum):
    """Which of the optimizer's lists an aggregator is on."""

    NONE = "none"
    OPTIMIZING = "optimizing"
    UNOPTIMIZING = "unoptimizing"
    FREEING = "freeing"


class Method(StrEnum):
    """How a hit at a site runs the probed instruction."""

    INT3 = "int3"
    """Breakpoint, then a single step on the copy."""
    BOOSTED = "boosted"
    """Breakpoint, then the copy and a jump back."""
    EMULATED = "emulated"
    """Breakpoint, then the host does what the instruction would."""
    OPTIMIZED = "optimized"
    """A jump to the detour buffer."""
    FTRACE = "ftrace"
    """A call of ftrace's trampoline, in place of a no-op or of a call of ``__fentry__``: no copy,
    nothing to run.
    """


_NO_FLAGS: Final = KprobeFlag(0)
_GONE: Final = KprobeFlag.GONE.value
_OPTIMIZED: Final = KprobeFlag.OPTIMIZED.value
_FTRACE: Final = KprobeFlag.FTRACE.value
_DISABLED_OR_GONE: Final = (KprobeFlag.DISABLED | KprobeFlag.GONE).value


class Regs(Protocol):
    """What every handler may count on; the arch layer's pt_regs has more."""

    ip: int
    sp: int
    flags: int


PreHandler = Callable[["Kprobe", Any], "int | None"]
"""``pre_handler(p, regs)``: non-zero means that the handler has set ``regs.ip`` itself (int3 path
only).
"""
PostHandler = Callable[["Kprobe", Any, int], None]
"""``post_handler(p, regs, flags)``: after the probed instruction; forbids boosting and optimizing.
"""


FaultHandler = Callable[["Kprobe", Any, int], "int | None"]
"""``fault_handler(p, regs, trapnr)``: a fault in what a handler of ``p`` called, at ``regs.ip``, or
in the single step of the probed instruction, with ``regs.ip`` there. Non-zero: it is mended, go on
at ``regs.ip``. linux-2010 only.
"""

BreakHandler = Callable[["Kprobe", Any], "int | None"]
"""``break_handler(p, regs)``: a breakpoint of nobody's, after ``pre_handler`` has set ``regs.ip``
and returned non-zero. Non-zero: ``regs`` are those of the hit again, run the probed instruction.
Forbids optimizing. linux-2010 only.
"""


class Kprobe:
    """One probe, at ``addr`` or at ``symbol_name`` + ``offset`` (bytes), not both.

    ``flags`` may be ``KprobeFlag.DISABLED`` on registration; ``given`` are those of then.
    ``nmissed`` counts hits whose handler could not run. ``ainsn`` belongs to the arch layer.
    Registering sets ``addr``.
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
        """The letter that debugfs shows: k; r for the entry of a return probe."""
        return "k"

    @property
    def at(self) -> int:
        """The address of a registered probe."""
        assert self.addr is not None
        return self.addr

    @property
    def disabled(self) -> bool:
        """DISABLED or GONE."""
        # plain integers: operations on flags cost a microsecond
        return self.flags._value_ & _DISABLED_OR_GONE != 0

    @property
    def gone(self) -> bool:
        """The code under it was removed."""
        return self.flags._value_ & _GONE != 0

    @property
    def ftrace(self) -> bool:
        """It is made of ftrace: no breakpoint, no slot, never a jump (kprobe_ftrace)."""
        return self.flags.value & _FTRACE != 0

    def __repr__(self) -> str:
        return described(self, self.place, self.flags.name or "")

    @property
    def place(self) -> str:
        """Where it is to go, for people: ``symbol+0xoffset``, or an address."""
        return (
            f"{shortened(self.symbol_name)}+{self.offset:#x}"
            if self.symbol_name
            else f"{self.addr or 0:#x}"
        )


class AggrKprobe(Kprobe):
    """An aggregator (struct optimized_kprobe whose kp has children).

    ``children``: newest first, one with a ``break_handler`` last. ``optinsn``: the arch layer's
    prepared detour buffer, or None. ``op_id``: what its detour buffer passes to the callback.
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
        """Its detour buffer is prepared."""
        return self.optinsn is not None

    @property
    def optimized(self) -> bool:
        """OPTIMIZED is set: the jump is in the text, or the probe waits for it."""
        return self.flags._value_ & _OPTIMIZED != 0

    @property
    def unused(self) -> bool:
        """Disabled and without children: it is going to be reclaimed."""
        return self.disabled and not self.children

    @property
    def queued(self) -> bool:
        """On one of the optimizer's lists (kprobe_queued)."""
        return self.queue is not Queue.NONE

    @property
    def disarmed(self) -> bool:
        """Disabled and on no list."""
        return self.disabled and not self.queued
