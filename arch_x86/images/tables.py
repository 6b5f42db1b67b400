"""This module reads a kernel module's own lists of text that probes must respect (kernel/module.c).

They are read from the module's sections after relocation. Formats are those of Linux 6.1: ``struct
exception_table_entry`` (arch/x86/include/asm/extable.h), ``jump_entry`` (linux/jump_label.h),
``static_call_site`` (linux/static_call_types.h), ``bug_entry`` (asm-generic/bug.h), ``alt_instr``
(asm/alternative.h), and plain addresses in ``__mcount_loc`` and ``_kprobe_blacklist``. A table that
makes no sense is left out with a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from arch_x86.images.elf_file import ElfFile
from arch_x86.images.elf_records import Section
from arch_x86.images.image_memory import Memory
from engine.image import ExceptionEntry, Range, Reserved, ReservedKind, Symbol

__all__ = ("KernelTables", "read_tables")

_PATCH_SIZE: Final = 5  # bytes of a call, of a jump, or of the no-op in its place
_UD2: Final = b"\x0f\x0b"
_SHORT_SITE: Final = (b"\xeb", b"\x66\x90")
_LONG_SITE: Final = (b"\xe9", b"\x0f\x1f\x44\x00\x00")
# add_module_kprobe_blacklist() (kernel/kprobes.c) takes these sections as a whole.
_BLACKLISTED_SECTIONS: Final = (".kprobes.text", ".noinstr.text")


@dataclass(slots=True)
class KernelTables:
    """This record collects what the tables of one module say.

    :ivar preemption: True when the module was built for a preemptible kernel.
    """

    exceptions: list[ExceptionEntry] = field(default_factory=list[ExceptionEntry])
    ranges: list[Reserved] = field(default_factory=list[Reserved])
    forbidden: list[Range] = field(default_factory=list[Range])
    notes: list[str] = field(default_factory=list[str])
    preemption: bool = False

    @property
    def exception_table(self) -> tuple[ExceptionEntry, ...]:
        """Return the entries of ``__ex_table``, sorted by the faulting instruction."""
        return tuple(sorted(set(self.exceptions), key=lambda entry: (entry.insn, entry.fixup or 0)))

    @property
    def reserved(self) -> tuple[Reserved, ...]:
        """Return the ranges that other code patches, each once, sorted by address."""
        return tuple(
            sorted(set(self.ranges), key=lambda entry: (entry.addr, entry.size, entry.kind.value))
        )

    @property
    def blacklist(self) -> tuple[Range, ...]:
        """Return the ranges where no probe may go, each once, sorted by address."""
        return tuple(sorted(set(self.forbidden), key=lambda entry: (entry.addr, entry.size)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return one line for each table, or entry of a table, that was left out."""
        return tuple(self.notes)


@dataclass(frozen=True, slots=True)
class _Reader:
    """This class reads one table, which is relocated and has whole entries of ``size`` bytes.

    :ivar name: the name of the section.
    :ivar addr: where the table lies in memory.
    :ivar data: the bytes of the table.
    """

    memory: Memory
    name: str
    addr: int
    data: bytes
    size: int

    def relative(self, at: int) -> int:
        """Return the address that the self-relative 32-bit field at offset ``at`` stands for."""
        return (self.addr + at + int.from_bytes(self.data[at : at + 4], "little", signed=True)) % (
            1 << 64
        )

    def absolute(self, at: int) -> int:
        """Return the 64-bit address at offset ``at``."""
        return int.from_bytes(self.data[at : at + 8], "little")

    def holds(self, addr: int, size: int) -> bool:
        """Return True when the ``size`` bytes at ``addr`` are text."""
        return size > 0 and self.memory.is_text(addr) and self.memory.read(addr, size) is not None


_Entry = Callable[[KernelTables, _Reader, int], bool]


def read_tables(
    elf: ElfFile, memory: Memory, places: Mapping[int, int], symbols: Sequence[Symbol]
) -> KernelTables:
    """Return what the tables of ``elf`` say.

    :param memory: the memory in which the sections lie, relocated.
    :param places: the address of each loaded section by its index.
    :param symbols: the module's symbols, which give blacklisted functions their sizes.
    """
    tables = KernelTables()
    functions = {symbol.addr: symbol.size for symbol in reversed(symbols) if symbol.function}

    def blacklisted(result: KernelTables, table: _Reader, at: int) -> bool:
        addr = table.absolute(at)
        size = functions.get(addr, 0)
        if not table.holds(addr, size):
            return False
        result.forbidden.append(Range(addr, size))
        return True

    parsers: dict[str, tuple[tuple[int, ...], _Entry]] = {
        "__ex_table": ((12,), _exception),
        "__jump_table": ((16,), _jump_label),
        ".static_call_sites": ((8,), _static_call),
        "__mcount_loc": ((8,), _ftrace_site),
        "__bug_table": ((12, 6), _bug),
        # An entry has 14 bytes since Linux 6.3, whose cpuid field has 32 bits.
        ".altinstructions": ((12, 14), _alternative),
        "_kprobe_blacklist": ((8,), blacklisted),
    }
    for section in elf.sections:
        if section.index not in places or not section.size or section.type == "SHT_NOBITS":
            continue
        if section.name in parsers:
            sizes, parse = parsers[section.name]
            _read_table(tables, memory, section, places[section.index], sizes, parse)
        elif section.name in _BLACKLISTED_SECTIONS:
            tables.forbidden.append(Range(places[section.index], section.size))
        elif section.name == ".modinfo":
            tables.preemption = _is_preemptible(elf.contents(section))
    return tables


def _read_table(
    tables: KernelTables,
    memory: Memory,
    section: Section,
    addr: int,
    sizes: tuple[int, ...],
    parse: _Entry,
) -> None:
    """Add the entries of one table to ``tables``.

    Each of the entry ``sizes`` is tried, and the one with the fewest entries that make no sense is
    taken, for a table does not say which kernel it was built for.
    """
    data = memory.read(addr, section.size) or b""
    sizes = tuple(
        size
        for size in ((section.entsize, *sizes) if section.entsize in sizes else sizes)
        if len(data) % size == 0
    )
    attempts: list[tuple[int, KernelTables]] = []
    for size in sizes:
        attempt = KernelTables()
        reader = _Reader(memory, section.name, addr, data, size)
        good = sum(parse(attempt, reader, at) for at in range(0, len(data), size))
        attempts.append((len(data) // size - good, attempt))
    if not attempts:
        tables.notes.append(
            f"{section.name}: {len(data)} bytes are not whole entries of Linux 6.1's format;"
            " ignored"
        )
        return
    bad, best = min(attempts, key=lambda attempt: attempt[0])
    if bad and not (best.exceptions or best.ranges or best.forbidden):
        tables.notes.append(f"{section.name}: not in the format of Linux 6.1; ignored")
        return
    if bad:
        tables.notes.append(
            f"{section.name}: {bad} entries do not point to what they should; ignored"
        )
    tables.exceptions += best.exceptions
    tables.ranges += best.ranges
    tables.forbidden += best.forbidden


def _reserve(
    result: KernelTables, table: _Reader, addr: int, size: int, kind: ReservedKind
) -> bool:
    if not table.holds(addr, size):
        return False
    result.ranges.append(Reserved(addr, size, kind))
    return True


def _exception(result: KernelTables, table: _Reader, at: int) -> bool:
    insn, fixup = table.relative(at), table.relative(at + 4)
    if not (table.holds(insn, 1) and table.holds(fixup, 1)):
        return False
    result.exceptions.append(ExceptionEntry(insn, fixup))
    return True


def _jump_label(result: KernelTables, table: _Reader, at: int) -> bool:
    addr = table.relative(at)
    code = table.memory.read(addr, 2) or b""
    if code.startswith(_SHORT_SITE):
        return _reserve(result, table, addr, 2, ReservedKind.JUMP_LABEL)
    code = table.memory.read(addr, _PATCH_SIZE) or b""
    return code.startswith(_LONG_SITE) and _reserve(
        result, table, addr, _PATCH_SIZE, ReservedKind.JUMP_LABEL
    )


def _static_call(result: KernelTables, table: _Reader, at: int) -> bool:
    return _reserve(result, table, table.relative(at), _PATCH_SIZE, ReservedKind.STATIC_CALL)


def _ftrace_site(result: KernelTables, table: _Reader, at: int) -> bool:
    return _reserve(result, table, table.absolute(at), _PATCH_SIZE, ReservedKind.FTRACE_SITE)


def _bug(result: KernelTables, table: _Reader, at: int) -> bool:
    addr = table.relative(at)
    return table.memory.read(addr, 2) == _UD2 and _reserve(result, table, addr, 2, ReservedKind.BUG)


def _alternative(result: KernelTables, table: _Reader, at: int) -> bool:
    lengths = table.data[at + table.size - 2 : at + table.size]  # instrlen, replacementlen
    addr, replacement = table.relative(at), table.relative(at + 4)
    if lengths[1] and not table.holds(replacement, lengths[1]):
        return False
    return _reserve(result, table, addr, lengths[0], ReservedKind.ALTERNATIVES)


def _is_preemptible(modinfo: bytes) -> bool:
    """Return True when the module was built for a preemptible kernel.

    Its vermagic says so by MODULE_VERMAGIC_PREEMPT (include/linux/vermagic.h).
    """
    magic = next((line for line in modinfo.split(b"\0") if line.startswith(b"vermagic=")), b"")
    return any(word in (b"preempt", b"preempt_rt") for word in magic.split())
