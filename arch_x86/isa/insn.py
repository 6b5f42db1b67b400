"""This module has a decoded instruction's record (struct insn in arch/x86/include/asm/insn.h)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.isa.disasm import disassemble

__all__ = ("NO_QUIRKS", "QUIRKS_6_1", "Branch", "Insn", "KernelQuirks")


@dataclass(frozen=True, slots=True)
class KernelQuirks:
    """This record says where Linux 6.1 reads instructions otherwise than hardware does.

    Each quirk can be mended by itself.
    """

    # A mandatory prefix that selects no form of an opcode leaves the opcode without ModRM. This
    # concerns ``f2`` and ``f3`` in front of the CMOVcc and SETcc opcodes that are mask-register
    # opcodes under VEX. Hardware ignores such a prefix.
    absent_forms: bool = True
    # MOV to and from control and debug registers has a memory operand where mod is not 3. Hardware
    # ignores mod.
    control_register_memory: bool = True
    # The rules for emulating and for finding jumps take the opcode byte of a VEX instruction for
    # the one-byte opcode of the same value, so that ``vzeroupper`` (77) passes for ``ja``. Boosting
    # and refusing copies go by that byte in any case, which does no harm.
    vex_as_legacy: bool = True


QUIRKS_6_1: Final = KernelQuirks()
NO_QUIRKS: Final = KernelQuirks(
    absent_forms=False, control_register_memory=False, vex_as_legacy=False
)


class Branch(Enum):
    """A kind of branch says how an instruction changes the flow of control (SDM vol. 1, 7.3.8)."""

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
    """This record is one decoded instruction: ``length`` bytes at ``addr``.

    Offsets are in bytes from the first byte of the instruction. A field with size 0 is absent.

    :ivar prefixes: the legacy prefixes in their order.
    :ivar rex: the REX prefix, 0 where there is none.
    :ivar opcode: the opcode with its escapes, 1 to 3 bytes; of a VEX instruction the opcode byte
        alone, whose map is ``vex_map``.
    :ivar target: the absolute address that a relative branch leads to, None for every other
        instruction.
    :ivar forced_emulation: True behind the 5 bytes by which Xen and KVM guests ask the hypervisor
        to emulate.
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
    forced_emulation: bool = False

    @property
    def end(self) -> int:
        """Return the address of the byte behind the instruction."""
        return self.addr + self.length

    @property
    def mod(self) -> int:
        """Return ModRM.mod, 0 without ModRM."""
        return (self.modrm or 0) >> 6

    @property
    def reg(self) -> int:
        """Return ModRM.reg without REX.R, the ``/digit`` of opcode groups; 0 without ModRM."""
        return (self.modrm or 0) >> 3 & 7

    @property
    def rm(self) -> int:
        """Return ModRM.rm without REX.B, 0 without ModRM."""
        return (self.modrm or 0) & 7

    @property
    def displacement(self) -> int:
        """Return the signed displacement, 0 where there is none."""
        return int.from_bytes(
            self.raw[self.disp_offset : self.disp_offset + self.disp_size], "little", signed=True
        )

    @property
    def immediate(self) -> int:
        """Return the signed immediate, the first of two, or 0 where there is none."""
        return int.from_bytes(
            self.raw[self.imm_offset : self.imm_offset + self.imm_size], "little", signed=True
        )

    @property
    def memory_address(self) -> int | None:
        """Return the address that a RIP-relative operand refers to, None for any other operand."""
        return self.end + self.displacement & ADDRESS_MASK if self.rip_relative else None

    @property
    def text(self) -> str:
        """Return the instruction in Intel syntax; ``.byte ...`` where capstone does not know it."""
        return disassemble(self.raw, self.addr)
