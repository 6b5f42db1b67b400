"""This module writes the listing of ``optprobe inspect``; no kernel file answers to it.

A function has a header, and a line for each instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

from arch_x86.isa.insn import Insn
from arch_x86.lab.listing import listing
from arch_x86.probes.code import CodeCache
from arch_x86.probes.eligibility import ProbeRefusal
from arch_x86.probes.inspect import FunctionReport
from arch_x86.probes.optimize import Unoptimizable
from arch_x86.probes.site_report import BufferAddresses, SiteReport
from engine.errors import errno_name
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.report.columns import LINE_WIDTH, Cell, Columns, ascii_text, chopped
from engine.report.terminal import Style, count

__all__ = ("InspectPage", "padding_offsets")

_BYTES: Final = 16
# The last three columns are as wide as "PROBE", "call_indirect" and "later-not-boostable".
_MARKS: Final = (5, 13, 19)
_HEADINGS: Final = ("OFFSET", "BYTES", "INSTRUCTION", "PROBE", "HIT", "JUMP")
_LEGEND: Final = (
    "PROBE  yes, or the error that register_kprobe() returns, and why",
    (
        "HIT    how the instruction runs on a hit: boosted, stepped, ftrace, or else what it is"
        " emulated as"
    ),
    (
        "JUMP   how many bytes the jump of an optimized probe replaces, or why the probe stays a"
        " breakpoint"
    ),
    "Left out: offsets inside of instructions, which take no probe (EILSEQ), and padding.",
    "All as Linux 6.1 answers; docs/inspect.md explains each word.",
)
_BUFFERS_LEGEND: Final = (
    "Slots and detour buffers are as they would be behind the image, every site's at the same"
    " address."
)


class InspectPage:
    """This class makes the listing, line by line.

    :param image: the image whose functions are listed.
    :param cache: its functions; the reports must come from the same one.
    :param style: says whether to use colours.
    :param buffers: show also each site's slot and detour buffer.
    :param begun: the page is the rest of one of which another process makes the beginning, with the
        first detour buffer.
    """

    def __init__(
        self,
        image: Image,
        cache: CodeCache,
        style: Style,
        *,
        buffers: bool,
        begun: bool = False,
    ) -> None:
        self._image = image
        self._cache = cache
        self._style = style
        self._places = _Places(image)
        self._buffers = (
            _BufferLines(image, style, self._places.describe, begun=begun) if buffers else None
        )
        self._last: FunctionReport | None = None

    @property
    def is_settled(self) -> bool:
        """Return True when what has been shown has no effect any more on other functions' lines.

        It has one until the first detour buffer is shown, which is shown in full.
        """
        return self._buffers is None or self._buffers.begun

    def goes_on(self, report: FunctionReport) -> bool:
        """Return True when ``report`` is on the same code as the last one that was shown."""
        return self._last is not None and self._last.addr == report.addr

    def legend(self) -> Iterator[str]:
        """Yield the lines that say what the columns mean, which stand once at the top."""
        yield from _LEGEND
        if self._buffers is not None:
            yield _BUFFERS_LEGEND

    def function(self, report: FunctionReport) -> Iterator[str]:
        """Yield the lines of one function.

        Where it is another name of the last function's code, there is only a header, which says so.
        """
        yield ""
        if self._last is not None and self._last.addr == report.addr:
            yield from self._header(report, f"the same code as {ascii_text(self._last.symbol)}")
            return
        self._last = report
        sites = list(report.notable_sites())
        if sites:
            yield from self._header(report, _counts(sites))
            yield from self._sites(report, sites)
        else:
            text = self._image.is_text(report.addr)
            yield from self._header(
                report, "no code" if text else "outside of the text, no probe goes there"
            )

    def _header(self, report: FunctionReport, facts: str) -> Iterator[str]:
        name, facts = (
            ascii_text(report.symbol),
            f"{report.addr:#x}, {count(report.size, 'byte')}, {facts}",
        )
        if len(name) + 2 + len(facts) <= LINE_WIDTH:
            yield f"{self._style.paint(name, 'bold')}  {facts}"
            return
        yield from (self._style.paint(line, "bold") for line in chopped(name))
        yield from chopped(facts)

    def _sites(self, report: FunctionReport, sites: list[SiteReport]) -> Iterator[str]:
        offset_width = max(len(_HEADINGS[0]), len(f"+{report.size - 1:#x}"))
        text_width = LINE_WIDTH - offset_width - _BYTES - sum(_MARKS) - (len(_HEADINGS) - 1)
        columns = Columns((offset_width, _BYTES, text_width, *_MARKS), self._style)
        yield columns.row(*((heading, "bold") for heading in _HEADINGS))
        padding = padding_offsets(list(report.insns.values()), report.addr)

        def block(site: SiteReport) -> object:
            """Return a value that is the same for sites which are shown as one line."""
            if site.insn is None:
                return site.errno, site.probe_reason
            return "padding" if site.offset in padding else site.offset

        for common, group in groupby(_without_echoes(sites), key=block):
            some = list(group)
            if common == "padding":
                yield columns.row(*_padding(some))
            elif some[0].insn is None:
                yield columns.row(*self._nothing_there(report, some))
            else:
                yield columns.row(*self._instruction(report, some[0], text_width))
                if self._buffers is not None:
                    yield from self._buffers.lines(some[0])

    def _instruction(self, report: FunctionReport, site: SiteReport, text_width: int) -> list[Cell]:
        insn = report.insns[site.offset]
        text = site.insn or ""
        if insn.target is not None and not text.startswith("."):
            # A name says more than an address, unless it takes several lines.
            named = f"{text.split()[0]} {self._places.describe(insn.target, report)}"
            text = named if len(named) <= text_width else text
        return [(f"+{site.offset:#x}", "dim"), (insn.raw.hex(), ""), (text, ""), *_marks(site)]

    def _nothing_there(self, report: FunctionReport, sites: list[SiteReport]) -> list[Cell]:
        """Return the line for offsets without an instruction that have the same answer."""
        first = sites[0].offset
        raw = self._cache.read(report.addr + first, len(sites)).hex()
        what = (
            f"({count(len(sites), 'byte')}"
            f" {'inside' if first < report.decoded_size else 'not decoded'})"
        )
        shown = raw if len(raw) <= _BYTES else raw[: _BYTES - 2] + ".."
        return [(f"+{first:#x}", "dim"), (shown, "dim"), (what, "dim"), *_marks(sites[0])]


class _Places:
    """This class names branch targets."""

    def __init__(self, image: Image) -> None:
        self._kallsyms = Kallsyms(image)
        self._imports = {function.addr: ascii_text(function.name) for function in image.imports}

    def describe(self, addr: int, within: FunctionReport | None = None) -> str:
        """Return ``+0x10`` for a place in the function ``within``, or else a name, or the address.

        The name is an import's, or ``symbol+0x10``.
        """
        if within is not None and within.addr <= addr < within.addr + within.size:
            return f"+{addr - within.addr:#x}"
        return self._imports.get(addr) or ascii_text(self._kallsyms.describe(addr)).removesuffix(
            "+0x0"
        )


class _BufferLines:
    """This class shows slots and detour buffers beneath their site.

    :ivar begun: a detour buffer has been shown in full.
    """

    def __init__(
        self, image: Image, style: Style, describe: Callable[[int], str], *, begun: bool
    ) -> None:
        self._callback = BufferAddresses.behind(image).callback
        self._describe = describe
        self._columns = Columns(
            (6, 18, _BYTES, LINE_WIDTH - 6 - 18 - _BYTES - 3 - 8), style, indent=8
        )
        self.begun = begun

    def lines(self, site: SiteReport) -> Iterator[str]:
        """Yield the lines that show the buffers of ``site``; none where no probe goes.

        The code in front of the copied instructions is the same in all detour buffers, so it is
        written out in the first one only.
        """
        if site.slot is not None:
            yield from self._code("slot", site.slot.addr, site.slot.code)
        detour = site.detour
        if detour is None or detour.copied is None:
            return
        start, length = detour.copied
        if self.begun:
            told = f"({start} bytes as in the first one: save all, call back, restore all)"
            yield self._columns.row(("detour", "dim"), (f"{detour.addr:#x}", "dim"), (told, "dim"))
        else:
            yield from self._code("detour", detour.addr, detour.code[:start])
        self.begun = True
        yield from self._code(
            "", detour.addr + start, detour.code[start : start + length], "yellow"
        )
        yield from self._code("", detour.addr + start + length, detour.code[start + length :])

    def _code(self, label: str, addr: int, code: bytes, colour: str = "") -> Iterator[str]:
        for at, raw, text in listing(code, addr, name=self._name):
            yield self._columns.row(
                (label, "dim"), (f"{at:#x}", "dim"), (raw.replace(" ", ""), ""), (text, colour)
            )
            label = ""

    def _name(self, addr: int) -> str:
        return "optimized_callback" if addr == self._callback else self._describe(addr)


def padding_offsets(insns: list[Insn], start: int) -> frozenset[int]:
    """Return the offsets of instructions that only fill.

    They are runs of INT3 or of zeros, and no-ops at the function's end. A single one is never
    padding, since it may be meant.

    :param insns: the function's instructions, in order.
    :param start: the function's address.
    """
    found: set[int] = set()
    run: list[int] = []
    last: str | None = None  # It is what the instructions of the run have in common.
    fill = [_fill(insn) for insn in insns]
    end = next((at + 1 for at in reversed(range(len(insns))) if fill[at] is None), len(insns))
    for at, (insn, kind) in enumerate(zip(insns, fill, strict=True)):
        shown = at == 0 or kind is None or (kind == "nop" and at < end)
        key = None if shown else kind if at < end else "end"
        if key != last:
            found.update(run if len(run) > 1 else ())
            run, last = [], key
        if key is not None:
            run.append(insn.addr - start)
    found.update(run if len(run) > 1 else ())
    return frozenset(found)


def _fill(insn: Insn) -> str | None:
    if insn.raw in (b"\xcc", b"\x00\x00"):
        return insn.raw.hex()
    pause = 0xF3 in insn.prefixes
    plain_nop = insn.opcode == b"\x90" and not insn.rex & 1 and not pause
    return "nop" if plain_nop or insn.opcode == b"\x0f\x1f" else None


def _without_echoes(sites: list[SiteReport]) -> Iterator[SiteReport]:
    """Yield the sites, without those inside of an instruction that have nothing to say.

    Such a site has the usual answer, EILSEQ, or the answer of the instruction that it lies in.
    """
    own: ProbeRefusal | None = None
    end = 0
    for site in sites:
        if site.length is not None:
            own, end = site.probe_reason, site.offset + site.length
        elif site.probe_reason is ProbeRefusal.NOT_BOUNDARY or (
            site.offset < end and site.errno and site.probe_reason is own
        ):
            continue
        yield site


def _counts(sites: list[SiteReport]) -> str:
    probeable = sum(site.errno == 0 for site in sites)
    boostable = sum(site.boostable is True for site in sites)
    optimizable = sum(site.plan is not None for site in sites)
    instructions = sum(site.insn is not None for site in sites)
    return (
        f"{count(instructions, 'instruction')}: {probeable:,} probeable, {boostable:,} boostable,"
        f" {optimizable:,} optimizable"
    )


def _padding(sites: list[SiteReport]) -> list[Cell]:
    size = sum(site.length or 0 for site in sites)
    probeable = sum(site.errno == 0 for site in sites)
    text = (
        f"({count(size, 'byte')} of padding, {count(len(sites), 'instruction')}, {probeable:,}"
        " probeable)"
    )
    return [(f"+{sites[0].offset:#x}", "dim"), (text, "dim")]


def _marks(site: SiteReport) -> list[Cell]:
    """Return the last three columns; where no probe goes, one answer stands for all of them."""
    if site.errno:
        return [(f"{errno_name(site.errno)} {site.probe_reason}", "red")]
    jump: Cell = (
        (str(site.reason), "yellow")
        if site.plan is None
        else (count(site.plan.size, "byte"), "green")
    )
    return [("yes", "green"), _hit(site), jump]


def _hit(site: SiteReport) -> Cell:
    """Return what a hit does, for the column HIT.

    The copy with a jump back comes before an emulation, as in setup_singlestep().
    """
    if site.boostable is None or site.reason is Unoptimizable.FTRACE_SITE:
        return "ftrace", "cyan"
    if site.boostable:
        return "boosted", "green"
    return (str(site.emulated), "cyan") if site.emulated is not None else ("stepped", "yellow")
