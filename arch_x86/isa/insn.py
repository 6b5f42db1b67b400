"""One decoded x86-64 instruction. Answers to ``struct insn`` (arch/x86/include/asm/insn.h)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.isa.disasm import disassemble

__all__ = ("NO_QUIRKS", "QUIRKS_6_1", "Branch", "Insn", "KernelQuirks")


@dataclass(frozen=True, slots=True)
class KernelQuirks:
    """Where Linux 6.1 reads instructions otherwise than hardware does. Each can be mended on its
    own.
    """

    # : A mandatory prefix that selects no form of an opcode leaves it without ModRM: ``f2``/``f3``
    # before CMOVcc and SETcc : opcodes that are mask-register opcodes under VEX. Hardware ignores
    # such a prefix.
    absent_forms: bool = True
    # : MOV to and from control and debug registers with mod != 3 has a memory operand. Hardware
    # ignores mod.
    control_register_memory: bool = True
    # : The opcode byte of a VEX instruction is taken for the one-byte opcode of the same value by
    # the rules for emulating and for : finding jumps: ``vzeroupper`` (77) passes for ``ja``.
    # (Boosting and refusing copies go by that byte in any case: that is harmless.)
    vex_as_legacy: bool = True


QUIRKS_6_1: Final = KernelQuirks()
NO_QUIRKS: Final = KernelQuirks(
    absent_forms=False, control_register_memory=False, vex_as_legacy=False
)


class Branch(Enum):
    """How an instruction changes the flow of control (SDM vol. 1, 7.3.8)."""

    NONE = auto()
    JMP = auto()
    JCC = auto()
    CALL = auto()
    LOOP = auto()  # LOOP, LOOPE, LOOPNE, JRCXZ
    RET = auto()
    JMP_INDIRECT_REG = auto()
    JMP_INDIRECT_MEM = auto()
    CALL_INDIRECT_REG = auto()
    CALL_INDIRECT_MEM = auto()
    JMP_FAR = auto()
    CALL_FAR = auto()
    RET_FAR = auto()
    IRET = auto()
    INT = auto()  # INT3, INT n, INTO, INT1, UD
    SYSCALL = auto()  # SYSCALL, SYSENTER
    SYSRET = auto()  # SYSRET, SYSEXIT
    XBEGIN = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Insn:
    """``length`` bytes at ``addr``. Offsets count from the first byte; a field with size 0 is
    absent.

    ``prefixes``: legacy prefixes in order. ``rex``: 0 if none. ``opcode``: with its escapes, 1 to 3
    bytes; a VEX instruction has the opcode byte alone, and its map in ``vex_map``. ``target``: of
    relative branches only, absolute.
    """

    addr: int
    length: int
    raw: bytes
    prefixes: bytes
    rex: int
    vex: bool
    vex_map: int
    opcode: bytes
    modrm: int | None
    disp_offset: int
    disp_size: int
    imm_offset: int
    imm_size: int
    rip_relative: bool
    branch: Branch
    target: int | None
    forced_emulation: bool = (
        False  # behind the 5 bytes by which Xen and KVM guests ask for emulation
    )

    @property
    def end(self) -> int:
        """Address of the byte behind the instruction."""
        return self.addr + self.length

    @property
    def mod(self) -> int:
        """ModRM.mod, 0 without ModRM."""
        return (self.modrm or 0) >> 6

    @property
    def reg(self) -> int:
        """ModRM.reg without REX.R, 0 without ModRM: the ``/digit`` of groups."""
        return (self.modrm or 0) >> 3 & 7

    @property
    def rm(self) -> int:
        """ModRM.rm without REX.B, 0 without ModRM."""
        return (self.modrm or 0) & 7

    @property
    def displacement(self) -> int:
        """Signed displacement, 0 if absent."""
        return int.from_bytes(
            self.raw[self.disp_offset : self.disp_offset + self.disp_size], "little", signed=True
        )

    @property
    def immediate(self) -> int:
        """Signed immediate (the first of two), 0 if absent."""
        return int.from_bytes(
            self.raw[self.imm_offset : self.imm_offset + self.imm_size], "little", signed=True
        )

    @property
    def memory_address(self) -> int | None:
        """What a RIP-relative operand refers to, None for every other operand."""
        return self.end + self.displacement & ADDRESS_MASK if self.rip_relative else None

    @property
    def text(self) -> str:
        """Intel syntax; ``.byte ...`` for encodings that the disassembler does not know."""
        return disassemble(self.raw, self.addr)
