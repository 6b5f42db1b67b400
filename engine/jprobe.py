"""Jumper-probe records. Answers to ``struct jprobe`` in include/linux/kprobes.h (6274de4984a6);
removed in v4.19.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.brief import described
from engine.kprobe import Kprobe, KprobeFlag

__all__ = ("Jprobe", "JprobeEntry", "JumperProbe")

_NO_FLAGS: Final = KprobeFlag(0)

JprobeEntry = int | str | Callable[[Any], object]
"""Address or name of a guest function that ends in ``jprobe_return``, or ``entry(regs)`` in Python,
with registers of its own.
"""


class JumperProbe(Kprobe):
    """The probe under a jumper probe (``jprobe.kp``)."""

    __slots__ = ("entry_at", "jp")

    jp: Jprobe
    entry_at: int

    @property
    def kind(self) -> str:
        """The letter that debugfs shows."""
        return "j"


class Jprobe:
    """A function called before the probed one, at ``addr`` or ``symbol_name`` (+ ``offset``, which
    must be 0), with its arguments.

    :param entry: guest code that takes the place of the probed function until it calls or jumps to
        ``jprobe_return`` (which guest code may import by that name): then all registers and the
        upper 64 bytes of its stack are put back, and the probed function runs. Or a Python function
        that is given the registers.
    :ivar kp: the probe, to disable and enable, with ``nmissed``.
    """

    __slots__ = ("entry", "kp")

    def __init__(
        self,
        *,
        entry: JprobeEntry,
        addr: int | None = None,
        symbol_name: str | None = None,
        offset: int = 0,
        flags: KprobeFlag = _NO_FLAGS,
    ) -> None:
        self.kp = JumperProbe(addr=addr, symbol_name=symbol_name, offset=offset, flags=flags)
        self.kp.jp = self
        self.entry = entry

    def __repr__(self) -> str:
        return described(self, self.kp.place, self.kp.flags.name or "")
