"""Random states that let an instruction do something: registers hold addresses where the
instruction takes them for addresses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random
from typing import Final

from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.isa.insn import Branch, Insn
from tests.equivalence.forms import address_of, rex_bits
from tests.equivalence.world import Area, Places

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
_R15 = 15
# CF PF AF ZF SF DF OF, IF, IOPL, NT, AC, ID; not TF: then the guest would be single-stepping
# itself.
FLAGS_MASK: Final = 0x0008D5 | 1 << 10 | 1 << 9 | 3 << 12 | 1 << 14 | 1 << 18 | 1 << 21
_STRING: Final = frozenset((*range(0xA4, 0xA8), *range(0xAA, 0xB0)))
_INDIRECT: Final = frozenset(
    (
        Branch.CALL_INDIRECT_REG,
        Branch.JMP_INDIRECT_REG,
        Branch.CALL_INDIRECT_MEM,
        Branch.JMP_INDIRECT_MEM,
    )
)
_BIT_TESTS: Final = frozenset(bytes((0x0F, op)) for op in (0xA3, 0xAB, 0xB3, 0xBB))
_COMPARE_EXCHANGE: Final = frozenset((b"\x0f\xb0", b"\x0f\xb1", b"\x0f\xc7"))


@dataclass(frozen=True, slots=True)
class Bases:
    """Segment bases, which the machine chooses."""

    fs: int
    gs: int


@dataclass(frozen=True, slots=True)
class State:
    """General registers, flags, and memory on top of the world's random content."""

    gpr: tuple[int, ...]
    flags: int
    patches: tuple[tuple[int, bytes], ...]


def random_state(insn: Insn, random: Random, places: Places, bases: Bases) -> State:
    """A state for ``insn``, which stands where it will run."""
    return _Maker(insn, random, places, bases).make()


def vector_image(random: Random) -> bytes:
    """An FXSAVE area: exceptions masked, flush to zero and denormals-are-zero off, which the
    machine refuses, all else random, numbers of every kind among the values.
    """
    control = 0x033F | 0x40 | random.getrandbits(2) << 10
    status = random.getrandbits(3) << 11 | random.getrandbits(4) << 8 & 0x4700
    mxcsr = (
        0x1F80 | random.getrandbits(6) | random.getrandbits(3) << 13 | random.getrandbits(1) << 6
    ) & ~0x8040
    head = struct.pack(
        "<HHBBHQQII", control, status, random.getrandbits(8), 0, 0, 0, 0, mxcsr, 0xFFFF
    )
    stack = b"".join(_extended(random) + bytes(6) for _ in range(8))
    return (head + stack + b"".join(_lane(random) for _ in range(16))).ljust(512, b"\0")


def _extended(random: Random) -> bytes:
    exponent = random.choice(
        (0x3FFF + random.randrange(-40, 40), 0x7FFF, 0, random.getrandbits(15))
    )
    return struct.pack(
        "<QH", random.getrandbits(64) | 1 << 63, exponent | random.getrandbits(1) << 15
    )


def _lane(random: Random) -> bytes:
    match random.randrange(5):
        case 0:
            return random.randbytes(16)
        case 1:
            return struct.pack("<4f", *(random.uniform(-1000, 1000) for _ in range(4)))
        case 2:
            return struct.pack(
                "<2d",
                *(
                    random.choice(
                        (0.0, -0.0, 1.5, float("inf"), float("nan"), random.uniform(-9, 9))
                    )
                    for _ in range(2)
                ),
            )
        case 3:
            return bytes(random.choice((0, 0, 0xFF, 0x80, 0x7F, 1)) for _ in range(16))
        case _:
            return struct.pack("<4i", *(random.randrange(-50, 50) for _ in range(4)))


def memory_content(random: Random, size: int) -> bytes:
    """Lanes as vector registers have them."""
    return b"".join(_lane(random) for _ in range(size // 16))


class _Maker:
    def __init__(self, insn: Insn, random: Random, places: Places, bases: Bases) -> None:
        self.insn = insn
        self.random = random
        self.places = places
        self.bases = bases
        self.patches: list[tuple[int, bytes]] = []
        self.area = (
            Area(places.stack.end - 0x2000, 0x2000) if random.randrange(4) == 0 else places.data
        )
        self.stack_top = places.stack.middle + random.choice((0, 0, 8, -8, 16, 3))
        self.gpr = [self._value() for _ in range(16)]
        self.w, _r, _x, self.b = rex_bits(insn)

    def make(self) -> State:
        gpr, insn, random = self.gpr, self.insn, self.random
        gpr[RSP] = self.stack_top
        flags = random.getrandbits(22) & FLAGS_MASK | 2
        self._implicit()
        where = self._memory_operand()
        self._targets(where)
        if where is not None:
            self._content(where)
        if insn.opcode == b"\x9d" or insn.branch is Branch.IRET:
            self._patch(gpr[RSP], (random.getrandbits(22) & FLAGS_MASK | 2).to_bytes(8, "little"))
        elif insn.branch is not Branch.RET and random.getrandbits(1):
            self._patch(gpr[RSP], self._stack_pointer())  # for pop rsp and the like
        return State(tuple(value & ADDRESS_MASK for value in gpr), flags, tuple(self.patches))

    def _value(self) -> int:
        random = self.random
        match random.randrange(8):
            case 0:
                return random.choice((0, 1, ADDRESS_MASK, 1 << 63, 0x7FFF_FFFF, 0x8000_0000))
            case 1 | 2:
                return random.randrange(64)
            case 3:
                return self._address()
            case 4:
                return self.places.stack.middle + 8 * random.randrange(-64, 64)
            case 5:
                return random.getrandbits(32)
            case _:
                return random.getrandbits(64)

    def _address(self) -> int:
        return self.area.middle + self.random.randrange(-256, 256)

    def _stack_pointer(self) -> bytes:
        return (self.places.stack.middle + 8 * self.random.randrange(-64, 64)).to_bytes(8, "little")

    def _patch(self, at: int, data: bytes) -> None:
        self.patches.append((at & ADDRESS_MASK, data))

    def _implicit(self) -> None:
        """Registers that an opcode takes for addresses or counts without naming them."""
        gpr, opcode, random = self.gpr, self.insn.opcode, self.random
        first = opcode[0] if len(opcode) == 1 and not self.insn.vex else None
        if first in _STRING:
            gpr[RSI], gpr[RDI], gpr[RCX] = (
                self._address(),
                self._address(),
                random.choice((0, 1, 2, 7, random.randrange(200))),
            )
        elif first == 0xD7:
            gpr[RBX] = self._address()
        elif first in (0xC8, 0xC9):
            gpr[RBP] = self.places.stack.middle + 8 * random.randrange(64, 128)
        elif first is not None and 0xE0 <= first <= 0xE3:
            gpr[RCX] = random.choice((0, 1, 2, 1 << 32, (1 << 32) + 1, random.getrandbits(64)))
        elif opcode == b"\x0f\xf7":
            gpr[RDI] = self._address()
        elif first in (0xF6, 0xF7) and self.insn.reg >= 6 and random.getrandbits(1):
            gpr[RDX] = random.choice((0, 0, 1, ADDRESS_MASK))
            gpr[RAX] = random.getrandbits(7) if first == 0xF6 else gpr[RAX]

    def _memory_operand(self) -> int | None:
        """Make the operand's address one of the area's; returns where it is, None without a memory
        operand.
        """
        insn, gpr = self.insn, self.gpr
        if insn.rip_relative:
            return self.places.data.middle
        address = address_of(insn)
        if address is None:
            return None
        target = self._address() & -16 if self.random.randrange(4) else self._address()
        offset = target - insn.displacement - self._segment_base()
        base, index, scale = address
        if base == RSP:
            if index is not None:
                gpr[index] = (self.random.randrange(256) - insn.displacement) // scale
            return (
                None
                if 0x67 in insn.prefixes
                else gpr[RSP] + insn.displacement + (gpr[index] * scale if index is not None else 0)
            )
        if base is None:
            if index is None:
                return None
            gpr[index] = offset // scale
            return None
        if index is None:
            gpr[base] = offset
        elif index == base:
            gpr[base] = offset // (1 + scale)
        elif index == RSP:
            raise AssertionError("RSP is no index")
        else:
            gpr[index] = self.random.choice(
                (0, 1, 5, self.random.getrandbits(64), self.random.randrange(4096))
            )
            gpr[base] = offset - gpr[index] * scale
        return None if index == base else target

    def _segment_base(self) -> int:
        return (
            self.bases.fs
            if 0x64 in self.insn.prefixes
            else self.bases.gs
            if 0x65 in self.insn.prefixes
            else 0
        )

    def _targets(self, where: int | None) -> None:
        """Branches through registers and memory lead to landing pads."""
        insn, branch = self.insn, self.insn.branch
        pad = self.places.pad(self.random.randrange(16))
        if branch is Branch.RET:
            self._patch(self.gpr[RSP], pad.to_bytes(8, "little"))
        elif branch in (Branch.CALL_INDIRECT_REG, Branch.JMP_INDIRECT_REG):
            self.gpr[insn.rm | self.b << 3] = pad
        elif branch in (Branch.CALL_INDIRECT_MEM, Branch.JMP_INDIRECT_MEM):
            address = address_of(insn)
            if where is None and address is not None:  # a scaled index hits the target only roughly
                base = self.gpr[address.base] if address.base is not None else 0
                index = self.gpr[address.index] if address.index is not None else 0
                where = base + index * address.scale + insn.displacement + self._segment_base()
            if where is not None:
                self._patch(where, pad.to_bytes(8, "little"))

    def _content(self, where: int) -> None:
        """What a random word in memory would hardly ever be."""
        insn, gpr, random = self.insn, self.gpr, self.random
        reg = insn.reg | rex_bits(insn)[1] << 3
        if insn.branch in _INDIRECT:
            return
        if insn.opcode in _BIT_TESTS and reg != RSP and (address := address_of(insn)) is not None:
            if reg not in (address.base, address.index) and random.randrange(8):
                gpr[reg] = random.randrange(-2048, 2048)
        elif insn.opcode in _BIT_TESTS and insn.rip_relative:
            gpr[reg] = random.randrange(-2048, 2048)
        elif insn.opcode in _COMPARE_EXCHANGE and random.getrandbits(1):
            self._patch(where, struct.pack("<QQ", gpr[RAX] & ADDRESS_MASK, gpr[RDX] & ADDRESS_MASK))
        elif reg == RSP and not insn.vex and random.getrandbits(1):
            self._patch(where, self._stack_pointer())
