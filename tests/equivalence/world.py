"""Where the experiments happen: addresses, cells that hold one instruction each, and an image that
holds many cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from arch_x86.isa.decode import decode
from arch_x86.isa.encode import rel32
from arch_x86.isa.insn import Branch, Insn
from engine.image import Image, Segment, Symbol

HLT: Final = b"\xf4"
TAIL: Final = b"\x4d\x8d\x7f\x01"  # lea r15, [r15+1]: that it ran, once and whole, shows
CELL: Final = 64
_INSN_IN_CELL: Final = 16
_PADS_IN_CELL: Final = (4, 56)
_MOFFS: Final = frozenset((0xA0, 0xA1, 0xA2, 0xA3))
_RELATIVE: Final = frozenset((Branch.JMP, Branch.JCC, Branch.CALL, Branch.LOOP))


@dataclass(frozen=True, slots=True)
class Area:
    """Data memory, with unmapped pages on both sides."""

    addr: int
    size: int

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.addr + self.size

    @property
    def middle(self) -> int:
        """Its middle."""
        return self.addr + self.size // 2


@dataclass(frozen=True, slots=True)
class Places:
    """Addresses. All lies within 2 GiB of all. ``far``: text for copies, below and above everything
    else.
    """

    base: int

    @property
    def stubs(self) -> int:
        """Text: landing pads (``hlt``, 16 bytes apart), then how to load and to save x87 and SSE
        state.
        """
        return self.base

    @property
    def data(self) -> Area:
        """What memory operands refer to."""
        return Area(self.base + 0x10_0000, 0x2000)

    @property
    def stack(self) -> Area:
        """The stack."""
        return Area(self.base + 0x20_0000, 0x8000)

    @property
    def vector(self) -> Area:
        """The FXSAVE area; no operand refers to it."""
        return Area(self.base + 0x30_0000, 0x1000)

    @property
    def cells(self) -> int:
        """The originals."""
        return self.base + 0x100_0000

    @property
    def far(self) -> tuple[int, int]:
        """Below and above, each not quite 2 GiB from the originals and from the data."""
        return self.base - 0x7000_0000, self.base + 0x7000_0000

    def pad(self, number: int) -> int:
        """Landing pad ``number``, from 0 to 15."""
        return self.stubs + 16 * number

    @property
    def load_vector(self) -> int:
        """``fxrstor64 [vector]; hlt``."""
        return self.stubs + 0x100

    @property
    def save_vector(self) -> int:
        """``fxsave64 [vector]; hlt``."""
        return self.stubs + 0x110

    def stub_text(self) -> bytes:
        """The bytes at :attr:`stubs`."""
        load, save = (self.vector.addr - at - 8 for at in (self.load_vector, self.save_vector))
        text = (HLT + b"\xcc" * 15) * 16
        text += b"\x48\x0f\xae\x0d" + load.to_bytes(4, "little", signed=True) + HLT + b"\xcc" * 7
        return text + b"\x48\x0f\xae\x05" + save.to_bytes(4, "little", signed=True) + HLT


USER: Final = Places(0x7800_0000)
"""All below 4 GiB, so that 32-bit addresses reach the data."""
KERNEL: Final = Places(0xFFFF_FF00_8000_0000)


def at_cell(number: int, places: Places) -> int:
    """Where the instruction of cell ``number`` stands."""
    return places.cells + number * CELL + _INSN_IN_CELL


def place(raw: bytes, at: int, places: Places) -> Insn:
    """``raw`` at ``at``, with its address constants (RIP-relative, 64-bit offset, branch target)
    leading to where there is something.
    """
    insn = decode(raw, at)
    assert insn is not None, raw.hex()
    if insn.rip_relative:
        raw = _replace(
            raw,
            insn.disp_offset,
            rel32(insn.end, places.data.middle).to_bytes(4, "little", signed=True),
        )
    elif len(insn.opcode) == 1 and insn.opcode[0] in _MOFFS and not insn.vex:
        raw = _replace(
            raw, insn.disp_offset, places.data.middle.to_bytes(8, "little")[: insn.disp_size]
        )
    elif insn.branch in _RELATIVE:
        start = at - at % CELL
        target = (
            start + _PADS_IN_CELL[insn.immediate >= 0]
            if insn.imm_size == 1
            else places.pad(insn.immediate % 16)
        )
        raw = _replace(
            raw, insn.imm_offset, (target - insn.end).to_bytes(insn.imm_size, "little", signed=True)
        )
    placed = decode(raw, at)
    assert placed is not None
    return placed


def _replace(raw: bytes, at: int, data: bytes) -> bytes:
    return raw[:at] + data + raw[at + len(data) :]


def cell(insn: Insn, tail: bytes = b"") -> bytes:
    """A cell's bytes: the instruction, ``tail``, ``hlt``; landing pads in front and behind; int3
    between.
    """
    code = bytearray(b"\xcc" * CELL)
    body = insn.raw + tail + HLT
    code[_INSN_IN_CELL : _INSN_IN_CELL + len(body)] = body
    for pad in _PADS_IN_CELL:
        code[pad : pad + 1] = HLT
    return bytes(code)


def image_of(
    texts: Iterable[tuple[int, bytes]],
    places: Places,
    symbols: tuple[Symbol, ...] = (),
    **fields: object,
) -> Image:
    """Stubs, data, and text as (address, bytes)."""
    stubs = (places.stubs, places.stub_text())
    text = [Segment(at, code, len(code)) for at, code in (stubs, *texts)]
    data = [
        Segment(area.addr, b"", area.size, True, False)
        for area in (places.data, places.stack, places.vector)
    ]
    return Image(name="equivalence", segments=(*text, *data), symbols=symbols, **fields)  # type: ignore[arg-type]


def cells_image(
    insns: Sequence[Insn], places: Places, *, copies: Iterable[tuple[int, bytes]] = ()
) -> Image:
    """One cell an instruction, and ``copies``: more text. No functions."""
    return image_of(((places.cells, b"".join(cell(insn) for insn in insns)), *copies), places)


def functions_image(insns: Sequence[Insn], places: Places, **fields: object) -> Image:
    """One cell and function an instruction, with a tail behind it that a jump can replace."""
    symbols = tuple(
        Symbol(f"c{i}", insn.addr, insn.length + len(TAIL) + 1) for i, insn in enumerate(insns)
    )
    return image_of(
        [(places.cells, b"".join(cell(insn, TAIL) for insn in insns))], places, symbols, **fields
    )
