"""This module says whether a probe can become a jump (arch/x86/kernel/kprobes/opt.c, v6.1).

It answers to can_optimize(), insn_jump_into_range() and copy_optimized_instructions(), and says
which instructions the jump replaces. That a probe cannot be optimized is an answer, not an error:
the probe stays a breakpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import INT3_SIZE, JMP32_SIZE
from arch_x86.isa.encode import DISP32_SIZE
from arch_x86.probes.areas import copies_reach, lies_in_reach
from arch_x86.probes.boost import can_boost
from arch_x86.probes.eligibility import can_probe, is_ftrace_site
from arch_x86.probes.relocate import copy_refusal
from engine.image import ReservedKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from arch_x86.isa.insn import Insn
    from arch_x86.probes.code import CodeCache, FunctionCode

__all__ = ("OptimizePlan", "Unoptimizable", "can_optimize")


class Unoptimizable(StrEnum):
    """A reason says why a probe stays a breakpoint; this is the closed list of reasons."""

    NOT_PROBEABLE = "not-probeable"
    FTRACE_SITE = "ftrace-site"
    NO_ROOM = "no-room"
    EXCEPTION_TABLE = "exception-table"
    UNDECODABLE = "undecodable"
    INDIRECT_JUMP = "indirect-jump"
    JUMP_INTO_RANGE = "jump-into-range"
    FIRST_NOT_BOOSTABLE = "first-not-boostable"
    LATER_NOT_BOOSTABLE = "later-not-boostable"
    NOT_COPYABLE = "not-copyable"
    RESERVED_TEXT = "reserved-text"
    OUT_OF_REACH = "out-of-reach"
    NEIGHBOUR_PROBE = "neighbour-probe"


@dataclass(frozen=True, slots=True)
class OptimizePlan:
    """A plan says which instructions the jump at ``addr`` replaces.

    Their copies run in the detour buffer instead.

    :ivar insns: the replaced instructions.
    :ivar size: how many bytes they have, 5 to 19.
    """

    addr: int
    insns: tuple[Insn, ...]
    size: int

    @property
    def end(self) -> int:
        """Return the address behind the replaced instructions, to which the detour jumps back."""
        return self.addr + self.size


_RESERVED: Final = (
    ReservedKind.FTRACE,
    ReservedKind.FTRACE_SITE,
    ReservedKind.ALTERNATIVES,
    ReservedKind.JUMP_LABEL,
    ReservedKind.STATIC_CALL,
)


def can_optimize(
    cache: CodeCache,
    addr: int,
    is_probed: Callable[[int], bool] | None = None,
    *,
    jumps_in: bool = False,
    probeable: bool | None = None,
) -> OptimizePlan | Unoptimizable:
    """Return the plan for a probe at ``addr``, or the reason why there is none.

    :param is_probed: returns True when another enabled probe sits at an address; None does not ask.
    :param jumps_in: do not ask whether the function jumps into the range, as the safety step
        ``jump-range-check`` is left out.
    :param probeable: what :func:`can_probe` says, where that is known; None asks.
    """
    if not (can_probe(cache, addr) if probeable is None else probeable):
        return Unoptimizable.NOT_PROBEABLE
    if is_ftrace_site(cache, addr):
        return Unoptimizable.FTRACE_SITE
    function = cache.function_at(addr)
    if function is None:
        return Unoptimizable.NOT_PROBEABLE
    if function.end - addr < JMP32_SIZE:
        return Unoptimizable.NO_ROOM
    refusal = _function_refusal(cache, function, addr)
    if jumps_in and refusal is Unoptimizable.JUMP_INTO_RANGE:
        refusal = None
    return refusal or _plan(cache, addr, is_probed)


def _function_refusal(cache: CodeCache, function: FunctionCode, addr: int) -> Unoptimizable | None:
    """Return the reason that the whole function has against a jump at ``addr``, or None.

    No CPU may arrive inside of the jump's bytes. So it must be known of the whole function where
    each of its jumps and fixups leads.
    """
    if cache.touches_exception_table(function):
        return Unoptimizable.EXCEPTION_TABLE
    if not function.decodable:
        return Unoptimizable.UNDECODABLE
    if cache.jumps_indirectly(function):
        return Unoptimizable.INDIRECT_JUMP
    # The last address lies behind the jump, where a CPU may arrive without harm. 6.1 counts it in.
    if function.jumps_into(addr + INT3_SIZE, addr + INT3_SIZE + DISP32_SIZE):
        return Unoptimizable.JUMP_INTO_RANGE
    return None


def _plan(
    cache: CodeCache, addr: int, is_probed: Callable[[int], bool] | None
) -> OptimizePlan | Unoptimizable:
    """Return the plan of a jump at ``addr``, or the reason why there is none.

    It takes whole instructions from ``addr`` on until the jump has room. A replaced instruction
    must be boostable, since no trap puts right what its copy leaves behind.
    """
    insns: list[Insn] = []
    size = 0
    while size < JMP32_SIZE:
        insn = cache.insn_at(addr + size)
        if insn is None or copy_refusal(insn) is not None:
            return Unoptimizable.NOT_COPYABLE
        if not can_boost(insn, in_exception_table=cache.in_exception_table(insn.addr)):
            return Unoptimizable.LATER_NOT_BOOSTABLE if insns else Unoptimizable.FIRST_NOT_BOOSTABLE
        insns.append(insn)
        size += insn.length
    # The address of the detour buffer is not known yet, so its whole area must be in reach: of the
    # jump at the site, of the jump back, and of the copies' operands.
    detours = cache.areas.detours
    if not (
        lies_in_reach(addr + JMP32_SIZE, detours)
        and lies_in_reach(addr + size, detours)
        and copies_reach(insns, detours)
    ):
        return Unoptimizable.OUT_OF_REACH
    # The kernel patches this text itself, and relies on the instruction boundaries there.
    if cache.image.reserved and any(
        cache.reserved[kind].overlaps(addr, size) for kind in _RESERVED
    ):
        return Unoptimizable.RESERVED_TEXT
    # The jump would overwrite the other probe's breakpoint.
    if is_probed is not None and any(is_probed(addr + offset) for offset in range(1, size)):
        return Unoptimizable.NEIGHBOUR_PROBE
    return OptimizePlan(addr, tuple(insns), size)
