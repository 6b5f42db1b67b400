"""Jumper-probe records. Answers to ``struct jprobe`` in include/linux/kprobes.h of 6274de4984a6.

The kernel has had none since v4.19.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine.brief import described
from engine.kprobe import Kprobe, KprobeFlag

__all__ = ("Jprobe", "JprobeEntry", "JumperProbe")

_NO_FLAGS: Final = KprobeFlag(0)

JprobeEntry = int | str | Callable[[Any], object]
"""The code that a jumper probe runs.

It is the address or the name of a guest function that ends in ``jprobe_return``, or a Python
function, which is called with a copy of the registers.
"""


class JumperProbe(Kprobe):
    """The ordinary probe that a jumper probe is made of (``jprobe.kp``).

    :ivar jp: the jumper probe.
    :ivar entry_at: the address of its entry, where that is guest code.
    """

    __slots__ = ("entry_at", "jp")

    jp: Jprobe
    entry_at: int

    @property
    def kind(self) -> str:
        """The letter j, by which debugfs shows a jumper probe."""
        return "j"


class Jprobe:
    """A jumper probe: ``entry`` runs before the probed function, with the function's arguments.

    The function is given by ``addr``, or by ``symbol_name`` and an ``offset`` of 0.

    :param entry: guest code that runs in place of the probed function until it calls or jumps to
        ``jprobe_return``, which guest code may import by that name. Then all registers and the
        upper 64 bytes of its stack are put back, and the probed function runs. Or a Python
        function, which is called with the registers.
    :ivar kp: the ordinary probe, by which the jumper probe is disabled and enabled; it has
        ``nmissed``.
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
