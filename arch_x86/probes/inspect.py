"""This module says what Linux 6.1 would answer for each byte of a function (kernel/kprobes.c).

It is the model behind ``optprobe inspect``. Slots and detour buffers are shown at hypothetical
addresses behind the image. Every site's slot lies at the first page boundary at least 1 MiB behind
the image's end, every site's detour buffer one page behind that, and the callback one page further.
The callback's first argument is 0.
"""

from __future__ import annotations

import json
from errno import EILSEQ
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeAlias

from arch_x86.isa.disasm import disassemble
from arch_x86.isa.encode import RelativeRangeError
from arch_x86.probes.boost import is_boostable
from arch_x86.probes.code import CodeCache
from arch_x86.probes.detour import build_detour
from arch_x86.probes.eligibility import (
    ProbeRefusal,
    Verdict,
    can_probe,
    entry_offset,
    is_ftrace_site,
)
from arch_x86.probes.optimize import OptimizePlan, Unoptimizable, can_optimize
from arch_x86.probes.prepare_emulation import Emulation, emulation_of
from arch_x86.probes.site_report import Buffer, BufferAddresses, SiteReport, answers_text
from arch_x86.probes.slot import build_slot
from engine.brief import count, described, shortened
from engine.errors import InputError, printable
from engine.kallsyms import Kallsyms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from arch_x86.isa.insn import Insn
    from engine.image import Image, Symbol

__all__ = (
    "Buffer",
    "BufferAddresses",
    "FunctionReport",
    "SiteReport",
    "inspect_function",
    "inspect_functions",
    "inspect_json",
    "json_end",
    "json_start",
    "named_functions",
    "write_inspect_json",
)

SCHEMA: Final = 1
_SITES_A_WRITE: Final = 512

_Answers: TypeAlias = "tuple[Verdict, Emulation | None, bool | None, OptimizePlan | Unoptimizable]"


class FunctionReport:
    """This class reports on one function, and makes the report on a site when it is asked for.

    The reports on all sites of a function would take 200 bytes and more for each byte of text.

    :param cache: the image's functions.
    :param symbol: the function.
    :param buffers: report also the bytes of each site's slot and detour buffer.
    :ivar size: the size of the code in bytes: the symbol's, cut at the next symbol, or up to there
        where the symbol has none; 0 outside of the text.
    """

    def __init__(self, cache: CodeCache, symbol: Symbol, *, buffers: bool = False) -> None:
        self.symbol = symbol.name
        self.addr = symbol.addr
        self._cache = cache
        self._function = cache.function_at(symbol.addr)
        self.size = 0 if self._function is None else max(self._function.end - symbol.addr, 0)
        self._addresses = BufferAddresses.behind(cache.image) if buffers else None

    def __repr__(self) -> str:
        return described(self, shortened(self.symbol), f"{self.addr:#x}", count(self.size, "byte"))

    @property
    def insns(self) -> dict[int, Insn]:
        """Return the instructions by their offset; the sites where one starts."""
        return {} if self._function is None else self._function.insns

    @property
    def decoded_size(self) -> int:
        """Return the offset behind the last decoded instruction.

        A byte in front of it at which no instruction starts is inside of one.
        """
        return 0 if self._function is None else self._function.decoded_size

    @property
    def sites(self) -> tuple[SiteReport, ...]:
        """Return the reports on all offsets, made anew at each call."""
        return tuple(map(self.site, range(self.size)))

    def to_json(self) -> dict[str, Any]:
        """Return the element of ``functions`` in the JSON document."""
        return {
            "symbol": self.symbol,
            "addr": self.addr,
            "size": self.size,
            "sites": [site.to_json() for site in self.sites],
        }

    def site(self, offset: int) -> SiteReport:
        """Return the report on one offset, from 0 to ``size`` - 1.

        Where a probe at a function's first byte goes behind an ENDBR, that byte has the answers of
        the place behind it.
        """
        moved = entry_offset(self._cache, self.addr) if offset == 0 else 0
        if moved:
            insn = self.insns.get(0)
            return self._site(moved)._replace(
                offset=0,
                insn=None if insn is None else _text(insn),
                length=insn and insn.length,
            )
        return self._site(offset)

    def _site(self, offset: int) -> SiteReport:
        cache, addr = self._cache, self.addr + offset
        insn = self.insns.get(offset)
        verdict, emulated, boostable, outcome = self._answers(addr, insn)
        slot = detour = None
        if (
            self._addresses is not None
            and boostable is not None
            and insn is not None
            and not is_ftrace_site(cache, addr)
        ):
            slot = _slot(insn, boostable, self._addresses)
            detour = _detour(outcome, self._addresses, cache.image.red_zone)
        return SiteReport(
            offset=offset,
            insn=None if insn is None else _text(insn),
            length=None if insn is None else insn.length,
            errno=verdict.errno,
            probe_reason=verdict.reason,
            boostable=boostable,
            emulated=emulated,
            plan=outcome if isinstance(outcome, OptimizePlan) else None,
            reason=outcome if isinstance(outcome, Unoptimizable) else None,
            slot=slot,
            detour=detour,
        )

    def _answers(self, addr: int, insn: Insn | None) -> _Answers:
        """Return whether ``insn`` at ``addr`` can be probed, emulated, boosted and optimized."""
        cache = self._cache
        verdict = can_probe(cache, addr)
        if insn is None or not verdict:
            return verdict, None, None, Unoptimizable.NOT_PROBEABLE
        ftrace = is_ftrace_site(cache, addr)
        return (
            verdict,
            None if ftrace else emulation_of(insn, cache.quirks),
            not ftrace and is_boostable(cache, addr),
            can_optimize(cache, addr, probeable=True),
        )

    def json_parts(self, first: int = 0, last: int | None = None) -> Iterator[str]:
        """Yield the text of ``json.dumps(self.to_json())``, some sites at a time.

        :param first: the offset at which to begin, in the middle of the text if it is not 0.
        :param last: the offset in front of which to end; None ends with the text.
        """
        last = self.size if last is None else last
        if first == 0:
            yield (
                f'{{"symbol": {json.dumps(self.symbol)}, "addr": {self.addr}, "size": {self.size},'
                ' "sites": ['
            )
        sites = self._site_texts(first, last)
        before = ", " if first else ""
        while some := ", ".join(islice(sites, _SITES_A_WRITE)):
            yield before + some
            before = ", "
        if last == self.size:
            yield "]}"

    def notable_sites(self) -> Iterator[SiteReport]:
        """Yield the reports on all sites except those that merely lie inside of an instruction.

        Of those there is nothing else to say.
        """
        insns, plain = self.insns, self._plain_size()
        for offset in range(self.size):
            if offset >= plain or offset in insns:
                yield self.site(offset)

    def _site_texts(self, first: int, last: int) -> Iterator[str]:
        """Yield the JSON text of each site from ``first`` to in front of ``last``.

        Three of four sites are inside of an instruction, and their texts differ in the offset
        alone, so the rest of that text is made once.
        """
        insns, plain = self.insns, self._plain_size()
        for offset in range(first, last):
            insn = insns.get(offset)
            if insn is None and offset < plain:
                yield f'{{"offset": {offset}{_INSIDE}'
            elif insn is None or offset == 0 or self._addresses is not None:
                yield self.site(offset).json_text()
            else:  # This is the same text, of which no report has to be made.
                verdict, emulated, boostable, outcome = self._answers(self.addr + offset, insn)
                size, reason = (
                    (outcome.size, None) if isinstance(outcome, OptimizePlan) else (None, outcome)
                )
                answers = answers_text(
                    insn.length, verdict.errno, verdict.reason, boostable, emulated, size, reason
                )
                yield f'{{"offset": {offset}, "insn": {_quoted(insn)}{answers}'

    def _plain_size(self) -> int:
        """Return the offset up to which only the instruction boundaries decide.

        Up to there instructions follow each other, and no list of the image says anything. So every
        offset inside of an instruction has the same answer.
        """
        cache = self._cache
        if cache.off_limits.overlaps(self.addr, self.size):
            return 0
        if not cache.ftrace_sites.isdisjoint(range(self.addr, self.addr + self.size)):
            return 0
        return min(self.decoded_size, self.size)


def inspect_function(
    cache: CodeCache, symbol: str | Symbol, *, buffers: bool = False
) -> FunctionReport:
    """Return the report on one function.

    :param symbol: the function, or its name, of which the first function with this name is taken.
    :raises InputError: the image has no such function.
    """
    found = named_functions(cache.image, symbol)[0] if isinstance(symbol, str) else symbol
    return FunctionReport(cache, found, buffers=buffers)


def named_functions(image: Image, name: str | None = None) -> list[Symbol]:
    """Return the functions called ``name``, or all functions, in address order and each once.

    Static functions of several files may have the same name.

    :raises InputError: no function has this name.
    """
    chosen = {
        (symbol.addr, symbol.name): symbol
        for symbol in image.functions
        if name is None or symbol.name == name
    }
    if name is not None and not chosen:
        raise InputError(
            f"{image.name}: no function '{printable(name)}'; there is"
            f" {Kallsyms(image).suggest(name)}"
        )
    return list(chosen.values())


def inspect_functions(
    cache: CodeCache, functions: Iterable[Symbol], *, buffers: bool = False
) -> Iterator[FunctionReport]:
    """Yield the report on each of ``functions``.

    Use each report before the next one: what was decoded for it is forgotten then, since it would
    fill the memory otherwise.
    """
    last: FunctionReport | None = None
    for symbol in functions:
        if last is not None and last.addr != symbol.addr:
            cache.invalidate(last.addr, max(last.size, 1))
        last = FunctionReport(cache, symbol, buffers=buffers)
        yield last


def write_inspect_json(
    out: TextIO,
    image: Image,
    symbol: str | None = None,
    buffers: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the document of :func:`inspect_json` to ``out`` while it is made.

    A MiB of text makes 250 MB of it.

    :param progress: is told how many functions are done, and how many there are.
    :raises InputError: the image has no function ``symbol``; nothing is written then.
    """
    functions = named_functions(image, symbol)
    out.write(json_start(image))
    for number, report in enumerate(
        inspect_functions(CodeCache(image), functions, buffers=buffers)
    ):
        if progress is not None:
            progress(number, len(functions))
        out.write(", " * (number > 0))
        out.writelines(report.json_parts())
    out.write(json_end())


def json_start(image: Image) -> str:
    """Return the text of the JSON document in front of the first function."""
    return f'{{"schema": {SCHEMA}, "image": {json.dumps(image.name)}, "functions": ['


def json_end() -> str:
    """Return the text of the JSON document behind the last function, and the end of the line."""
    return "]}\n"


def inspect_json(image: Image, symbol: str | None = None, buffers: bool = False) -> dict[str, Any]:
    """Return the document of ``optprobe inspect --json``.

    :param symbol: the functions of this name, or None for all functions.
    :param buffers: report also the bytes of each site's slot and detour buffer.
    :raises InputError: the image has no function ``symbol``.
    """
    functions = inspect_functions(CodeCache(image), named_functions(image, symbol), buffers=buffers)
    return {
        "schema": SCHEMA,
        "image": image.name,
        "functions": [report.to_json() for report in functions],
    }


_INSIDE: Final = (
    SiteReport(
        offset=0,
        insn=None,
        length=None,
        errno=EILSEQ,
        probe_reason=ProbeRefusal.NOT_BOUNDARY,
        boostable=None,
        emulated=None,
        plan=None,
        reason=Unoptimizable.NOT_PROBEABLE,
    )
    .json_text()
    .removeprefix('{"offset": 0')
)
"""This is the JSON text of a site inside of an instruction, from behind its offset."""


def _text(insn: Insn) -> str:
    """Return the instruction's text.

    It depends on the address of relative branches only. All others are looked up by their bytes,
    since code repeats itself.
    """
    return insn.text if insn.target is not None else _text_anywhere(insn.raw)


@lru_cache(maxsize=1 << 15)
def _text_anywhere(raw: bytes) -> str:
    return disassemble(raw, 0)


def _quoted(insn: Insn) -> str:
    """Return the JSON text of the instruction's text."""
    return json.dumps(insn.text) if insn.target is not None else _quoted_anywhere(insn.raw)


@lru_cache(maxsize=1 << 15)
def _quoted_anywhere(raw: bytes) -> str:
    return json.dumps(disassemble(raw, 0))


def _slot(insn: Insn, boostable: bool, addresses: BufferAddresses) -> Buffer | None:
    """Return the slot's bytes, or None where its hypothetical address is out of reach."""
    try:
        return Buffer(addresses.slot, build_slot(insn, addresses.slot, boostable))
    except RelativeRangeError:
        return None


def _detour(
    outcome: OptimizePlan | Unoptimizable, addresses: BufferAddresses, red_zone: bool
) -> Buffer | None:
    """Return the detour buffer's bytes, or None where there is none, or none in reach."""
    if not isinstance(outcome, OptimizePlan):
        return None
    try:
        detour = build_detour(
            outcome, addresses.detour, op_id=0, callback=addresses.callback, red_zone=red_zone
        )
    except RelativeRangeError:
        return None
    return Buffer(detour.addr, detour.code, (detour.copied_start, detour.copied_len))
