"""What the arch layer hangs on a probe: struct arch_specific_insn and struct
arch_optimized_insn.
"""

from __future__ import annotations

from dataclasses import dataclass

from arch_x86.isa.insn import Insn
from arch_x86.probes.detour import Detour

__all__ = ("Ainsn", "OptInsn")


@dataclass(frozen=True, slots=True)
class Ainsn:
    """The probed instruction as it was, and its copy at ``slot``; ``boosted``: the copy that ends
    in a jump back, which may be the same one, or None.
    """

    insn: Insn
    slot: int
    boosted: int | None

    @property
    def boostable(self) -> bool:
        """There is a copy that ends in a jump back."""
        return self.boosted is not None

    @property
    def opcode(self) -> bytes:
        """The byte that the breakpoint replaces."""
        return self.insn.raw[:1]


@dataclass(frozen=True, slots=True)
class OptInsn:
    """A prepared detour buffer. ``size``: bytes of whole instructions copied. ``original``: the 5
    bytes that the jump replaces.
    """

    detour: Detour
    size: int
    original: bytes
    jump: bytes

    @property
    def copied(self) -> int:
        """Address of the copied instructions in the detour buffer."""
        return self.detour.addr + self.detour.copied_start
