"""Faults of the poke protocols and of who writes text: ``arch_x86/text/``."""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("TEXT",)

_POKE, _BATCH, _SPACE = (
    "arch_x86/text/poke.py",
    "arch_x86/text/poke_batch.py",
    "arch_x86/text/space.py",
)

TEXT: Final = (
    Fault(
        "2010: a jump is written while the CPUs run",
        _POKE,
        "        self._stops = SafetyStep.STOP_MACHINE not in without",
        "        self._stops = False",
        Kind.TEXT,
    ),
    Fault(
        "6.1: a poke never gives its descriptor up",
        _POKE,
        "            self._at = None\n",
        "",
        Kind.TEXT,
    ),
    Fault(
        "6.1: a poke's breakpoint is taken for its own at every address",
        _POKE,
        "        return (\n"
        "            self._at is not None\n"
        "            and self._at.addr == addr\n"
        "            and SafetyStep.BP_HANDLER not in self._without\n"
        "        )",
        "        return self._at is not None and SafetyStep.BP_HANDLER not in self._without",
        Kind.TEXT,
    ),
    Fault(
        "6.1: the jump goes in without a breakpoint in front of it",
        _POKE,
        "            if SafetyStep.BP_INT3_FIRST in self._without:",
        "            if True:",
        Kind.TEXT,
    ),
    Fault(
        "6.1: a jump's last byte is not written",
        _POKE,
        '                    param.addr + 1, param.data[1:], f"{param.reason}: tail", '
        "SafetyStep.BP_SYNC_2",
        '                    param.addr + 1, param.data[1:4], f"{param.reason}: tail", '
        "SafetyStep.BP_SYNC_2",
        Kind.TEXT,
    ),
    Fault(
        "6.1: a jump goes out tail first",
        _POKE,
        '                param.addr, param.data[:1], f"{param.reason}: breakpoint", '
        "SafetyStep.UNOPT_SYNC_1\n"
        "            )\n"
        "            self._text.require_breakpoint(param.addr, param.reason)\n"
        "            self._write(\n"
        '                param.addr + 1, param.data[1:], f"{param.reason}: tail", '
        "SafetyStep.UNOPT_SYNC_2",
        '                param.addr + 1, param.data[1:], f"{param.reason}: tail", '
        "SafetyStep.UNOPT_SYNC_2\n"
        "            )\n"
        "            self._write(\n"
        '                param.addr, param.data[:1], f"{param.reason}: breakpoint", '
        "SafetyStep.UNOPT_SYNC_1",
        Kind.TEXT,
    ),
    Fault(
        "next: every hit of a batch goes on at the detour of its first",
        _BATCH,
        "self._vector[min(self._place(addr), len(self._vector) - 1)]",
        "self._vector[0]",
        Kind.TEXT,
    ),
    Fault(
        "next: the first bytes of a batch go in before the tails",
        _BATCH,
        'self._text.write(param.addr + 1, param.data[1:], reason=f"{param.reason}: tail")\n'
        '                self._sync(batch, "tails", SafetyStep.BP_SYNC_2)',
        'self._text.write(param.addr, param.data[:2], reason=f"{param.reason}: tail")\n'
        '                self._sync(batch, "tails", SafetyStep.BP_SYNC_2)',
        Kind.TEXT,
    ),
    Fault(
        "next: a batch is not sorted by address",
        _BATCH,
        "    ordered = sorted(params, key=_addr)",
        "    ordered = list(params)",
        Kind.TEXT,
    ),
    Fault(
        "next: a batch is under way for good",
        _BATCH,
        "            self._busy = False\n            if",
        "            if",
        Kind.TEXT,
    ),
    Fault(
        "next: jumps of a batch go out tail first",
        _BATCH,
        "                self._text.write(param.addr, param.data[:1], "
        'reason=f"{param.reason}: breakpoint")\n'
        '            self._sync(batch, "breakpoints", SafetyStep.UNOPT_SYNC_1)',
        "                self._text.write(param.addr + 1, param.data[1:], "
        'reason=f"{param.reason}: tail")\n'
        "                self._text.write(param.addr, param.data[:1], "
        'reason=f"{param.reason}: breakpoint")\n'
        '            self._sync(batch, "breakpoints", SafetyStep.UNOPT_SYNC_1)',
        Kind.TEXT,
    ),
    Fault(
        "next: of a batch of single bytes the first alone is written",
        _BATCH,
        "            for param in batch:\n"
        "                self._text.write(param.addr, param.data, reason=param.reason)\n"
        '            self._sync(batch, "bytes")',
        "            for param in batch[:1]:\n"
        "                self._text.write(param.addr, param.data, reason=param.reason)\n"
        '            self._sync(batch, "bytes")',
        Kind.TEXT,
    ),
    Fault(
        "2010: of a batch of jumps the first alone is written",
        _SPACE,
        "            self.current, ((write.addr, write.data) for write in writes)",
        "            self.current, ((write.addr, write.data) for write in writes[:1])",
        Kind.TEXT,
    ),
)
