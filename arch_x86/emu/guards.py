"""Guards: the instructions that must not reach the emulator.

It would run them wrongly, silently, or differently on each machine. Unicorn 2.1.4 decodes 128-bit
AVX as if it were SSE (``vpaddb xmm0, xmm1, xmm2`` adds xmm2 to xmm0); ``rdtsc`` gives the host's
time and ``rdrand``/``rdseed`` real random numbers; :mod:`arch_x86.emu.refused` has more. In
functions these instructions are found by decoding. Outside of functions code can't be told from
data, so each place is decoded as if an instruction started there.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from arch_x86.emu.alignment import must_be_aligned
from arch_x86.emu.refused import ENDS_PROCESS, RULES, SSE4A, SUSPECT, UNKNOWN, wrong_reason
from arch_x86.isa.constants import MAX_INSN_SIZE, PAGE_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import NO_QUIRKS, Branch, Insn
from engine.image import Image, Segment

__all__ = ("Guards", "find_guard", "guard_reason")

# A cheap search for bytes that could start such an instruction. Decoding takes long, so only
# functions with a match are decoded.
_SUSPECT: Final = re.compile(
    rb"[\xc4\xc5\x62][\x00-\xff]{2}|\x0f\x31|\x0f\x01\xf9|\x0f\xc7[\xf0-\xff]|"
    rb"\x66[\x66\x67\xf2\xf3\x40-\x47]*"
    rb"(?:[\x70-\x7f\xc2\xc3\xe0-\xe3\xe8\xe9\xeb\xff]|\x0f[\x80-\x8f])|" + SUSPECT,
    re.DOTALL,
)
# The same with all instructions that could be SSE.
_ESCAPED: Final = re.compile(rb"\x0f[\x00-\xff]{2}|" + _SUSPECT.pattern, re.DOTALL)
# The same with matches that overlap.
_ANYWHERE: Final = re.compile(rb"(?=" + _SUSPECT.pattern + rb")", re.DOTALL)
_ESCAPED_ANYWHERE: Final = re.compile(rb"(?=" + _ESCAPED.pattern + rb")", re.DOTALL)
_PREFIXES: Final = frozenset(
    (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50))
)
_REX: Final = range(0x40, 0x50)
_NEAR: Final = frozenset(
    {
        Branch.JMP,
        Branch.JCC,
        Branch.CALL,
        Branch.LOOP,
        Branch.RET,
        Branch.JMP_INDIRECT_REG,
        Branch.CALL_INDIRECT_REG,
    }
)
_OPERAND_SIZE: Final = 0x66
_REX_W: Final = 8
# BMI1 and BMI2 are encoded with VEX, too, but the emulator runs them well: opcodes f2, f3, f5, f6
# and f7 of map 0f38, and f0 of map 0f3a.
_LOOKED_AT: Final = frozenset({b"\x0f\x31", b"\x0f\x01", b"\x0f\xc7", *RULES})
"""The opcodes of which some instructions are guarded even without prefixes and VEX."""
_BMI_0F38: Final = frozenset({0xF2, 0xF3, 0xF5, 0xF6, 0xF7})


def _is_bmi(raw: bytes) -> bool:
    if raw[0] != 0xC4:
        return False
    page, opcode = raw[1] & 0x1F, raw[3]
    return (page == 2 and opcode in _BMI_0F38) or (page == 3 and opcode == 0xF0)


def guard_reason(insn: Insn, *, alignment: bool = False) -> str | None:
    """Return why ``insn`` has to trap, in a few words, or None when it may run.

    :param alignment: guard memory operands that have to be aligned, too.
    """
    reason = _guard_reason(insn)
    return (
        "a memory operand that has to be aligned"
        if reason is None and alignment and must_be_aligned(insn)
        else reason
    )


def _guard_reason(insn: Insn) -> str | None:
    if not insn.prefixes and not insn.vex and insn.opcode not in _LOOKED_AT:
        return None
    raw = insn.raw
    if insn.vex:
        start = len(insn.prefixes)
        body = raw[start:]
        return wrong_reason(insn) if _is_bmi(body) else "AVX, which the emulator does not support"
    if insn.branch in _NEAR and _OPERAND_SIZE in insn.prefixes and not insn.rex & _REX_W:
        return "an operand-size prefix on a near branch, which processors read differently"
    if insn.opcode == b"\x0f\x31" or raw.endswith(b"\x0f\x01\xf9"):
        return "the time-stamp counter, which would make runs differ"
    if insn.opcode == b"\x0f\xc7" and insn.modrm is not None and insn.modrm >= 0xF0:
        return "a hardware random number, which would make runs differ"
    return wrong_reason(insn)


def find_guard(code: bytes, addr: int, *, alignment: bool = False) -> tuple[int, str | None]:
    """Return the length of the instruction at the start of ``code``, and why it has to trap.

    :param addr: the address of ``code``.
    :returns: the length, 0 where there is no instruction; and what :func:`guard_reason` says of it.
    """
    insn = decode(code[:MAX_INSN_SIZE], addr, NO_QUIRKS)
    # Of several REX prefixes the last one counts, but the kernel's decoder takes that one for an
    # opcode. So the one in front of it is left out, and the rest is decoded.
    if insn is not None and not insn.vex and insn.opcode[0] in _REX:
        at = insn.length - 2
        length, reason = find_guard(code[:at] + code[at + 1 :], addr + 1, alignment=alignment)
        return length + 1 if length else 0, reason
    if insn is not None:
        return insn.length, guard_reason(insn, alignment=alignment)
    unknown = UNKNOWN.match(code[:MAX_INSN_SIZE])
    return (unknown.end(), SSE4A) if unknown is not None else (0, None)


class Guards:
    """The instructions of ``image`` to guard, which are found a page at a time.

    Most of a library is never executed, so most of its pages are never searched.

    :ivar alignment: instructions with a memory operand that has to be aligned are guarded, too.
    """

    def __init__(self, image: Image, *, alignment: bool = False) -> None:
        self._image = image
        self.alignment = alignment
        self._suspect = _ESCAPED if alignment else _SUSPECT
        self._anywhere = _ESCAPED_ANYWHERE if alignment else _ANYWHERE
        self._spans = _spans(image)
        self._starts = [start for start, _ in self._spans]
        text = [segment for segment in image.segments if segment.executable]
        self._pages = frozenset(
            vpn for s in text for vpn in range(s.addr // PAGE_SIZE, -(-s.end // PAGE_SIZE))
        )
        self._gaps = _gaps(text, self._spans)
        self._gap_starts = [start for start, _ in self._gaps]
        self._found: dict[int, tuple[tuple[int, bytes], ...]] = {}

    def in_page(self, vpn: int) -> tuple[tuple[int, bytes], ...]:
        """Return ``(address, bytes)`` of each instruction to guard that has a byte in page ``vpn``.

        Those in functions come first, in address order. Then come those outside of functions which
        the emulator must not even translate.
        """
        first, last = vpn * PAGE_SIZE, (vpn + 1) * PAGE_SIZE
        found: list[tuple[int, bytes]] = []
        at = max(bisect_right(self._starts, first) - 1, 0)
        while at < len(self._spans) and self._spans[at][0] < last:
            found += (
                guard
                for guard in self._in_span(at)
                if guard[0] < last and guard[0] + len(guard[1]) > first
            )
            at += 1
        for page in (vpn - 1, vpn):
            for addr, raw in self.strays(page).items():
                if (
                    addr + len(raw) > first
                    and find_guard(raw, addr)[1] == ENDS_PROCESS
                    and self._is_reached(addr)
                ):
                    found.append((addr, raw))
        return tuple(found)

    def _is_reached(self, addr: int) -> bool:
        """Return whether an instruction outside of the functions starts at ``addr``.

        It does if decoding from the last symbol, or from the end of the last function, comes there:
        all bytes in between are taken for code.
        """
        at = self._gaps[bisect_right(self._gap_starts, addr) - 1][0]
        functions = self._image.functions
        before = bisect_right(functions, addr, key=lambda symbol: symbol.addr)
        at = max(at, functions[before - 1].addr) if before else at
        while at < addr:
            at += find_guard(self._image.read(at, MAX_INSN_SIZE), at)[0] or 1
        return at == addr

    def concern(self, vpn: int) -> bool:
        """Return whether page ``vpn`` holds code of the image, which has to be searched."""
        return vpn in self._pages

    def strays(self, vpn: int) -> dict[int, bytes]:
        """Return the instructions to guard that start in page ``vpn`` outside of all functions.

        Code can't be told from data there, so nothing is replaced by a trap (but for what would end
        the process): the emulator has to stop when it comes to one of them.

        :returns: the bytes of each of them, if an instruction does start there, by its address.
        """
        first, last = vpn * PAGE_SIZE, (vpn + 1) * PAGE_SIZE
        found: dict[int, bytes] = {}
        for at in range(max(bisect_right(self._gap_starts, first) - 1, 0), len(self._gaps)):
            start, size = self._gaps[at]
            if start >= last:
                break
            low, high = max(start, first), min(start + size, last)
            code = self._image.read(low, high - low + MAX_INSN_SIZE) if low < high else b""
            for match in self._anywhere.finditer(code):
                for offset in _with_prefixes(code, match.start()):
                    length, reason = (
                        self._find(code[offset : offset + MAX_INSN_SIZE], 0)
                        if offset < high - low
                        else (0, None)
                    )
                    if reason is not None:
                        found[low + offset] = code[offset : offset + length]
        return found

    def _in_span(self, at: int) -> tuple[tuple[int, bytes], ...]:
        found = self._found.get(at)
        if found is None:
            start, size = self._spans[at]
            code = self._image.read(start, size)
            found = self._found[at] = (
                tuple(self._guards_in(start, code)) if self._suspect.search(code) else ()
            )
        return found

    def _guards_in(self, addr: int, code: bytes) -> Iterator[tuple[int, bytes]]:
        offset = 0
        while offset < len(code):
            length, reason = self._find(code[offset : offset + MAX_INSN_SIZE], addr + offset)
            if reason is not None:
                yield addr + offset, code[offset : offset + length]
            offset += length or 1

    def _find(self, code: bytes, addr: int) -> tuple[int, str | None]:
        return find_guard(code, addr, alignment=self.alignment)


def _spans(image: Image) -> list[tuple[int, int]]:
    """Return the address and size of the part of each function that no earlier function covers."""
    spans: list[tuple[int, int]] = []
    done = 0
    for function in image.functions:
        start = max(function.addr, done)
        if function.addr + function.size <= start or not image.is_text(function.addr):
            continue
        segment = image.segment_at(start)
        done = min(function.addr + function.size, segment.end if segment is not None else start)
        if done > start:
            spans.append((start, done - start))
    return spans


def _gaps(text: Sequence[Segment], spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the address and size of the text between the functions, in address order."""
    gaps: list[tuple[int, int]] = []
    for segment in sorted(text, key=lambda segment: segment.addr):
        done = segment.addr
        for start, size in spans[
            bisect_left(spans, (segment.addr, 0)) : bisect_left(spans, (segment.end, 0))
        ]:
            if start > done:
                gaps.append((done, start - done))
            done = start + size
        if segment.end > done:
            gaps.append((done, segment.end - done))
    return gaps


def _with_prefixes(code: bytes, offset: int) -> Iterator[int]:
    """Yield ``offset`` and each place before it that has only prefixes up to ``offset``."""
    yield offset
    while offset and code[offset - 1] in _PREFIXES:
        offset -= 1
        yield offset
