"""Return-probe records. Answers to ``struct kretprobe`` and ``struct kretprobe_instance`` in
include/linux/kprobes.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.brief import described
from engine.kprobe import Kprobe, KprobeFlag

__all__ = ("EntryProbe", "Kretprobe", "KretprobeInstance", "ReturnHandler")

_NO_FLAGS: Final = KprobeFlag(0)

ReturnHandler = Callable[["KretprobeInstance", Any], "int | None"]
"""``handler(ri, regs)`` and ``entry_handler(ri, regs)``; what the former returns is ignored,
non-zero from the latter declines the call.
"""


class KretprobeInstance:
    """One call in progress of a function with a return probe.

    ``ret_addr``: where the function will return to. ``frame``: where on the stack that address lay.
    ``data``: ``data_size`` bytes for the handlers, from entry to return; they hold what their last
    user left. ``rp`` is None once the probe is unregistered.
    """

    __slots__ = ("data", "frame", "ret_addr", "rp")

    def __init__(self, rp: Kretprobe) -> None:
        self.rp: Kretprobe | None = rp
        self.ret_addr = 0
        self.frame = 0
        self.data = bytearray(rp.data_size)

    def __repr__(self) -> str:
        where = "" if self.rp is None else self.rp.kp.place
        return described(self, where, f"returns to {self.ret_addr:#x}")


class EntryProbe(Kprobe):
    """The probe at the function's entry (``kretprobe.kp``)."""

    __slots__ = ("rp",)

    rp: Kretprobe

    @property
    def kind(self) -> str:
        """The letter that debugfs shows."""
        return "r"


class Kretprobe:
    """A probe of a function's returns, at the entry ``addr`` or ``symbol_name`` (+ ``offset``,
    which must be 0).

    :param handler: called when the function returns, with ``regs`` as its caller will have them.
    :param entry_handler: called when it is entered; non-zero: this call is left alone.
    :param maxactive: calls that can be followed at once; 0 for as many as there are CPUs (twice
        that, and 10 at least, with preemption).
    :param data_size: bytes of ``ri.data``.
    :ivar nmissed: calls that found no free instance. Entries that were missed because a handler was
        running: ``kp.nmissed``.
    :ivar kp: the entry's probe, to disable and enable.
    """

    __slots__ = (
        "data_size",
        "entry_handler",
        "free_instances",
        "handler",
        "instances",
        "kp",
        "maxactive",
        "nmissed",
    )

    def __init__(
        self,
        *,
        addr: int | None = None,
        symbol_name: str | None = None,
        offset: int = 0,
        handler: ReturnHandler | None = None,
        entry_handler: ReturnHandler | None = None,
        maxactive: int = 0,
        data_size: int = 0,
        flags: KprobeFlag = _NO_FLAGS,
    ) -> None:
        self.kp = EntryProbe(addr=addr, symbol_name=symbol_name, offset=offset, flags=flags)
        self.kp.rp = self
        self.handler = handler
        self.entry_handler = entry_handler
        self.maxactive = maxactive
        self.data_size = data_size
        self.nmissed = 0
        self.instances: tuple[KretprobeInstance, ...] = ()
        self.free_instances: list[KretprobeInstance] = []

    def __repr__(self) -> str:
        return described(self, self.kp.place, self.kp.flags.name or "")
