"""This module builds detour buffers and writes jumps (arch/x86/kernel/kprobes.c, 2.6.38).

It answers to arch_prepare_optimized_kprobe(), arch_remove_optimized_kprobe(),
arch_check_optimized_kprobe(), arch_optimize_kprobes() and arch_unoptimize_kprobe().
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arch_x86.isa.constants import INT3, JMP32_SIZE
from arch_x86.isa.encode import jmp32
from arch_x86.isa.onward import Onward
from arch_x86.probes.copies import DETOUR_SIZE, Copies
from arch_x86.probes.detour import Detour, build_detour
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from arch_x86.probes.records import OptInsn
from arch_x86.text.poke import PokeProtocol, TextPokeParam
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug, KprobeError
from engine.kprobe import AggrKprobe, Kprobe

if TYPE_CHECKING:
    from arch_x86.probes.code import CodeCache
    from engine.core.profiles import Profile

__all__ = ("OptimizedSites",)


class OptimizedSites:
    """This class has the optimized probes of one machine.

    :param code: the functions of the image.
    :param copies: the slots and detour buffers.
    :param poke: the poke protocol, by which all bytes are written.
    :param profile: says which safety steps are taken.
    :param callback: the address of the stub that a detour buffer calls.
    :param copied: is told the address and bytes of each copied instruction before it is written.
    :param red_zone: detour buffers skip the red zone.
    """

    def __init__(
        self,
        code: CodeCache,
        copies: Copies,
        poke: PokeProtocol,
        profile: Profile,
        callback: int,
        copied: Callable[[int, bytes], None],
        *,
        red_zone: bool,
    ) -> None:
        self._code = code
        self._copies = copies
        self._poke = poke
        self._profile = profile
        self._callback = callback
        self._copied = copied
        self._red_zone = red_zone

    def prepare(self, op: AggrKprobe) -> None:
        """Build the detour buffer of ``op``, where its site can be optimized.

        Where it cannot, or no detour buffer is free or in reach, the probe stays a breakpoint, as
        in the kernel.
        """
        plan = can_optimize(
            self._code, op.at, jumps_in=not self._profile.has(SafetyStep.JUMP_RANGE_CHECK)
        )
        if not isinstance(plan, OptimizePlan):
            return
        detours = self._copies.detours
        try:
            at = detours.get()
        except KprobeError:  # The area is full.
            return
        try:
            detour = build_detour(
                plan, at, op_id=op.op_id, callback=self._callback, red_zone=self._red_zone
            )
            jump = jmp32(op.at, at)
        except KprobeError:  # A 32-bit displacement does not reach.
            detours.free(at, dirty=False)
            return
        if len(detour.code) > DETOUR_SIZE:
            raise EngineBug(
                f"a detour buffer of {len(detour.code)} bytes; {DETOUR_SIZE} are reserved"
            )
        self._announce_copies(plan, detour)
        self._poke.text_poke(at, detour.code, f"detour buffer of {op.at:#x}")
        original = b"".join(insn.raw for insn in plan.insns)[:JMP32_SIZE]
        op.optinsn = OptInsn(detour, plan.size, original, jump)
        self._copies.owner[at] = op

    def _announce_copies(self, plan: OptimizePlan, detour: Detour) -> None:
        """Tell ``copied`` of each copied instruction, before the buffer is written."""
        offset = detour.copied_start
        for insn in plan.insns:
            self._copied(detour.addr + offset, detour.code[offset : offset + insn.length])
            offset += insn.length

    def remove(self, op: AggrKprobe) -> None:
        """Fill the detour buffer of ``op`` with breakpoints, and free it.

        It is freed as dirty: no trap tells that a CPU has left it, so it is not used again before a
        grace period.
        """
        if op.optinsn is None:
            return
        optinsn: OptInsn = op.optinsn
        at = optinsn.detour.addr
        self._poke.text_poke(at, INT3 * DETOUR_SIZE, f"freed detour buffer of {op.at:#x}")
        del self._copies.owner[at]
        op.optinsn = None
        self._copies.detours.free(at, dirty=True)

    def check(self, op: AggrKprobe, get_kprobe: Callable[[int], Kprobe | None]) -> bool:
        """Return False while another probe stands inside of the replaced bytes of ``op``.

        The jump would overwrite that probe's breakpoint or jump. In kernels with f1c97a1b4ef7 a
        disabled probe counts, too, while it waits on a list of the optimizer, since its own jump
        may still stand there.

        :param get_kprobe: returns the probe in the table at an address.
        """
        optinsn: OptInsn = op.optinsn
        if not self._profile.has(SafetyStep.NEIGHBOUR_CHECK):
            return True
        for offset in range(1, optinsn.size):
            other = get_kprobe(op.at + offset)
            if other is None:
                continue
            waits = self._profile.dying_blocks and isinstance(other, AggrKprobe) and other.queued
            if waits or not other.disabled:
                return False
        return True

    def optimize(self, ops: Sequence[AggrKprobe]) -> None:
        """Write the jumps of ``ops`` over their breakpoints, by one call of the poke protocol."""
        self._poke.text_poke_jumps(
            [
                TextPokeParam(
                    op.at,
                    op.optinsn.jump,
                    f"optimize {op.at:#x}",
                    Onward(op.optinsn.detour.addr, None),
                )
                for op in ops
            ]
        )

    def unoptimize(self, ops: Sequence[AggrKprobe], verb: str) -> None:
        """Write breakpoints, and the original bytes behind them, over the jumps of ``ops``.

        :param verb: how the timeline calls it.
        """
        self._poke.text_poke_breakpoints(
            [
                TextPokeParam(op.at, INT3 + op.optinsn.original[1:], f"{verb} {op.at:#x}")
                for op in ops
            ]
        )
