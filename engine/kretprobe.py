"""Return-probe records. Answers to include/linux/kprobes.h.

There they are ``struct kretprobe`` and ``struct kretprobe_instance``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.brief import described
from engine.kprobe import Kprobe, KprobeFlag

__all__ = ("EntryProbe", "Kretprobe", "KretprobeInstance", "ReturnHandler")

_NO_FLAGS: Final = KprobeFlag(0)

ReturnHandler = Callable[["KretprobeInstance", Any], "int | None"]
"""A function ``handler(ri, regs)`` or ``entry_handler(ri, regs)`` of a return probe.

What a handler returns is ignored; an entry handler that returns non-zero declines the call.
"""


class KretprobeInstance:
    """One call in progress of a function with a return probe.

    :ivar rp: the return probe; None once it is unregistered.
    :ivar ret_addr: the return address; where several probes are on a call, what the field
        ``rethook`` of :class:`engine.core.profiles.Profile` says.
    :ivar frame: the address on the stack where the return address lay.
    :ivar data: ``data_size`` bytes for the handlers, from the entry to the return. They begin with
        what the last user of the instance left there.
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
    """The ordinary probe at the entry of the function (``kretprobe.kp``)."""

    __slots__ = ("rp",)

    rp: Kretprobe

    @property
    def kind(self) -> str:
        """The letter r, by which debugfs shows a return probe."""
        return "r"


class Kretprobe:
    """A probe of the returns of a function.

    The function's entry is given by ``addr``, or by ``symbol_name`` and an ``offset`` of 0.

    :param handler: called when the function returns, with ``regs`` as its caller will have them.
    :param entry_handler: called when the function is entered; if it returns non-zero, the call is
        not followed.
    :param maxactive: the most calls that are followed at once; 0 for as many as there are CPUs
        (with preemption, for twice that and at least 10).
    :param data_size: bytes of ``ri.data``.
    :ivar nmissed: the number of calls that found no free instance. Entries that were missed, since
        a handler was running, are counted in ``kp.nmissed``.
    :ivar kp: the probe at the entry, by which the return probe is disabled and enabled.
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
