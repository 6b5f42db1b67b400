"""Code images as the engine sees them: bytes at addresses, symbols, and the kernel's lists of what
may not be touched.

Arch-neutral records only; who reads ELF or JSON into them is the arch layer's business. The lists
answer to the kernel's own sections: ``__ex_table``, ``__jump_table``, ``.static_call_sites``,
``__mcount_loc``, ``.altinstructions``, ``__bug_table``, ``_kprobe_blacklist``.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from engine.brief import count, described, shortened

__all__ = (
    "DeferredRelocation",
    "ExceptionEntry",
    "Image",
    "Import",
    "Range",
    "Reserved",
    "ReservedKind",
    "Segment",
    "Symbol",
)


@dataclass(frozen=True, slots=True)
class Range:
    """``size`` bytes from ``addr``."""

    addr: int
    size: int

    @property
    def end(self) -> int:
        """First address behind the range."""
        return self.addr + self.size

    def __contains__(self, addr: int) -> bool:
        return self.addr <= addr < self.addr + self.size

    def overlaps(self, addr: int, size: int) -> bool:
        """True when any of the ``size`` bytes from ``addr`` lies in the range."""
        return self.addr < addr + size and addr < self.addr + self.size


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory as loaded: ``data`` at ``addr``, zero-filled up to ``size`` bytes.

    ``executable`` segments are text: the guest can't write them, whatever ``writable`` says in the
    file.
    """

    addr: int
    data: bytes
    size: int
    writable: bool = False
    executable: bool = True

    @property
    def end(self) -> int:
        """First address behind the segment."""
        return self.addr + self.size

    def __repr__(self) -> str:
        kind = "text" if self.executable else "data" if self.writable else "constants"
        return described(self, f"{self.addr:#x}", f"{count(self.size, 'byte')} of {kind}")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named range. ``function`` is false for data objects.

    ``indirect``: the code at ``addr`` is a resolver, which returns the address of the function that
    callers get (STT_GNU_IFUNC). ``shadowed``: a call by that name never reaches it: it is an old
    version, or a file that is looked into earlier has the name, too.
    """

    name: str
    addr: int
    size: int
    function: bool = True
    indirect: bool = False
    shadowed: bool = False

    def __contains__(self, addr: int) -> bool:
        return self.addr <= addr < self.addr + self.size

    def __repr__(self) -> str:
        kinds = (
            ("data", not self.function),
            ("indirect", self.indirect),
            ("shadowed", self.shadowed),
        )
        return described(
            self,
            shortened(self.name),
            f"{self.addr:#x}",
            count(self.size, "byte"),
            *(kind for kind, holds in kinds if holds),
        )


class ReservedKind(Enum):
    """Why a range of text belongs to somebody else. Values are those of the code-image format."""

    JUMP_LABEL = "jump_label"
    STATIC_CALL = "static_call"
    FTRACE = "ftrace"
    FTRACE_SITE = "ftrace_site"
    ALTERNATIVES = "alternatives"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class Reserved:
    """``size`` bytes from ``addr`` that ``kind`` patches or decodes itself."""

    addr: int
    size: int
    kind: ReservedKind

    def overlaps(self, addr: int, size: int) -> bool:
        """True when any of the ``size`` bytes from ``addr`` is reserved."""
        return self.addr < addr + size and addr < self.addr + self.size


@dataclass(frozen=True, slots=True)
class ExceptionEntry:
    """A fault at ``insn`` goes on at ``fixup`` (None: the image does not say where)."""

    insn: int
    fixup: int | None = None


@dataclass(frozen=True, slots=True)
class Import:
    """A function that the image calls and does not define; a stub stands at ``addr``."""

    name: str
    addr: int


@dataclass(frozen=True, slots=True)
class DeferredRelocation:
    """The 64-bit word at ``place`` becomes what the function at ``resolver`` returns, plus
    ``addend``; ``symbol`` may be "".
    """

    place: int
    resolver: int
    addend: int = 0
    symbol: str = ""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One loaded image. Addresses are final: relocations have been applied.

    ``imports`` are functions without a definition: whoever loads the image puts a stub at each
    address (8 bytes apart at least). ``blacklist`` are ranges where no probe may go.
    ``indirect_thunks`` is the range of the retpoline thunks. ``preemption``: the code was built for
    a preemptible kernel (6.1 then never boosts). ``ibt``: and for one with CONFIG_X86_KERNEL_IBT,
    whose functions begin with ENDBR64 if they are called through pointers. ``red_zone``: the code
    may keep data in the 128 bytes under RSP; ``red_zone_given`` is false where the file does not
    say so, and ``red_zone`` is a guess. ``warnings`` are for the user: one line each, what was
    assumed. ``deferred`` are relocations that take running code, in order. ``thread_image`` is what
    the memory right under each CPU's thread pointer holds at first; ``thread_setup`` are functions
    without arguments that each CPU calls once, behind all relocations.
    """

    name: str
    segments: tuple[Segment, ...]
    symbols: tuple[Symbol, ...]
    exception_table: tuple[ExceptionEntry, ...] = ()
    reserved: tuple[Reserved, ...] = ()
    blacklist: tuple[Range, ...] = ()
    indirect_thunks: Range | None = None
    preemption: bool = False
    ibt: bool = False
    red_zone: bool = False
    red_zone_given: bool = True
    imports: tuple[Import, ...] = ()
    deferred: tuple[DeferredRelocation, ...] = ()
    thread_image: bytes = b""
    thread_setup: tuple[int, ...] = ()
    entry: int | None = None
    warnings: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        size = sum(segment.size for segment in self.segments)
        warned = count(len(self.warnings), "warning") if self.warnings else ""
        return described(
            self,
            shortened(self.name),
            count(size, "byte"),
            count(len(self.functions), "function"),
            warned,
        )

    @cached_property
    def functions(self) -> tuple[Symbol, ...]:
        """Function symbols in address order, aliases included, size-0 ones too."""
        return tuple(
            sorted((s for s in self.symbols if s.function), key=lambda s: (s.addr, s.size, s.name))
        )

    @cached_property
    def by_name(self) -> dict[str, Symbol]:
        """First symbol of each name."""
        names: dict[str, Symbol] = {}
        for symbol in self.symbols:
            names.setdefault(symbol.name, symbol)
        return names

    @cached_property
    def _homonyms(self) -> dict[str, tuple[Symbol, ...]]:
        """The functions of each name that several have, at different addresses."""
        addresses: dict[str, dict[int, Symbol]] = {}
        for symbol in self.functions:
            if not symbol.shadowed:
                addresses.setdefault(symbol.name, {}).setdefault(symbol.addr, symbol)
        return {name: tuple(found.values()) for name, found in addresses.items() if len(found) > 1}

    def homonyms(self, name: str) -> tuple[Symbol, ...]:
        """The functions that are called ``name``, in address order, if there are several; else
        none.
        """
        return self._homonyms.get(name, ())

    @cached_property
    def _starts(self) -> tuple[list[int], list[Segment]]:
        ordered = sorted(self.segments, key=lambda s: s.addr)
        return [s.addr for s in ordered], ordered

    def segment_at(self, addr: int) -> Segment | None:
        """The segment that holds ``addr``, or None."""
        starts, ordered = self._starts
        at = bisect_right(starts, addr) - 1
        return ordered[at] if at >= 0 and addr < ordered[at].end else None

    def is_text(self, addr: int) -> bool:
        """True when ``addr`` lies in an executable segment."""
        segment = self.segment_at(addr)
        return segment is not None and segment.executable

    def read(self, addr: int, size: int) -> bytes:
        """Up to ``size`` bytes as loaded, ending early at the end of the segment; ``b""`` outside
        of all.
        """
        segment = self.segment_at(addr)
        if segment is None:
            return b""
        start = addr - segment.addr
        stop = min(start + size, segment.size)
        data = segment.data[start:stop]
        return data + bytes(stop - start - len(data))
