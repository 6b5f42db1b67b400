"""Which bytes ``optprobe patch`` replaces, and which instructions are whole there meanwhile.

Everything here is a pure function of the image and the words of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from arch_x86.isa.decode import decode
from arch_x86.isa.encode import RelativeRangeError, call32, jmp32
from arch_x86.isa.onward import nop, onward
from arch_x86.probes.code import CodeCache
from engine.errors import InputError, printable
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.patching.patched_sites import PatchedSite
from engine.syntax.kprobe_events import parse_spec

__all__ = ("SITE_SIZE_MAX", "place_of", "planned_sites", "static_branches")

SITE_SIZE_MAX: Final = 64
"""A site has no more bytes than this."""


def planned_sites(
    image: Image,
    places: Sequence[str],
    codes: Sequence[str],
    leaves: Callable[[bytes, bytes], bytes] | None = None,
) -> tuple[PatchedSite, ...]:
    """Return the sites, in ascending order.

    :param places: ``SYM+OFF`` or ``0xADDR`` of each site.
    :param codes: the new code of each site, or one for all: hexadecimal digits, ``jmp:SYM``,
        ``call:SYM`` or ``nop``.
    :param leaves: what the protocol leaves where it puts old code back
        (:class:`arch_x86.protocols.protocol.PatchProtocol`).
    :raises InputError: a place or a code is wrong, or two sites overlap.
    """
    if not places:
        raise InputError("--site is missing; give a place, SYM+OFF, whose code is to be replaced")
    if len(codes) not in (1, len(places)):
        raise InputError(
            f"{len(codes)} of --to for {len(places)} of --site; give one for each site, or one for"
            " all"
        )
    given = codes if len(codes) == len(places) else [codes[0]] * len(places)
    code = CodeCache(image)
    sites = sorted(
        (
            _planned(image, code, place, one, leaves)
            for place, one in zip(places, given, strict=True)
        ),
        key=lambda site: site.addr,
    )
    for before, site in pairwise(sites):
        if site.addr < before.end:
            raise InputError(
                f"--site {site.addr:#x}: it lies in the bytes of the site at {before.addr:#x},"
                f" which are {len(before.old)}; give sites that do not overlap"
            )
    return tuple(sites)


def static_branches(image: Image, branches: Sequence[str]) -> tuple[PatchedSite, ...]:
    """Return the static branches of a scenario's program, in ascending order.

    :param branches: ``SYM+OFF:TARGET`` of each: the no-op becomes a jump to the place ``TARGET``.
    :raises InputError: one of them is wrong, or its place has no no-op.
    """
    pairs = [branch.partition(":") for branch in branches]
    for (place, _, target), branch in zip(pairs, branches, strict=True):
        if not target or onward(image.read(place_of(image, place, "branches="), 15), 0) is None:
            raise InputError(
                f"branches={printable(branch)}: give SYM+OFF:TARGET, where a no-op is at SYM+OFF"
            )
    return planned_sites(
        image, [place for place, _, _ in pairs], [f"jmp:{target}" for _, _, target in pairs]
    )


def place_of(image: Image, place: str, option: str) -> int:
    """Return the address of ``SYM+OFF`` or ``0xADDR``.

    :param option: the option that has the place, for the message.
    :raises InputError: there is no such function, or ``place`` is no place.
    """
    spec = parse_spec(place)
    if spec.address is not None:
        return spec.address
    symbol = image.by_name.get(spec.symbol or "")
    if symbol is None:
        raise InputError(
            f"{option} {printable(place)}: no such function; there is"
            f" {Kallsyms(image).suggest(spec.symbol or '')}"
        )
    return symbol.addr + spec.offset


def _planned(
    image: Image,
    code: CodeCache,
    place: str,
    word: str,
    leaves: Callable[[bytes, bytes], bytes] | None,
) -> PatchedSite:
    addr = place_of(image, place, "--site")
    function = code.function_at(addr)
    if function is None or function.insn_at(addr) is None:
        raise InputError(
            f"--site {printable(place)}: no instruction of a function starts there; give where one"
            " does"
        )
    first = function.insn_at(addr)
    assert first is not None
    new = _new_code(image, addr, word, first.length)
    size = _whole_size(image, addr, len(new), place)
    new = _filled(addr, new, size)
    old = image.read(addr, size)
    insns: dict[int, set[bytes]] = {}
    again = old if leaves is None else leaves(old, new)
    for text in (old, new, again):
        for at, raw in _instructions(addr, text):
            insns.setdefault(at, set()).add(raw)
    return PatchedSite(addr, old, new, again, {at: frozenset(raws) for at, raws in insns.items()})


def _new_code(image: Image, addr: int, word: str, first: int) -> bytes:
    """Return the bytes that ``word`` stands for at ``addr``.

    :param first: the size of the instruction that is there.
    """
    kind, colon, name = word.partition(":")
    if word == "nop":
        return nop(first)
    if colon and kind in ("jmp", "call"):
        target = place_of(image, name, "--to")
        try:
            return (jmp32 if kind == "jmp" else call32)(addr, target)
        except RelativeRangeError as error:
            raise InputError(f"--to {printable(word)}: {error}") from None
    digits = re.sub(r"[\s:]", "", word)
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits) or len(digits) > 2 * SITE_SIZE_MAX:
        raise InputError(
            f"--to {printable(word)}: no code; give 1 to {SITE_SIZE_MAX} bytes in hexadecimal"
            " digits, jmp:SYM, call:SYM or nop"
        )
    return bytes.fromhex(digits)


def _whole_size(image: Image, addr: int, size: int, place: str) -> int:
    """Return the bytes of the whole old instructions that ``size`` new bytes replace."""
    whole = 0
    while whole < size:
        insn = decode(image.read(addr + whole, 15), addr + whole)
        if insn is None or not image.is_text(addr + whole):
            raise InputError(
                f"--site {printable(place)}: {size} bytes reach behind the code that is there"
            )
        whole += insn.length
    return whole


def _filled(addr: int, new: bytes, size: int) -> bytes:
    """Return ``new`` with a no-op behind it, so that it has ``size`` bytes."""
    return new + nop(size - len(new)) if len(new) < size else new


def _instructions(addr: int, text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the address and the bytes of each instruction of ``text``, which begins at ``addr``."""
    at = 0
    while at < len(text):
        insn = decode(text[at:], addr + at)
        if insn is None:
            return
        yield addr + at, insn.raw
        at += insn.length
