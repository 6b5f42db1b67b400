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
from arch_x86.probes.code import CodeCache, FunctionCode
from arch_x86.probes.told_places import told_inside
from engine.brief import count
from engine.errors import InputError, printable
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.patching.patched_sites import PatchedSite
from engine.syntax.kprobe_events import parse_spec, several_functions

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
    if not codes:
        raise InputError(
            "--to is missing; give the new code: hexadecimal digits, jmp:SYM, call:SYM or nop"
        )
    if len(codes) not in (1, len(places)):
        raise InputError(
            f"{len(codes)} of --to for {len(places)} of --site; give one for each site, or one for"
            " all"
        )
    given = codes if len(codes) == len(places) else [codes[0]] * len(places)
    code = CodeCache(image)
    sites = sorted(
        (
            (_planned(image, code, place, one, leaves), place)
            for place, one in zip(places, given, strict=True)
        ),
        key=lambda pair: pair[0].addr,
    )
    for (before, first), (site, second) in pairwise(sites):
        if site.addr < before.end:
            raise InputError(
                f"--site {printable(second)}: it lies in the {len(before.old)} bytes that are"
                f" replaced at {printable(first)}; give sites that do not overlap"
            )
    return tuple(site for site, _ in sites)


def place_of(image: Image, place: str, option: str) -> int:
    """Return the address of ``SYM+OFF`` or ``0xADDR``.

    :param option: the option that has the place, for the message.
    :raises InputError: there is no such function, or there are several, or ``place`` is no place.
    """
    what = f"{option}{'' if option.endswith(':') else ' '}{printable(place)}"
    try:
        spec = parse_spec(place)
    except InputError:
        spec = None
    if spec is None or not spec.bare or spec.fetchargs:
        raise InputError(f"{what}: no place; give SYM, SYM+OFF or an address, 0xADDR")
    if spec.address is not None:
        return spec.address
    several = several_functions(image, spec.symbol or "", spec.offset)
    if several:
        raise InputError(f"{what}: {several}")
    symbol = image.by_name.get(spec.symbol or "")
    if symbol is None:
        raise InputError(
            f"{what}: no such function; there is {Kallsyms(image).suggest(spec.symbol or '')}"
        )
    return symbol.addr + spec.offset


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


def _planned(
    image: Image,
    code: CodeCache,
    place: str,
    word: str,
    leaves: Callable[[bytes, bytes], bytes] | None,
) -> PatchedSite:
    addr = place_of(image, place, "--site")
    function = code.function_at(addr)
    first = None if function is None else function.insn_at(addr)
    behind = _behind_its_function(image, code, place, addr)
    if behind is not None:
        raise InputError(f"--site {printable(place)}: {behind}")
    if function is None:
        raise InputError(
            f"--site {printable(place)}: no function is there; give where an instruction of one"
            " starts"
        )
    if first is None:
        raise InputError(
            f"--site {printable(place)}: no instruction starts there; the place"
            f" {told_inside(function, addr)}"
        )
    new = _new_code(image, addr, word, first.length)
    size = _whole_size(function, addr, len(new), place)
    new = _filled(new, size)
    old = image.read(addr, size)
    if old == new:
        raise InputError(
            f"--to {printable(word)}: {old.hex(' ')} stands at {printable(place)} already; give"
            " other code"
        )
    insns: dict[int, set[bytes]] = {}
    again = old if leaves is None else leaves(old, new)
    for text in (old, new, again):
        for at, raw in _instructions(addr, text):
            insns.setdefault(at, set()).add(raw)
    replaces = (function.insn_at(at) for at, _ in _instructions(addr, old))
    return PatchedSite(
        addr,
        old,
        new,
        again,
        {at: frozenset(raws) for at, raws in insns.items()},
        tuple(insn.text for insn in replaces if insn is not None),
    )


def _behind_its_function(image: Image, code: CodeCache, place: str, addr: int) -> str | None:
    """Return what is wrong with ``place`` if it is behind the function that it names, or None."""
    symbol = image.by_name.get(place.partition("+")[0])
    function = None if symbol is None else code.function_at(symbol.addr)
    if symbol is None or function is None or addr < function.end:
        return None
    name = printable(symbol.name)
    size = count(function.end - symbol.addr, "byte")
    return f"{name} has {size}, and its last one is at {name}+{function.end - symbol.addr - 1:#x}"


def _new_code(image: Image, addr: int, word: str, first: int) -> bytes:
    """Return the bytes that ``word`` stands for at ``addr``.

    :param first: the size of the instruction that is there.
    """
    kind, colon, name = word.partition(":")
    if word == "nop":
        return nop(first)
    if colon and kind in ("jmp", "call"):
        target = place_of(image, name, f"--to {kind}:")
        try:
            return (jmp32 if kind == "jmp" else call32)(addr, target)
        except RelativeRangeError:
            raise InputError(
                f"--to {printable(word)}: {target:#x} is out of the reach of a {kind} of 5 bytes at"
                f" {addr:#x}; give a target less than 2 GiB away"
            ) from None
    digits = re.sub(r"[\s:]", "", word)
    if re.fullmatch(r"[0-9a-fA-F]+", digits) and len(digits) % 2:
        raise InputError(
            f"--to {printable(word)}: {count(len(digits), 'digit')}; give two digits for each byte"
        )
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits) or len(digits) > 2 * SITE_SIZE_MAX:
        raise InputError(
            f"--to {printable(word)}: no code; give 1 to {SITE_SIZE_MAX} bytes in hexadecimal"
            " digits, jmp:SYM, call:SYM or nop"
        )
    new = bytes.fromhex(digits)
    whole = sum(len(raw) for _, raw in _instructions(addr, new))
    if whole < len(new):
        behind = f" behind its first {count(whole, 'byte')}" if whole else ""
        raise InputError(
            f"--to {printable(word)}: the code has no whole instruction{behind}; give whole"
            " instructions"
        )
    return new


def _whole_size(function: FunctionCode, addr: int, size: int, place: str) -> int:
    """Return the bytes of the whole old instructions that ``size`` new bytes replace.

    :raises InputError: there are not so many in ``function``.
    """
    whole = 0
    while whole < size:
        insn = function.insn_at(addr + whole)
        if insn is None:
            raise InputError(
                f"--site {printable(place)}: the new code has {count(size, 'byte')}, and the"
                f" function's code ends after {count(whole, 'byte')}; give shorter code"
            )
        whole += insn.length
    return whole


def _filled(new: bytes, size: int) -> bytes:
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
