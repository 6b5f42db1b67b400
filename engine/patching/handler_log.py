"""What is told of each handler of a scenario's probes that runs."""

from __future__ import annotations

from typing import Any, Protocol

from engine.kretprobe import KretprobeInstance

__all__ = ("HandlerLog",)


class HandlerLog(Protocol):
    """Is told when a handler of a scenario's probe runs. ``probe`` is the probe's number."""

    def hit(self, probe: int, regs: Any) -> None:
        """Its pre_handler runs."""
        ...

    def post(self, probe: int, regs: Any) -> None:
        """Its post_handler runs."""
        ...

    def entered(self, probe: int, regs: Any) -> None:
        """The entry_handler of a return probe runs."""
        ...

    def returned(self, probe: int, ri: KretprobeInstance, regs: Any) -> None:
        """The handler of a return probe runs."""
        ...
