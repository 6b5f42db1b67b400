"""Plain probes: instructions copied to slots, breakpoints written and taken back, ftrace's calls.
Answers to arch_prepare_kprobe() and its siblings in arch/x86/kernel/kprobes.c (2.6.38).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from arch_x86.isa.constants import INT3
from arch_x86.probes.boost import is_boostable
from arch_x86.probes.copies import COPY_SIZE, Copies
from arch_x86.probes.ftrace_site import FtraceInsn, ftrace_insn
from arch_x86.probes.records import Ainsn
from arch_x86.probes.slot import build_slot
from arch_x86.text.poke import PokeProtocol, TextPokeParam
from engine.errors import EngineBug, KprobeError
from engine.kprobe import Kprobe

if TYPE_CHECKING:
    from arch_x86.probes.code import CodeCache
    from arch_x86.probes.emulate import StackMemory
    from arch_x86.probes.stepping import Stepping
    from engine.core.profiles import Profile
    from engine.image import Image

__all__ = ("PlainSites",)


class PlainSites:
    """The sites of one machine's probes, optimized or not.

    :param image: holds data that is not in ``memory``.
    :param copied: called with the address and bytes of each copied instruction before it is
        written.
    :param ftrace_caller: the address of ftrace's trampoline.
    """

    def __init__(
        self,
        image: Image,
        code: CodeCache,
        copies: Copies,
        poke: PokeProtocol,
        memory: StackMemory,
        stepping: Stepping,
        profile: Profile,
        copied: Callable[[int, bytes], None],
        ftrace_caller: int,
    ) -> None:
        self._image = image
        self._code = code
        self._copies = copies
        self._poke = poke
        self._memory = memory
        self._stepping = stepping
        self._profile = profile
        self._copied = copied
        self._ftrace_caller = ftrace_caller

    def prepare(self, p: Kprobe) -> None:
        """Copy the instruction of ``p`` to a slot, with a jump back behind it where it can be
        boosted. On an ftrace location nothing is copied.

        :raises KprobeError: the instruction can't be copied, or there is no room for another slot.
        """
        if p.ftrace:
            there = self._code.insn_at(p.at)
            assert there is not None
            p.ainsn = ftrace_insn(there, self._ftrace_caller)
            return
        function = self._code.function_at(p.at)
        insn = function.insn_at(p.at) if function is not None else None
        if insn is None:
            raise EngineBug(f"no instruction at {p.at:#x}, though a probe may go there")
        boostable = (
            self._stepping.wants_jump_back(p)
            and not self._profile.preemption
            and is_boostable(self._code, p.at)
        )
        slots = self._copies.slots
        slot = slots.get()
        places = [(slot, boostable)]
        if self._profile.slot_has_both and boostable:
            places = [(slot, False), (slot + COPY_SIZE, True)]
        try:
            copies = [(at, build_slot(insn, at, jumps_back)) for at, jumps_back in places]
        except KprobeError:
            slots.free(slot, dirty=False)
            raise
        for at, copy in copies:
            self._copied(at, copy[: insn.length])
            self._poke.text_poke(at, copy, f"slot of {p.at:#x}")
        p.ainsn = Ainsn(insn, slot, places[-1][0] if boostable else None)
        self._copies.owner[slot] = p

    def remove(self, p: Kprobe) -> None:
        """Fill the slot of ``p`` with breakpoints and free it, if there still is one. A slot that
        ends in a jump back is dirty: no trap tells that a CPU has left it.
        """
        ainsn: Ainsn | FtraceInsn | None = p.ainsn
        if ainsn is None or isinstance(ainsn, FtraceInsn):
            p.ainsn = None
            return
        self._poke.text_poke(ainsn.slot, INT3 * self._copies.slot_size, f"freed slot of {p.at:#x}")
        del self._copies.owner[ainsn.slot]
        p.ainsn = None
        self._copies.slots.free(ainsn.slot, dirty=ainsn.boostable)

    def arm(self, ps: Sequence[Kprobe]) -> None:
        """Write the breakpoints of ``ps``, and ftrace's calls."""
        self._poke.text_poke_bytes(
            [TextPokeParam(p.at, INT3, f"arm {p.at:#x}") for p in ps if not p.ftrace]
        )
        self._poke.text_poke_jumps([p.ainsn.arming() for p in ps if p.ftrace])

    def disarm(self, ps: Sequence[Kprobe]) -> None:
        """Write the original first bytes back, and the instructions that ftrace's calls have
        replaced.
        """
        self._poke.text_poke_bytes(
            [TextPokeParam(p.at, p.ainsn.opcode, f"disarm {p.at:#x}") for p in ps if not p.ftrace]
        )
        self._poke.text_poke_jumps([p.ainsn.disarming(self._read_u64) for p in ps if p.ftrace])

    def _read_u64(self, addr: int) -> int | None:
        """Return the word at ``addr`` in data, writable or not; None: there is no data."""
        word = self._memory.read_u64(addr)
        if word is not None:
            return word
        data = self._image.read(addr, 8)
        return int.from_bytes(data, "little") if len(data) == 8 else None
