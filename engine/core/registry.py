"""What return probes and jumper probes are built on. Answers to kernel/kprobes.c.

They call register_kprobe() and its siblings, as register_kretprobe() and register_jprobe() do
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from engine.core.arming import Arming
from engine.core.profiles import Profile
from engine.kallsyms import Kallsyms
from engine.kprobe import Kprobe

__all__ = ("Registry",)


class Registry(Protocol):
    """The part of :class:`engine.core.kprobes.Kprobes` that registers ordinary probes."""

    profile: Profile
    kallsyms: Kallsyms
    arming: Arming

    def locked(self, why: str) -> AbstractContextManager[None]:
        """Hold kprobe_mutex, and below it the locks that a change of text needs."""
        ...

    def kprobe_addr(self, p: Kprobe) -> int:
        """The address that the fields of ``p`` ask for.

        :raises KprobeError: they name no address.
        """
        ...

    def on_func_entry(self, addr: int) -> bool:
        """Whether ``addr`` is a function's first byte, or where a probe on that byte goes."""
        ...

    def is_registered(self, p: Kprobe) -> bool:
        """Whether ``p`` itself is registered now."""
        ...

    def register_kprobe(self, p: Kprobe) -> None:
        """Register one probe.

        :raises KprobeError: it is refused.
        """
        ...

    def register_locked(self, p: Kprobe) -> None:
        """Register one of several probes, with the locks of :meth:`locked` held.

        :raises KprobeError: it is refused.
        """
        ...

    def unregister_kprobes(
        self, ps: Iterable[Kprobe], *, disarmed: Callable[[], None] | None = None
    ) -> int:
        """Take probes out of service, and return how many of them were registered.

        :param disarmed: called with the locks held, before the grace period.
        """
        ...
