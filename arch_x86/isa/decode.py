"""Instruction lengths and fields. Answers to arch/x86/lib/insn.c: accepts and refuses what the
decoder of Linux 6.1 does.

The project has a decoder of its own, because the kernel's answer on odd bytes decides which sites
can be probed: it gives undefined opcodes a length, and refuses opcodes without VEX that exist only
with it. The format of an instruction is in SDM vol. 2, chapter 2; the opcode maps are in
:mod:`arch_x86.isa.opcode_map`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from arch_x86.isa.constants import ADDRESS_MASK, MAX_INSN_SIZE
from arch_x86.isa.insn import QUIRKS_6_1, Branch, Insn, KernelQuirks
from arch_x86.isa.opcode_map import (
    EVEX_PRESENCE,
    GROUP_IMMEDIATES,
    GROUP_VEX,
    LEGACY_FORMS,
    LEGACY_PREFIXES,
    LEGACY_PRESENCE,
    MAP_0F,
    MAP_0F3A,
    MAP_0F38,
    MAP_ONE_BYTE,
    VEX_PRESENCE,
    Form,
)

__all__ = ("decode", "decode_length")


_DISTINCT_PREFIXES_MAX: Final = 4
"""The kernel's decoder takes a fifth distinct prefix for an opcode."""
_FORCED_EMULATION: Final = (b"\x0f\x0bxen", b"\x0f\x0bkvm")
_MANDATORY: Final = {0x66: 1, 0xF3: 2, 0xF2: 3}
"""The numbers of mandatory prefixes, which VEX.pp uses, too."""
_REFUSED: Final = -1
_ANY_PREFIX: Final = 15

# These are plain integers, since they are tested for every instruction of an image, and an operator
# of IntFlag costs a microsecond.
_MODRM: Final = int(Form.MODRM)
_IMM8: Final = int(Form.IMM8)
_IMM16: Final = int(Form.IMM16)
_IMM_Z: Final = int(Form.IMM_Z)
_IMM_V: Final = int(Form.IMM_V)
_REL32: Final = int(Form.REL32)
_MOFFS: Final = int(Form.MOFFS)
_FAR: Final = int(Form.FAR)
_TEST_IMM: Final = int(Form.TEST_IMM)
_GROUP_DEPENDENT: Final = int(Form.TEST_IMM | Form.MMX_SHIFT)
_OPERAND_SIZED: Final = int(Form.IMM_Z | Form.IMM_V | Form.FAR)
_IMMEDIATES: Final = int(Form.IMM8 | Form.IMM16 | Form.IMM_Z | Form.IMM_V | Form.REL32 | Form.FAR)


class _Head(NamedTuple):
    """An instruction up to its opcode.

    :ivar vex_map: the opcode map that VEX or EVEX names; 0 without either.
    :ivar mandatory: the mandatory prefix, by its number in VEX.pp; 0: none.
    """

    data: bytes
    addr: int
    prefixes: bytes
    rex: int
    opcode: bytes
    vex_map: int = 0
    mandatory: int = 0


def _legacy_form(opcode_map: int, opcode: int, prefix: int) -> int:
    """Return the form of an ``0F`` opcode without VEX behind the mandatory prefix ``prefix``;
    ``_REFUSED`` where the opcode needs VEX.
    """
    legacy = LEGACY_PRESENCE[opcode_map][opcode]
    if legacy == _ANY_PREFIX:
        return LEGACY_FORMS[opcode_map][opcode]
    vex = VEX_PRESENCE[opcode_map][opcode] | EVEX_PRESENCE[opcode_map][opcode]
    # An opcode without prefixed forms ignores prefixes.
    bit = 1 << prefix if (legacy | vex) & ~1 else 1
    if legacy & bit:
        return LEGACY_FORMS[opcode_map][opcode]
    return _REFUSED if vex & bit else 0


_LEGACY: Final = {
    number: tuple(
        tuple(_legacy_form(number, opcode, prefix) for opcode in range(256)) for prefix in range(4)
    )
    for number in (MAP_0F, MAP_0F38, MAP_0F3A)
}
_ONE_BYTE: Final = LEGACY_FORMS[MAP_ONE_BYTE]

_BRANCHES: Final[dict[int, Branch]] = {
    **dict.fromkeys(range(0x70, 0x80), Branch.JCC),
    **dict.fromkeys(range(0xE0, 0xE4), Branch.LOOP),
    **dict.fromkeys((0xE9, 0xEB), Branch.JMP),
    **dict.fromkeys((0xC2, 0xC3), Branch.RET),
    **dict.fromkeys((0xCA, 0xCB), Branch.RET_FAR),
    **dict.fromkeys((0xCC, 0xCD, 0xCE, 0xF1), Branch.INT),
    0x9A: Branch.CALL_FAR,
    0xCF: Branch.IRET,
    0xE8: Branch.CALL,
    0xEA: Branch.JMP_FAR,
}
_TWO_BYTE_BRANCHES: Final[dict[int, Branch]] = {
    **dict.fromkeys(range(0x80, 0x90), Branch.JCC),
    **dict.fromkeys((0x05, 0x34), Branch.SYSCALL),
    **dict.fromkeys((0x07, 0x35), Branch.SYSRET),
    **dict.fromkeys((0x0B, 0xB9, 0xFF), Branch.INT),
}
_GROUP_5_BRANCHES: Final = {
    # opcode ff, by /digit: with a memory operand, with a register operand
    2: (Branch.CALL_INDIRECT_MEM, Branch.CALL_INDIRECT_REG),
    3: (Branch.CALL_FAR, Branch.CALL_FAR),
    4: (Branch.JMP_INDIRECT_MEM, Branch.JMP_INDIRECT_REG),
    5: (Branch.JMP_FAR, Branch.JMP_FAR),
}
_RELATIVE: Final = frozenset((Branch.JMP, Branch.JCC, Branch.CALL, Branch.LOOP, Branch.XBEGIN))


def decode(data: bytes, addr: int, quirks: KernelQuirks = QUIRKS_6_1) -> Insn | None:
    """Return the instruction that ``data`` starts with, as placed at ``addr``; None when it is not
    an instruction, or not all of it is there.

    :param data: any bytes; more than those of the instruction may be given.
    """
    try:
        return _decode(bytes(data[:MAX_INSN_SIZE]), addr, quirks)
    except IndexError:
        return None


def decode_length(data: bytes, quirks: KernelQuirks = QUIRKS_6_1) -> int | None:
    """Return the length of the instruction that ``data`` starts with, or None."""
    insn = decode(data, 0, quirks)
    return None if insn is None else insn.length


def _decode(data: bytes, addr: int, quirks: KernelQuirks) -> Insn | None:
    """Decode prefixes and opcode, then the rest.

    :raises IndexError: the instruction goes on behind the end of ``data``.
    """
    start = pos = 5 if data[:5] in _FORCED_EMULATION else 0
    byte = data[pos]
    distinct: list[int] = []
    while byte in LEGACY_PREFIXES:
        if byte not in distinct:
            if len(distinct) == _DISTINCT_PREFIXES_MAX:
                break
            distinct.append(byte)
        pos += 1
        byte = data[pos]
    prefixes = data[start:pos]
    rex = 0
    if byte & 0xF0 == 0x40:
        rex = byte
        pos += 1
        byte = data[pos]
    if byte in (0xC4, 0xC5, 0x62):
        return _decode_vex(data, addr, pos, prefixes, rex)
    if byte != 0x0F:
        return _operands(
            _Head(data, addr, prefixes, rex, data[pos : pos + 1]), pos + 1, _ONE_BYTE[byte], quirks
        )
    mandatory = _MANDATORY.get(prefixes[-1], 0) if prefixes else 0
    second = data[pos + 1]
    if second in (0x38, 0x3A):
        form = _LEGACY[MAP_0F38 if second == 0x38 else MAP_0F3A][mandatory][data[pos + 2]]
        return _operands(
            _Head(data, addr, prefixes, rex, data[pos : pos + 3]), pos + 3, form, quirks
        )
    form = _LEGACY[MAP_0F][mandatory][second]
    if form == 0 and not quirks.absent_forms and second & 0xF0 in (0x40, 0x90):
        form = _MODRM
    return _operands(
        _Head(data, addr, prefixes, rex, data[pos : pos + 2], 0, mandatory), pos + 2, form, quirks
    )


def _decode_vex(data: bytes, addr: int, pos: int, prefixes: bytes, rex: int) -> Insn | None:
    """Decode a VEX (SDM vol. 2, 2.3) or EVEX (2.7) prefix at ``pos`` and its opcode, then the
    rest.
    """
    kind, payload = data[pos], data[pos + 1]
    if kind == 0xC5:
        vex_map, mandatory, pos = MAP_0F, payload & 3, pos + 2
    elif kind == 0xC4:
        vex_map, mandatory, pos = payload & 0x1F, data[pos + 2] & 3, pos + 3
    else:
        vex_map, mandatory, pos = payload & 7, data[pos + 2] & 3, pos + 4
    opcode = data[pos]
    if vex_map not in VEX_PRESENCE:
        return None
    group = GROUP_VEX.get((vex_map, opcode))
    if group is not None:
        presence = group.get(data[pos + 1] >> 3 & 7, 0)
    else:
        presence, evex = VEX_PRESENCE[vex_map][opcode], EVEX_PRESENCE[vex_map][opcode]
        # Where an opcode has both EVEX and plain forms, the kernel takes it with VEX, too; and it
        # takes EVEX wherever there is VEX.
        presence |= evex if kind == 0x62 else evex & LEGACY_PRESENCE[vex_map][opcode]
    if not presence >> mandatory & 1:
        return None
    head = _Head(data, addr, prefixes, rex, data[pos : pos + 1], vex_map, mandatory)
    return _operands(head, pos + 1, LEGACY_FORMS[vex_map][opcode], QUIRKS_6_1)


def _group_form(form: int, opcode: int, reg: int, mandatory: int) -> int:
    """Return the form of the opcode with this ``/digit``: ``form``, or without an immediate where
    the digit has none.
    """
    if form & _TEST_IMM:
        return form if reg < 2 else _MODRM
    digits = GROUP_IMMEDIATES[opcode]
    present = digits.get(reg, 0)
    if present & ~1:
        present = present >> mandatory & 1
    return form if present else _MODRM


def _operands(head: _Head, pos: int, form: int, quirks: KernelQuirks) -> Insn | None:
    """Decode ModRM, SIB, displacement and immediate from ``pos`` on."""
    if form == _REFUSED:
        return None
    modrm = None
    disp_size = imm_size = 0
    disp_offset = pos
    if form & _MODRM:
        modrm = head.data[pos]
        pos += 1
        if form & _GROUP_DEPENDENT:
            form = _group_form(form, head.opcode[-1], modrm >> 3 & 7, head.mandatory)
        if modrm < 0xC0 and (
            quirks.control_register_memory
            or head.vex_map
            or not _moves_control_register(head.opcode)
        ):
            mod, low = modrm >> 6, modrm & 7
            if low == 4:
                low = head.data[pos] & 7  # In SIB.base 5 stands for disp32, as in ModRM.rm.
                pos += 1
            disp_size = 1 if mod == 1 else 4 if mod == 2 or low == 5 else 0
        disp_offset = pos
        pos += disp_size
    if form & _MOFFS:
        disp_size = 4 if 0x67 in head.prefixes else 8
        pos += disp_size
    imm_offset = pos
    if form & _IMMEDIATES:
        size = _immediate_size(form, head.prefixes, head.rex)
        if size is None:
            return None
        imm_size = size
        pos += size
    if pos > len(head.data):
        return None
    raw = head.data[:pos]
    branch = Branch.NONE if head.vex_map else _branch(head.opcode, modrm)
    return Insn(
        addr=head.addr,
        length=pos,
        raw=raw,
        prefixes=head.prefixes,
        rex=head.rex,
        vex=head.vex_map != 0,
        vex_map=head.vex_map,
        opcode=head.opcode,
        modrm=modrm,
        disp_offset=disp_offset,
        disp_size=disp_size,
        imm_offset=imm_offset,
        imm_size=imm_size,
        rip_relative=modrm is not None and modrm & 0xC7 == 5 and disp_size == 4,
        branch=branch,
        target=_target(head.addr, raw, imm_offset) if branch in _RELATIVE else None,
        forced_emulation=raw[:5] in _FORCED_EMULATION,
    )


def _target(addr: int, raw: bytes, imm_offset: int) -> int:
    """Return where the relative branch ``raw`` at ``addr`` leads to."""
    distance = int.from_bytes(raw[imm_offset:], "little", signed=True)
    return addr + len(raw) + distance & ADDRESS_MASK


def _moves_control_register(opcode: bytes) -> bool:
    return len(opcode) == 2 and 0x20 <= opcode[1] <= 0x23


def _immediate_size(form: int, prefixes: bytes, rex: int) -> int | None:
    """Return how many bytes the immediates have; None for a far pointer with a 64-bit offset, which
    does not exist.
    """
    size = (1 if form & _IMM8 else 0) + (2 if form & _IMM16 else 0) + (4 if form & _REL32 else 0)
    if form & _OPERAND_SIZED:
        wide, narrow = rex & 8, 0x66 in prefixes
        if form & _FAR:
            return None if wide else 4 if narrow else 6
        if wide:
            size += 8 if form & _IMM_V else 4
        else:
            size += 2 if narrow else 4
    return size


def _branch(opcode: bytes, modrm: int | None) -> Branch:
    """Return which kind of branch an opcode without VEX is."""
    if len(opcode) == 2:
        return _TWO_BYTE_BRANCHES.get(opcode[1], Branch.NONE)
    if len(opcode) == 1:
        first = opcode[0]
        if first == 0xFF and modrm is not None:
            kinds = _GROUP_5_BRANCHES.get(modrm >> 3 & 7)
            return Branch.NONE if kinds is None else kinds[modrm >= 0xC0]
        if first == 0xC7 and modrm == 0xF8:
            return Branch.XBEGIN
        return _BRANCHES.get(first, Branch.NONE)
    return Branch.NONE
