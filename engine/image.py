"""Code images: bytes at addresses, symbols, and the kernel's lists of reserved text.

The records here are the same for all architectures, and the architecture layer reads ELF or JSON
files into them. The lists answer to the kernel's own sections: ``__ex_table``, ``__jump_table``,
``.static_call_sites``, ``__mcount_loc``, ``.altinstructions``, ``__bug_table``,
``_kprobe_blacklist``.
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
    """A range of ``size`` bytes that begins at ``addr``."""

    addr: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.addr + self.size

    def __contains__(self, addr: int) -> bool:
        return self.addr <= addr < self.addr + self.size

    def overlaps(self, addr: int, size: int) -> bool:
        """Whether any of the ``size`` bytes from ``addr`` lies in the range."""
        return self.addr < addr + size and addr < self.addr + self.size


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of memory as it is loaded: ``data`` at ``addr``, and zeros up to ``size`` bytes.

    An ``executable`` segment is text: the guest can't write it, whatever ``writable`` says.
    """

    addr: int
    data: bytes
    size: int
    writable: bool = False
    executable: bool = True

    @property
    def end(self) -> int:
        """The first address behind the segment."""
        return self.addr + self.size

    def __repr__(self) -> str:
        kind = "text" if self.executable else "data" if self.writable else "constants"
        return described(self, f"{self.addr:#x}", f"{count(self.size, 'byte')} of {kind}")


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named range of addresses.

    :ivar size: bytes; 0 where the file does not say.
    :ivar function: whether the symbol is a function; false for data objects.
    :ivar indirect: the code at ``addr`` is a resolver, which returns the address of the function
        that callers get (STT_GNU_IFUNC).
    :ivar shadowed: a call by this name never reaches the symbol, since it is an old version, or
        since a file that is searched earlier has the name, too.
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
    """The owner of text that no probe may change. The values are those of code images."""

    JUMP_LABEL = "jump_label"
    STATIC_CALL = "static_call"
    FTRACE = "ftrace"
    FTRACE_SITE = "ftrace_site"
    ALTERNATIVES = "alternatives"
    BUG = "bug"


@dataclass(frozen=True, slots=True)
class Reserved:
    """A range of ``size`` bytes from ``addr`` that ``kind`` in the kernel patches or decodes."""

    addr: int
    size: int
    kind: ReservedKind

    def overlaps(self, addr: int, size: int) -> bool:
        """Whether any of the ``size`` bytes from ``addr`` is reserved."""
        return self.addr < addr + size and addr < self.addr + self.size


@dataclass(frozen=True, slots=True)
class ExceptionEntry:
    """An entry of the exception table: a fault of the instruction at ``insn`` goes on at ``fixup``.

    ``fixup`` is None where the image does not say the address.
    """

    insn: int
    fixup: int | None = None


@dataclass(frozen=True, slots=True)
class Import:
    """A function that the image calls and does not define. A stub stands at ``addr``."""

    name: str
    addr: int


@dataclass(frozen=True, slots=True)
class DeferredRelocation:
    """A relocation that takes running code.

    The 64-bit word at ``place`` becomes what the function at ``resolver`` returns, plus ``addend``.
    ``symbol`` is the name that it belongs to, or "".
    """

    place: int
    resolver: int
    addend: int = 0
    symbol: str = ""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One loaded image. All addresses are final, since relocations have been applied.

    :ivar imports: functions without a definition. The machine that loads the image puts a stub at
        each of their addresses, which lie at least 8 bytes apart.
    :ivar blacklist: ranges where no probe may go.
    :ivar indirect_thunks: the range of the retpoline thunks.
    :ivar preemption: the code was built for a preemptible kernel, where 6.1 never boosts.
    :ivar ibt: the code was built with CONFIG_X86_KERNEL_IBT, so that functions which are called
        through pointers begin with ENDBR64.
    :ivar red_zone: the code may keep data in the 128 bytes under RSP.
    :ivar red_zone_given: false where the file does not say so, and ``red_zone`` is a guess.
    :ivar deferred: relocations that take running code, in the order in which they are done.
    :ivar thread_image: the initial content of the memory right under each CPU's thread pointer.
    :ivar thread_setup: addresses of functions without arguments that each CPU calls once, after all
        relocations.
    :ivar entry: the address at which an executable starts, or None.
    :ivar warnings: what was assumed of the file, one line each, for the user.
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
        """The function symbols in the order of addresses, with aliases and those of size 0."""
        return tuple(
            sorted((s for s in self.symbols if s.function), key=lambda s: (s.addr, s.size, s.name))
        )

    @cached_property
    def by_name(self) -> dict[str, Symbol]:
        """The first symbol of each name."""
        names: dict[str, Symbol] = {}
        for symbol in self.symbols:
            names.setdefault(symbol.name, symbol)
        return names

    @cached_property
    def _homonyms(self) -> dict[str, tuple[Symbol, ...]]:
        """The functions of each name that stands for several, at different addresses."""
        addresses: dict[str, dict[int, Symbol]] = {}
        for symbol in self.functions:
            if not symbol.shadowed:
                addresses.setdefault(symbol.name, {}).setdefault(symbol.addr, symbol)
        return {name: tuple(found.values()) for name, found in addresses.items() if len(found) > 1}

    def homonyms(self, name: str) -> tuple[Symbol, ...]:
        """The functions that are called ``name``, in the order of addresses, if there are several.

        The result is empty where one function, or none, has the name.
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
        """Whether ``addr`` lies in an executable segment."""
        segment = self.segment_at(addr)
        return segment is not None and segment.executable

    def read(self, addr: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``addr`` as they were loaded.

        There are fewer where the segment ends before, and none where no segment holds ``addr``.
        """
        segment = self.segment_at(addr)
        if segment is None:
            return b""
        start = addr - segment.addr
        stop = min(start + size, segment.size)
        data = segment.data[start:stop]
        return data + bytes(stop - start - len(data))
