"""The interface to what is told of each handler of a scenario's probes that runs."""

from __future__ import annotations

from typing import Any, Protocol

from engine.kretprobe import KretprobeInstance

__all__ = ("HandlerLog",)


class HandlerLog(Protocol):
    """The log is told when a handler of a scenario's probe runs.

    In each method ``probe`` is the number of the probe, and ``regs`` are the pt_regs of the
    handler.
    """

    def hit(self, probe: int, regs: Any) -> None:
        """The pre_handler of the probe runs."""
        ...

    def post(self, probe: int, regs: Any) -> None:
        """The post_handler of the probe runs."""
        ...

    def entered(self, probe: int, regs: Any) -> None:
        """The entry_handler of the return probe runs."""
        ...

    def foreign_hit(self, number: int, regs: Any) -> None:
        """The handler of another user's breakpoint runs, which has the number ``number``."""
        ...

    def returned(self, probe: int, ri: KretprobeInstance, regs: Any) -> None:
        """The handler of the return probe runs, for the call that the instance ``ri`` follows."""
        ...
