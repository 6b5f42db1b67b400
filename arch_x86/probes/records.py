"""This module has struct arch_specific_insn, arch_optimized_insn (arch/x86/include/asm/kprobes.h).

They are what the arch layer keeps with each probe.
"""

from __future__ import annotations

from dataclasses import dataclass

from arch_x86.isa.insn import Insn
from arch_x86.probes.detour import Detour

__all__ = ("Ainsn", "OptInsn")


@dataclass(frozen=True, slots=True)
class Ainsn:
    """This record is the probed instruction and its copies (struct arch_specific_insn).

    :ivar insn: the instruction as it was before it was probed.
    :ivar slot: the address of its copy.
    :ivar boosted: the address of the copy that ends in a jump back, which may be the same one, or
        None.
    """

    insn: Insn
    slot: int
    boosted: int | None

    @property
    def boostable(self) -> bool:
        """Return True when there is a copy that ends in a jump back."""
        return self.boosted is not None

    @property
    def opcode(self) -> bytes:
        """Return the byte that the breakpoint replaces."""
        return self.insn.raw[:1]


@dataclass(frozen=True, slots=True)
class OptInsn:
    """This record is a detour buffer that is ready (struct arch_optimized_insn).

    :ivar detour: the detour buffer.
    :ivar size: how many bytes the copied whole instructions have.
    :ivar original: the 5 bytes that the jump replaces.
    :ivar jump: the 5 bytes of the jump.
    """

    detour: Detour
    size: int
    original: bytes
    jump: bytes

    @property
    def copied(self) -> int:
        """Return the address of the copied instructions in the detour buffer."""
        return self.detour.addr + self.detour.copied_start
