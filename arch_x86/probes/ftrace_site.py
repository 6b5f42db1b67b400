"""This module says what stands at ftrace locations, as arch/x86/kernel/ftrace.c does (v6.1).

It answers to ftrace_modify_code_direct(), ftrace_replace_code(), and arch_prepare_kprobe_ftrace()
(arch/x86/kernel/kprobes/ftrace.c). A kernel turns each ``call __fentry__`` into a 5-byte no-op when
it loads code. A probe then turns the no-op into a call of a trampoline, and its end turns that into
the no-op again. Here code runs as the image has it, so without an armed probe the image's bytes
stand at the site: the no-op, or the call of ``__fentry__``, which returns at once.

While a probe is armed, the call of the trampoline stands there, in as many bytes and as one
instruction, since a task may be about to return behind it when the original comes back.
``text_poke_bp`` writes all of this: a CPU that hits the breakpoint which stands there meanwhile
goes on as if the new instruction had been executed (poke_int3_handler).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arch_x86.isa.encode import CALL32_SIZE, call32
from arch_x86.isa.onward import Onward
from arch_x86.text.poke import TextPokeParam

if TYPE_CHECKING:
    from collections.abc import Callable

    from arch_x86.isa.insn import Insn

__all__ = ("FTRACE_SIZE_MAX", "FtraceInsn", "ftrace_insn")

FTRACE_SIZE_MAX: Final = 6
"""The longest instruction that ftrace replaces here has this many bytes."""

_ADDR32: Final = b"\x67"


@dataclass(frozen=True, slots=True)
class FtraceInsn:
    """This record is what a probe on an ftrace location has in place of a copy.

    The kernel has nothing there: ``p->ainsn.insn`` is NULL. The properties ``boostable`` and
    ``slot`` are there as in any probe's record.

    :ivar insn: the instruction at the site while no probe is armed.
    :ivar call: the bytes of the call of ``trampoline`` that takes its place.
    :ivar trampoline: the address of the trampoline.
    """

    insn: Insn
    call: bytes
    trampoline: int

    @property
    def boostable(self) -> bool:
        """Return False: there is no copy that could end in a jump back."""
        return False

    @property
    def slot(self) -> int:
        """Return 0: there is no slot."""
        return 0

    @property
    def end(self) -> int:
        """Return the address behind the site, to which the trampoline returns."""
        return self.insn.end

    def arming(self) -> TextPokeParam:
        """Return the poke that puts the call in.

        A CPU that hits the poke's breakpoint enters the trampoline, with the address behind the
        site as return address.
        """
        at = self.insn.addr
        goes_on = Onward(self.trampoline, self.end)
        return TextPokeParam(at, self.call, f"ftrace: arm {at:#x}", goes_on)

    def disarming(self, read_u64: Callable[[int], int | None]) -> TextPokeParam:
        """Return the poke that puts the original instruction back.

        A CPU that hits the poke's breakpoint goes on as the original would: behind a no-op, or
        where a call leads. A call through a word that is not mapped would fault; there the CPU goes
        on behind it.

        :param read_u64: returns the word at an address, or None where no memory is mapped.
        """
        insn = self.insn
        target = insn.target
        if target is None and insn.memory_address is not None:
            target = read_u64(insn.memory_address)
        reason = f"ftrace: disarm {insn.addr:#x}"
        if target is None:
            return TextPokeParam(insn.addr, insn.raw, reason, Onward(self.end, None))
        return TextPokeParam(insn.addr, insn.raw, reason, Onward(target, self.end))


def ftrace_insn(insn: Insn, trampoline: int) -> FtraceInsn:
    """Return the record for a probe on ``insn``, which ``is_patchable()`` has accepted.

    :raises RelativeRangeError: ``trampoline`` is out of reach.
    """
    # The prefix means nothing in a relative call. It makes the call as long as the original.
    prefix = _ADDR32[: insn.length - CALL32_SIZE]
    return FtraceInsn(insn, prefix + call32(insn.addr + len(prefix), trampoline), trampoline)
