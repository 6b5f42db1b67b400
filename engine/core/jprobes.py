"""Jumper probes. Answers to register_jprobes() in kernel/kprobes.c of 6274de4984a6.

A jumper probe runs a function with the probed function's arguments before that function. The kernel
has had none since v4.19.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from engine.arch import Arch
from engine.core.register_all import register_all
from engine.core.registry import Registry
from engine.core.safety_steps import SafetyStep
from engine.errors import KprobeError
from engine.jprobe import Jprobe, JumperProbe
from engine.kprobe import Kprobe

__all__ = ("Jprobes",)


class Jprobes:
    """Registers the jumper probes of one machine."""

    def __init__(self, core: Registry, arch: Arch) -> None:
        self._core = core
        self._arch = arch

    def register_jprobe(self, jp: Jprobe) -> None:
        """Put a jumper probe on a function; its breakpoint is never optimized (register_jprobe).

        :raises KprobeError: EINVAL (the place or the entry is not a function's first byte, or this
            kernel has no jumper probes), EEXIST (there is another one at the address), and what
            register_kprobe() answers.
        """
        core, kp = self._core, jp.kp
        if not core.profile.jprobes:
            raise KprobeError(
                errno.EINVAL,
                "jprobes: not there any more since v4.19; use a probe or a return probe",
            )
        if not core.is_registered(kp) and core.profile.has(SafetyStep.FUNCTION_ENTRY):
            self._require_entry(core.kprobe_addr(kp), "a jumper probe goes to")
        if not callable(jp.entry):
            kp.entry_at = self._entry_address(jp.entry)
            self._require_entry(kp.entry_at, "the entry of a jumper probe is")
        kp.pre_handler = self._setjmp
        kp.break_handler = self._longjmp
        core.register_kprobe(kp)

    def _entry_address(self, entry: int | str) -> int:
        """The address of an entry in guest code, which is given by its address or name."""
        if isinstance(entry, int):
            return entry
        symbol = self._core.kallsyms.lookup_name(entry)
        if symbol is None:
            raise KprobeError(
                errno.EINVAL, f"no function {entry}; there is {self._core.kallsyms.suggest(entry)}"
            )
        return symbol.addr

    def _require_entry(self, addr: int, what: str) -> None:
        """Refuse ``addr`` unless it is a function's first byte."""
        found = self._core.kallsyms.lookup(addr)
        if found is None or found[1] != 0:
            raise KprobeError(
                errno.EINVAL,
                f"{what} a function's first byte; {self._core.kallsyms.describe(addr)} is none",
            )

    def register_jprobes(self, jps: Sequence[Jprobe]) -> None:
        """Register all of ``jps`` or none: when one fails, those before it are unregistered again.

        :raises KprobeError: EINVAL for an empty list, or the first failure.
        """
        register_all(jps, self.register_jprobe, self.unregister_jprobes)

    def unregister_jprobe(self, jp: Jprobe) -> bool:
        """Take one jumper probe out of service, and say whether it was registered."""
        return self.unregister_jprobes([jp]) == 1

    def unregister_jprobes(self, jps: Iterable[Jprobe]) -> int:
        """Take jumper probes out of service, and return how many of them were registered."""
        return self._core.unregister_kprobes([jp.kp for jp in jps])

    # Hits -----------------------------------------------------------------------------------------

    def _setjmp(self, p: Kprobe, regs: Any) -> int:
        """Make the hit go on at the jumper probe's entry: the pre_handler (setjmp_pre_handler).

        An entry in Python is called here, and the hit goes on as if there were no entry.
        """
        assert isinstance(p, JumperProbe)
        if callable(p.jp.entry):
            p.jp.entry(copy(regs))
            return 0
        self._arch.arch_setjmp(p.entry_at, regs)
        return 1

    def _longjmp(self, _p: Kprobe, regs: Any) -> int:
        """Make the hit go on behind jprobe_return: the break_handler (longjmp_break_handler)."""
        return int(self._arch.arch_longjmp(regs))
