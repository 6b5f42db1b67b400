"""This module runs an instruction that is not boosted (arch/x86/kernel/kprobes/core.c).

It answers to setup_singlestep() and to resume_execution(), or resume_singlestep() since v5.13.
There are two ways: 2.6.38 steps the copy by TF, and v5.13 and later run the copy into a second
int3, and emulate what does not arrive there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from arch_x86.isa.constants import ADDRESS_MASK, FLAG_IF, FLAG_TF, INT3_SIZE
from arch_x86.isa.insn import NO_QUIRKS, QUIRKS_6_1
from arch_x86.probes.emulate import StackMemory, emulate
from arch_x86.probes.prepare_emulation import Emulation, emulation_of
from arch_x86.probes.ptregs import PtRegs
from arch_x86.probes.records import Ainsn
from arch_x86.probes.singlestep import changes_interrupt_flag, fixup_after_step
from engine.core.profiles import Profile
from engine.kprobe import Kprobe, KprobeStatus

__all__ = ("Int3Stepping", "KprobeCtlblk", "Stepping", "TrapFlagStepping", "stepping_for")


_STEPPING: Final = (KprobeStatus.HIT_SS, KprobeStatus.REENTER)


@dataclass(slots=True)
class KprobeCtlblk:
    """This record is one CPU's hit in progress (struct kprobe_ctlblk, current_kprobe).

    :ivar current: the probe that was hit, or None.
    :ivar status: how far the hit has come.
    :ivar old_flags: TF and IF as they were at the hit, for flags that the step pushes and for a
        fault.
    :ivar saved_flags: TF and IF as they are to be behind the step.
    :ivar prev: the hits that a miss has interrupted while its instruction is stepped, oldest first:
        probe, status, ``old_flags`` and ``saved_flags`` of each.
    :ivar instance: of an aggregator, the probe whose handler runs (kprobe_instance).
    :ivar jprobe: pt_regs and the top words of the stack of the function whose jumper probe runs, or
        None.
    """

    current: Kprobe | None = None
    status: KprobeStatus = KprobeStatus.HIT_ACTIVE
    old_flags: int = 0
    saved_flags: int = 0
    prev: tuple[tuple[Kprobe | None, KprobeStatus, int, int], ...] = ()
    instance: Kprobe | None = None
    jprobe: tuple[bytes, tuple[int, ...]] | None = None

    @property
    def left_stepping(self) -> bool:
        """Return whether the last hit is over, though its status says that its step is not."""
        return self.current is None and self.status in _STEPPING

    def saved(self) -> tuple[Any, ...]:
        """Return all fields, for :meth:`restore`."""
        return (
            self.current,
            self.status,
            self.old_flags,
            self.saved_flags,
            self.prev,
            self.instance,
            self.jprobe,
        )

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Set all fields to what :meth:`saved` has returned."""
        (
            self.current,
            self.status,
            self.old_flags,
            self.saved_flags,
            self.prev,
            self.instance,
            self.jprobe,
        ) = saved


class Stepping(Protocol):
    """This protocol says how the instruction of a hit runs.

    In each method ``ainsn`` is the probe's record of its copies.
    """

    def wants_jump_back(self, p: Kprobe) -> bool:
        """Return True when the copy of ``p`` should end in a jump back, where it may."""
        ...

    def boosts(self, p: Kprobe) -> bool:
        """Return True when a hit on ``p`` runs the copy that ends in a jump back."""
        ...

    def emulates(self, ainsn: Ainsn) -> Emulation | None:
        """Return how a hit that is not boosted is emulated, or None when it is stepped."""
        ...

    def begin(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Send the CPU to the copy, or emulate the instruction and return True."""
        ...

    def step_ended(self, ainsn: Ainsn, regs: PtRegs, *, by_int3: bool) -> bool:
        """Return True when this trap is the end of the step of ``ainsn``.

        :param by_int3: the trap is #BP, else #DB.
        """
        ...

    def step_faulted(self, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Return True when a fault during the step of ``ainsn`` counts as that instruction's.

        Otherwise it is a fault of what an NMI runs meanwhile.
        """
        ...

    def resume(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> None:
        """Put right what the copy's address has left in ``regs`` and on the stack."""
        ...


class TrapFlagStepping:
    """This class steps the copy by TF, as 2.6.38 does.

    The trap behind the copy is #DB. What depends on the copy's address is put right afterwards.
    """

    def __init__(self, memory: StackMemory) -> None:
        self._memory = memory

    def wants_jump_back(self, p: Kprobe) -> bool:
        """Return True, since each hit decides whether to use the jump back."""
        del p
        return True

    def boosts(self, p: Kprobe) -> bool:
        """Return True for a boostable copy, unless the probe has a post_handler.

        A post_handler needs the trap behind the copy.
        """
        ainsn: Ainsn = p.ainsn
        return ainsn.boostable and p.post_handler is None

    def emulates(self, ainsn: Ainsn) -> Emulation | None:
        """Return None, since 2.6.38 emulates nothing."""
        del ainsn
        return None

    def begin(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Set TF, clear IF, and send the CPU to the copy; return False.

        IF is clear so that no interrupt comes in the middle of the step.
        """
        block.saved_flags = block.old_flags = regs.flags & (FLAG_TF | FLAG_IF)
        if changes_interrupt_flag(ainsn.insn):
            block.saved_flags &= ~FLAG_IF
        regs.flags = (regs.flags | FLAG_TF) & ~FLAG_IF
        regs.ip = ainsn.slot
        return False

    def step_ended(self, ainsn: Ainsn, regs: PtRegs, *, by_int3: bool) -> bool:
        """Return True for #DB: the next one is the end of the step."""
        del ainsn, regs
        return not by_int3

    def step_faulted(self, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Return True, since the kernel asks for the status of the hit alone."""
        del ainsn, regs
        return True

    def resume(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> None:
        """Put right RIP, the flags, and a return address or flags that the copy pushed."""
        fixup = fixup_after_step(ainsn.insn)
        regs.flags &= ~FLAG_TF
        delta = ainsn.insn.addr - ainsn.slot
        if fixup.pushed_flags:
            top = (self._memory.read_u64(regs.sp) or 0) & ~(FLAG_TF | FLAG_IF)
            self._memory.write(regs.sp, (top | block.old_flags).to_bytes(8, "little"))
        if fixup.return_address:
            top = self._memory.read_u64(regs.sp) or 0
            self._memory.write(regs.sp, (top + delta & ADDRESS_MASK).to_bytes(8, "little"))
        if fixup.relative_ip:
            regs.ip = regs.ip + delta & ADDRESS_MASK
        regs.flags |= block.saved_flags


class Int3Stepping:
    """This class runs the copy into a second int3, as Linux does since v5.13.

    Branches and what touches IF are emulated. The rest runs with IF clear.

    A copy ends in a jump back only if the probe that prepared it had no post_handler, so that a
    post_handler which joins later is never called (6.1).

    :param memory: the memory in which the stacks lie.
    :param warts: emulate with the faults of Linux 6.1.
    :param both: each slot has both copies, so that each hit asks for a post_handler.
    """

    def __init__(self, memory: StackMemory, *, warts: bool, both: bool = False) -> None:
        self._memory = memory
        self._warts = warts
        self._both = both
        self._quirks = QUIRKS_6_1 if warts else NO_QUIRKS

    def wants_jump_back(self, p: Kprobe) -> bool:
        """Return True unless the first probe there has a post_handler; with both copies always."""
        return self._both or p.post_handler is None

    def boosts(self, p: Kprobe) -> bool:
        """Return True where a copy ends in a jump back.

        Where there is another copy, it is not used if the probe has a post_handler, which needs the
        trap.
        """
        ainsn: Ainsn = p.ainsn
        return ainsn.boostable and not (self._both and p.post_handler is not None)

    def emulates(self, ainsn: Ainsn) -> Emulation | None:
        """Return how branches, pushf, popf, cli and sti are emulated; None for all others."""
        return emulation_of(ainsn.insn, self._quirks)

    def begin(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Emulate the instruction and return True, or clear IF and send the CPU to the copy."""
        block.saved_flags = block.old_flags = regs.flags & FLAG_IF
        kind = self.emulates(ainsn)
        if kind is not None:
            emulate(kind, ainsn.insn, regs, self._memory, warts=self._warts)
            return True
        regs.flags &= ~FLAG_IF
        regs.ip = ainsn.slot
        return False

    def step_ended(self, ainsn: Ainsn, regs: PtRegs, *, by_int3: bool) -> bool:
        """Return True for an int3 right behind the copy."""
        return by_int3 and regs.ip == ainsn.slot + ainsn.insn.length + INT3_SIZE

    def step_faulted(self, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Return True for a fault at the copy, since the kernel asks for RIP."""
        return regs.ip == ainsn.slot

    def resume(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> None:
        """Put back IF, and move RIP from behind the second int3 to behind the original."""
        regs.flags |= block.saved_flags
        regs.ip = ainsn.insn.end


def stepping_for(profile: Profile, memory: StackMemory) -> Stepping:
    """Return the stepping of ``profile``, for stacks in ``memory``."""
    if profile.steps_by_int3:
        return Int3Stepping(memory, warts=profile.emulation_warts, both=profile.slot_has_both)
    return TrapFlagStepping(memory)
