"""This module decodes functions, as arch/x86/kernel/kprobes/core.c and opt.c do.

It answers to the sweeps of can_probe() and can_optimize(). Linux 6.1 decodes a function from its
first byte for every question. Here each function is decoded once, and kept until its text changes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import QUIRKS_6_1, Branch, Insn, KernelQuirks
from arch_x86.probes.areas import copy_areas
from engine.image import Image, Range, ReservedKind, Symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ("FUNCTION_SIZE_MAX", "CodeCache", "FunctionCode", "RangeIndex")

FUNCTION_SIZE_MAX: Final = 1 << 22
"""Of one function at most this many bytes are decoded: 4 MiB.

That is more than any compiler makes. So a symbol over gigabytes of zeros is not decoded whole.
"""

# A call comes back, so 6.1 does not count it among the jumps.
_JUMPS = frozenset((Branch.JMP, Branch.JCC, Branch.LOOP))
_INDIRECT_JUMPS = frozenset((Branch.JMP_INDIRECT_REG, Branch.JMP_INDIRECT_MEM, Branch.JMP_FAR))
_OFF_LIMITS = frozenset(
    (ReservedKind.JUMP_LABEL, ReservedKind.STATIC_CALL, ReservedKind.BUG, ReservedKind.ALTERNATIVES)
)
_JUMP_OPCODES = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xE9, 0xEB))


class FunctionCode:
    """This class is one function's bytes and the instructions that they decode to.

    The sweep starts at the symbol and goes from instruction to instruction, to the end or to the
    first bytes that decode to nothing.

    :param symbol: the function's symbol.
    :param size: its size in bytes, cut where the next symbol starts or the segment ends; kallsyms
        has no nested functions.
    :param code: the bytes of the function and up to 14 more, into which the last instruction may
        reach.
    :param quirks: where to decode as Linux 6.1 does, not as hardware does.
    """

    def __init__(
        self, symbol: Symbol, size: int, code: bytes, quirks: KernelQuirks = QUIRKS_6_1
    ) -> None:
        self.symbol = symbol
        self.start = symbol.addr
        self.size = min(size, len(code))
        self.code = code
        self.quirks = quirks

    @property
    def end(self) -> int:
        """Return the address of the byte behind the function."""
        return self.start + self.size

    @cached_property
    def insns(self) -> dict[int, Insn]:
        """Return the instructions by their offset from the function's start, in order."""
        insns: dict[int, Insn] = {}
        offset = 0
        while offset < self.size:
            insn = decode(
                self.code[offset : offset + MAX_INSN_SIZE], self.start + offset, self.quirks
            )
            if insn is None:
                break
            insns[offset] = insn
            offset += insn.length
        return insns

    @cached_property
    def decoded_size(self) -> int:
        """Return the offset at which the sweep ended.

        It is ``size``, or more where the last instruction reaches further, or less where bytes
        decode to nothing.
        """
        if not self.insns:
            return 0
        offset, last = next(reversed(self.insns.items()))
        return offset + last.length

    @property
    def decodable(self) -> bool:
        """Return True when all bytes of the function decode to instructions."""
        return self.decoded_size >= self.size

    @cached_property
    def boundaries(self) -> frozenset[int]:
        """Return the addresses at which the sweep found instructions."""
        return frozenset(self.start + offset for offset in self.insns)

    def insn_at(self, addr: int) -> Insn | None:
        """Return the instruction that the sweep found at ``addr``, or None."""
        return self.insns.get(addr - self.start)

    @cached_property
    def jump_targets(self) -> tuple[int, ...]:
        """Return the addresses that the function's own jumps lead to, sorted.

        Calls and indirect jumps are not among them.
        """
        targets = {
            target
            for insn in self.insns.values()
            if (target := self._jump_target(insn)) is not None
        }
        return tuple(sorted(targets))

    @cached_property
    def has_indirect_jump(self) -> bool:
        """Return True when the function has a jump whose target cannot be read off the code.

        Such a jump goes through a register or through memory, or to another segment.
        """
        return any(self._is_indirect_jump(insn) for insn in self.insns.values())

    def jumps_into(self, first: int, last: int) -> bool:
        """Return True when a jump of this function leads to ``first``, ``last`` or between them."""
        at = bisect_left(self.jump_targets, first)
        return at < len(self.jump_targets) and self.jump_targets[at] <= last

    def _jump_target(self, insn: Insn) -> int | None:
        """Return the address that a direct jump leads to, or None for any other instruction."""
        if insn.branch in _JUMPS:
            return insn.target
        # 6.1 reads the opcode byte of a VEX instruction as a legacy opcode, and the immediate
        # behind it as the jump's displacement.
        if insn.vex and self.quirks.vex_as_legacy and insn.opcode[0] in _JUMP_OPCODES:
            return insn.end + insn.immediate
        return None

    def _is_indirect_jump(self, insn: Insn) -> bool:
        """Return True when ``insn`` is a jump whose target cannot be read off the code."""
        if insn.branch in _INDIRECT_JUMPS:
            return True
        return insn.vex and self.quirks.vex_as_legacy and insn.opcode[0] == 0xEA


class CodeCache:
    """This class has the functions of one image, each decoded when it is first asked for.

    A function is found by an address in O(log n).

    :param image: the image.
    :param read: returns the bytes of the text at an address with all probes taken out, as
        recover_probed_instruction() does; by default the image's bytes as loaded. Whoever changes
        that text calls :meth:`invalidate` or :meth:`text_changed`.
    :param quirks: where to decode as Linux 6.1 does, not as hardware does.
    :ivar blacklist: the ranges where no probe may go.
    :ivar off_limits: these, and the text that the kernel patches or decodes itself.
    :ivar reserved: the reserved ranges by their kind.
    :ivar ftrace_sites: the addresses of the ftrace locations.
    """

    def __init__(
        self,
        image: Image,
        read: Callable[[int, int], bytes] | None = None,
        quirks: KernelQuirks = QUIRKS_6_1,
    ) -> None:
        self.image = image
        self.read = read or image.read
        self.quirks = quirks
        self.areas = copy_areas(image)
        self._symbols = _distinct(image.functions)
        self._starts = [symbol.addr for symbol in self._symbols]
        self._functions: dict[int, FunctionCode] = {}
        self._latest: FunctionCode | None = None
        self._exception_addresses = sorted({entry.insn for entry in image.exception_table})
        self._exceptions = frozenset(self._exception_addresses)
        self._touches: dict[int, bool] = {}
        self.blacklist = RangeIndex((*image.blacklist, *_blacklisted_parts(image)))
        self.off_limits = RangeIndex(
            (
                *image.blacklist,
                *_blacklisted_parts(image),
                *(
                    Range(item.addr, item.size)
                    for item in image.reserved
                    if item.kind in _OFF_LIMITS
                ),
            )
        )
        self.reserved = {
            kind: RangeIndex(
                Range(item.addr, item.size) for item in image.reserved if item.kind is kind
            )
            for kind in ReservedKind
        }
        self.ftrace_sites = frozenset(
            item.addr for item in image.reserved if item.kind is ReservedKind.FTRACE_SITE
        )

    @property
    def functions(self) -> tuple[Symbol, ...]:
        """Return the function symbols in address order, one for each address."""
        return self._symbols

    def function_at(self, addr: int) -> FunctionCode | None:
        """Return the function that holds ``addr``, or None."""
        function = self._latest
        if function is not None and function.start <= addr < function.end:
            return function
        at = bisect_right(self._starts, addr) - 1
        if at < 0:
            return None
        function = self._functions.get(at)
        if function is None:
            function = self._functions[at] = self._load(at)
        if addr >= function.end:
            return None
        self._latest = function
        return function

    def insn_at(self, addr: int) -> Insn | None:
        """Return what the bytes at ``addr`` decode to, or None; no boundary need be there."""
        function = self.function_at(addr)
        found = None if function is None else function.insns.get(addr - function.start)
        return found or decode(self.read(addr, MAX_INSN_SIZE), addr, self.quirks)

    def invalidate(self, addr: int, size: int) -> None:
        """Forget all functions that were decoded from any of the ``size`` bytes from ``addr``."""
        self._latest = None
        for at in range(max(bisect_right(self._starts, addr) - 1, 0), len(self._starts)):
            if self._starts[at] >= addr + size:
                break
            self._functions.pop(at, None)
        # The last instruction of a function may reach into the bytes of the next function.
        at = bisect_right(self._starts, addr) - 2
        while at >= 0 and self._symbols[at].addr + self._size(at) + MAX_INSN_SIZE > addr:
            self._functions.pop(at, None)
            at -= 1

    def text_changed(self, addr: int, size: int) -> None:
        """Forget the functions whose bytes without probes a write has changed.

        The write was of ``size`` bytes at ``addr``. Most writes are those of probes, which are
        taken out again, so that nothing is forgotten.
        """
        # The function before the one that holds ``addr`` comes first: its last instruction may
        # reach into the bytes there.
        at = max(bisect_right(self._starts, addr) - 2, 0)
        while at < len(self._starts) and self._starts[at] < addr + size:
            function = self._functions.get(at)
            if function is not None:
                low = max(addr, function.start)
                high = min(addr + size, function.start + len(function.code))
                if (
                    low < high
                    and self.read(low, high - low)
                    != function.code[low - function.start : high - function.start]
                ):
                    self.invalidate(low, high - low)
            at += 1

    def in_exception_table(self, addr: int) -> bool:
        """Return True when a fault at ``addr`` goes on at a fixup (search_exception_tables)."""
        return addr in self._exceptions

    def touches_exception_table(self, function: FunctionCode) -> bool:
        """Return True when an instruction of ``function`` has an entry in the exception table.

        Then a fault may lead to a fixup inside of the function, where no jump shows it.
        """
        known = self._touches.get(function.start)
        if known is None:
            addresses = self._exception_addresses
            at = bisect_left(addresses, function.start)
            known = False
            while not known and at < len(addresses) and addresses[at] < function.end:
                known = addresses[at] - function.start in function.insns
                at += 1
            self._touches[function.start] = known
        return known

    def jumps_indirectly(self, function: FunctionCode) -> bool:
        """Return True when ``function`` jumps to where its code does not say.

        A jump to a retpoline thunk is an indirect jump, too.
        """
        thunks = self.image.indirect_thunks
        return function.has_indirect_jump or (
            thunks is not None and function.jumps_into(thunks.addr, thunks.end)
        )

    def _size(self, at: int) -> int:
        """Return the size in bytes of the symbol with index ``at``, cut at the next symbol.

        A symbol without a size reaches to the next symbol, or to the end of its segment.
        """
        symbol = self._symbols[at]
        room = self._starts[at + 1] - symbol.addr if at + 1 < len(self._starts) else None
        if symbol.size == 0:
            segment = self.image.segment_at(symbol.addr)
            left = 0 if segment is None else segment.end - symbol.addr
            return left if room is None else min(room, left)
        return symbol.size if room is None else min(symbol.size, room)

    def _load(self, at: int) -> FunctionCode:
        """Return the function with index ``at``; outside of the text it is empty."""
        symbol, size = self._symbols[at], self._size(at)
        if not self.image.is_text(symbol.addr):
            return FunctionCode(symbol, 0, b"", self.quirks)
        size = min(size, FUNCTION_SIZE_MAX)
        return FunctionCode(
            symbol, size, self.read(symbol.addr, size + MAX_INSN_SIZE - 1), self.quirks
        )


class RangeIndex:
    """This class finds in O(log n) whether one of many ranges holds an address."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        merged: list[list[int]] = []
        for start, end in sorted((item.addr, item.end) for item in ranges if item.size > 0):
            if merged and start <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        self._starts = [start for start, _end in merged]
        self._ends = [end for _start, end in merged]

    def __contains__(self, addr: int) -> bool:
        return self.overlaps(addr, 1)

    def overlaps(self, addr: int, size: int) -> bool:
        """Return True when a range holds any of the ``size`` bytes from ``addr``."""
        at = bisect_left(self._starts, addr + size) - 1
        return at >= 0 and self._ends[at] > addr


def _blacklisted_parts(image: Image) -> list[Range]:
    """Return the ranges of parts that the compiler split off blacklisted functions.

    Such a part (``foo.cold``, ``foo.isra.0``) is as blacklisted as ``foo``.
    """
    blacklist = RangeIndex(image.blacklist)
    parts: list[Range] = []
    for symbol in image.functions:
        name, dot, _suffix = symbol.name.partition(".")
        base = image.by_name.get(name) if dot else None
        if base is not None and base.addr in blacklist:
            parts.append(Range(symbol.addr, symbol.size))
    return parts


def _distinct(functions: Iterable[Symbol]) -> tuple[Symbol, ...]:
    """Return one symbol for each address: the longest, and of several as long the first by name."""
    chosen: dict[int, Symbol] = {}
    for symbol in functions:  # They are sorted by address, size and name.
        known = chosen.get(symbol.addr)
        if known is None or symbol.size > known.size:
            chosen[symbol.addr] = symbol
    return tuple(chosen.values())
