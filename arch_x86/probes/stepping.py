"""The two ways to run a probed instruction that can't be boosted: TF (2.6.38), or a second int3 and
emulation (since v5.13).

Answers to setup_singlestep() and resume_execution()/resume_singlestep() in
arch/x86/kernel/kprobes/core.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(slots=True)
class KprobeCtlblk:
    """One CPU's hit in progress (struct kprobe_ctlblk, current_kprobe and kprobe_instance).

    ``prev``: the hits that others interrupted which are missed and stepped, oldest first: probe,
    status, ``old_flags``, ``saved_flags``. ``jprobe``: pt_regs and top words of the stack of the
    function whose jumper probe runs.
    """

    current: Kprobe | None = None
    status: KprobeStatus = KprobeStatus.HIT_ACTIVE
    old_flags: int = 0
    saved_flags: int = 0
    prev: tuple[tuple[Kprobe | None, KprobeStatus, int, int], ...] = ()
    instance: Kprobe | None = None
    jprobe: tuple[bytes, tuple[int, ...]] | None = None

    def saved(self) -> tuple[Any, ...]:
        """For :meth:`restore`."""
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
        """As it was."""
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
    """How the instruction of a hit runs. ``ainsn`` is the probe's prepared copy."""

    def wants_jump_back(self, p: Kprobe) -> bool:
        """Whether the copy of ``p`` should end in a jump back, where it may."""
        ...

    def boosts(self, p: Kprobe) -> bool:
        """Whether a hit on ``p`` runs the copy and its jump back."""
        ...

    def emulates(self, ainsn: Ainsn) -> Emulation | None:
        """How a hit that is not boosted is emulated, None when it is stepped."""
        ...

    def begin(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Send the CPU to the copy; True when the instruction is done already."""
        ...

    def step_ended(self, ainsn: Ainsn, regs: PtRegs, *, by_int3: bool) -> bool:
        """Whether this trap is the end of the step of ``ainsn``."""
        ...

    def step_faulted(self, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Whether a fault that comes while ``ainsn`` is stepped counts as its own; else it is that
        of what an NMI runs meanwhile.
        """
        ...

    def resume(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> None:
        """Put right what the copy's address left in ``regs`` and on the stack."""
        ...


class TrapFlagStepping:
    """2.6.38: TF steps the copy; the trap behind it is #DB; what depends on the copy's address is
    put right afterwards.
    """

    def __init__(self, memory: StackMemory) -> None:
        self._memory = memory

    def wants_jump_back(self, p: Kprobe) -> bool:
        """Always: whether it is used is decided at each hit."""
        del p
        return True

    def boosts(self, p: Kprobe) -> bool:
        """Unless somebody wants a post_handler."""
        ainsn: Ainsn = p.ainsn
        return ainsn.boostable and p.post_handler is None

    def emulates(self, ainsn: Ainsn) -> Emulation | None:
        """Nothing is."""
        del ainsn
        return None

    def begin(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> bool:
        """TF on, IF off, on to the copy."""
        block.saved_flags = block.old_flags = regs.flags & (FLAG_TF | FLAG_IF)
        if changes_interrupt_flag(ainsn.insn):
            block.saved_flags &= ~FLAG_IF
        regs.flags = (regs.flags | FLAG_TF) & ~FLAG_IF
        regs.ip = ainsn.slot
        return False

    def step_ended(self, ainsn: Ainsn, regs: PtRegs, *, by_int3: bool) -> bool:
        """The next #DB is it."""
        del ainsn, regs
        return not by_int3

    def step_faulted(self, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Always: only the status of the hit is asked, as in the kernel."""
        del ainsn, regs
        return True

    def resume(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> None:
        """Flags, a pushed return address, pushed flags, RIP."""
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
    """Since v5.13: branches and what touches IF are emulated, the rest runs into a second int3
    behind the copy, with IF off.

    A copy ends in a jump back only if the probe that prepared it had no post_handler; one that
    joins later is never called (6.1). With ``both`` copies in each slot it is asked at each hit.
    """

    def __init__(self, memory: StackMemory, *, warts: bool, both: bool = False) -> None:
        self._memory = memory
        self._warts = warts
        self._both = both
        self._quirks = QUIRKS_6_1 if warts else NO_QUIRKS

    def wants_jump_back(self, p: Kprobe) -> bool:
        """Unless the first probe there has a post_handler."""
        return self._both or p.post_handler is None

    def boosts(self, p: Kprobe) -> bool:
        """Wherever the copy ends in a jump back; where there is another one, unless somebody wants
        a post_handler.
        """
        ainsn: Ainsn = p.ainsn
        return ainsn.boostable and not (self._both and p.post_handler is not None)

    def emulates(self, ainsn: Ainsn) -> Emulation | None:
        """Branches, pushf, popf, cli, sti."""
        return emulation_of(ainsn.insn, self._quirks)

    def begin(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> bool:
        """Emulate, or IF off and on to the copy."""
        block.saved_flags = block.old_flags = regs.flags & FLAG_IF
        kind = self.emulates(ainsn)
        if kind is not None:
            emulate(kind, ainsn.insn, regs, self._memory, warts=self._warts)
            return True
        regs.flags &= ~FLAG_IF
        regs.ip = ainsn.slot
        return False

    def step_ended(self, ainsn: Ainsn, regs: PtRegs, *, by_int3: bool) -> bool:
        """An int3 right behind the copy."""
        return by_int3 and regs.ip == ainsn.slot + ainsn.insn.length + INT3_SIZE

    def step_faulted(self, ainsn: Ainsn, regs: PtRegs) -> bool:
        """One at the copy, as the kernel asks for RIP."""
        return regs.ip == ainsn.slot

    def resume(self, block: KprobeCtlblk, ainsn: Ainsn, regs: PtRegs) -> None:
        """IF, and RIP from behind the second int3 to behind the original."""
        regs.flags |= block.saved_flags
        regs.ip = ainsn.insn.end


def stepping_for(profile: Profile, memory: StackMemory) -> Stepping:
    """The profile's way."""
    if profile.steps_by_int3:
        return Int3Stepping(memory, warts=profile.emulation_warts, both=profile.slot_has_both)
    return TrapFlagStepping(memory)
