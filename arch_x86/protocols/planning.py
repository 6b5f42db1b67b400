"""Which bytes ``optprobe patch`` replaces, and which instructions are whole there meanwhile.

Everything here is a pure function of the image and the words of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from arch_x86.isa.constants import INT3, MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.encode import RelativeRangeError, call32, jcc32, jmp32
from arch_x86.isa.insn import Branch, Insn
from arch_x86.isa.onward import RETURN_0, nop, onward
from arch_x86.probes.code import CodeCache, FunctionCode
from arch_x86.probes.static_call_sites import called_by, code_word, return_0_of
from arch_x86.probes.told_places import told_inside
from arch_x86.protocols.protocol import PatchProtocol
from engine.brief import count
from engine.errors import InputError, printable
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.patching.patched_sites import PatchedSite
from engine.syntax.kprobe_events import parse_spec, several_functions

__all__ = ("SITE_SIZE_MAX", "place_of", "planned_sites", "static_branches", "static_calls")

SITE_SIZE_MAX: Final = 64
"""A site has no more bytes than this."""
_WORDS: Final = "jmp:SYM, call:SYM, jcc:SYM, nop, ret or return0"
"""What new code may be beside hexadecimal digits."""
_RET: Final = b"\xc3"


def planned_sites(
    image: Image,
    places: Sequence[str],
    codes: Sequence[str],
    protocol: PatchProtocol | None = None,
) -> tuple[PatchedSite, ...]:
    """Return the sites, in ascending order.

    :param places: ``SYM+OFF`` or ``0xADDR`` of each site.
    :param codes: the new code of each site, or one for all: hexadecimal digits, ``jmp:SYM``,
        ``call:SYM``, ``jcc:SYM``, ``nop``, ``ret`` or ``return0``.
    :param protocol: the patch protocol; None: one that puts the old code back as it was, and
        declares no guards.
    :raises InputError: a place or a code is wrong, or two sites overlap.
    """
    if not places:
        raise InputError("--site is missing; give a place, SYM+OFF, whose code is to be replaced")
    if not codes:
        raise InputError(f"--to is missing; give the new code: hexadecimal digits, {_WORDS}")
    if len(codes) not in (1, len(places)):
        raise InputError(
            f"{len(codes)} of --to for {len(places)} of --site; give one for each site, or one for"
            " all"
        )
    given = codes if len(codes) == len(places) else [codes[0]] * len(places)
    code = CodeCache(image)
    sites = sorted(
        (
            (_planned(image, code, place, one, protocol), place)
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


def static_calls(image: Image, calls: Sequence[str]) -> tuple[PatchedSite, ...]:
    """Return the static calls of a scenario's program, in ascending order.

    :param calls: ``SYM+OFF:FUNCTION`` of each: the call there goes to ``FUNCTION`` for a while, or
        does nothing (``NULL``).
    :raises InputError: one of them is wrong, or they go to different functions.
    """
    found = [_static_call(image, call) for call in calls]
    functions = {pair for _, _, pair in found}
    if len(functions) > 1:
        told = " and ".join(f"{first} and {second}" for first, second in sorted(functions))
        raise InputError(
            f"static_calls=: these go to {told}; give calls of one function, and one other function"
        )
    sites = planned_sites(image, [place for place, _, _ in found], [word for _, word, _ in found])
    return tuple(replace(site, functions=pair) for site in sites for pair in functions)


def _static_call(image: Image, call: str) -> tuple[str, str, tuple[str, str]]:
    """Return the place of ``SYM+OFF:FUNCTION``, its new code, and the functions of both codes.

    :raises InputError: no static call is there.
    """
    place, _, function = call.partition(":")
    addr = place_of(image, place, "static_calls=")
    insn = decode(image.read(addr, MAX_INSN_SIZE), addr)
    there = None if insn is None else called_by(image, insn)
    if not function or there is None:
        raise InputError(
            f"static_calls={printable(call)}: give SYM+OFF:FUNCTION, where a call or a jump of a"
            " function is at SYM+OFF, or what stands for one of NULL"
        )
    form, first = there
    word = code_word(form, function)
    if "return0" in (word, code_word(form, first)) and return_0_of(image) is None:
        raise InputError(
            f"static_calls={printable(call)}: the program has no function __static_call_return0,"
            " which a CPU calls that hits the breakpoint over the call; give it one"
        )
    return place, word, (first, function)


def _planned(
    image: Image,
    code: CodeCache,
    place: str,
    word: str,
    protocol: PatchProtocol | None,
) -> PatchedSite:
    addr = place_of(image, place, "--site")
    function = code.function_at(addr)
    first = None if function is None else function.insn_at(addr)
    behind = _behind_its_function(image, code, place, addr)
    if behind is not None:
        raise InputError(f"--site {printable(place)}: {behind}")
    if function is None:
        name = re.split(r"[+\s]", place.strip())[0]
        data = f"{printable(name)} names data, and " if Kallsyms(image).names_data(name) else ""
        raise InputError(
            f"--site {printable(place)}: {data}no function is there; give where an instruction of"
            " one starts"
        )
    if first is None:
        raise InputError(
            f"--site {printable(place)}: no instruction starts there; the place"
            f" {told_inside(function, addr)}"
        )
    new = _new_code(image, first, word)
    size = _whole_size(function, addr, len(new), place)
    new = _filled(new, size)
    old = image.read(addr, size)
    if old == new:
        raise InputError(
            f"--to {printable(word)}: {old.hex(' ')} stands at {printable(place)} already; give"
            " other code"
        )
    insns: dict[int, set[bytes]] = {}
    leaves = None if protocol is None else protocol.leaves
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
        guards=() if protocol is None else protocol.guards,
        replaces=tuple(insn.text for insn in replaces if insn is not None),
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


def _new_code(image: Image, first: Insn, word: str) -> bytes:
    """Return the bytes that ``word`` stands for at the place of the instruction ``first``."""
    kind, colon, name = word.partition(":")
    match word:
        case "nop":
            return nop(first.length)
        case "ret":
            return _RET + INT3 * (first.length - len(_RET))
        case "return0":
            return RETURN_0
        case _ if colon and kind in ("jmp", "call", "jcc"):
            return _branch(first, kind, place_of(image, name, f"--to {kind}:"), word)
        case _:
            return _from_digits(first.addr, word)


def _branch(first: Insn, kind: str, target: int, word: str) -> bytes:
    """Return a jump, a call, or a jump with the condition of ``first``, to ``target``.

    :raises InputError: ``target`` is out of reach, or ``first`` has no condition.
    """
    addr = first.addr
    if kind == "jcc" and first.branch is not Branch.JCC:
        raise InputError(
            f"--to {printable(word)}: no conditional jump stands at {addr:#x}, whose condition the"
            " new code would have; give a place where one stands"
        )
    try:
        if kind == "jcc":
            return jcc32(addr, first.opcode[-1] & 15, target)
        return (jmp32 if kind == "jmp" else call32)(addr, target)
    except RelativeRangeError:
        raise InputError(
            f"--to {printable(word)}: {target:#x} is out of the reach of a {kind} with a"
            f" displacement of 4 bytes at {addr:#x}; give a target less than 2 GiB away"
        ) from None


def _from_digits(addr: int, word: str) -> bytes:
    """Return the code whose hexadecimal digits are ``word``.

    :raises InputError: it is no code.
    """
    digits = re.sub(r"[\s:]", "", word)
    if re.fullmatch(r"[0-9a-fA-F]+", digits) and len(digits) % 2:
        raise InputError(
            f"--to {printable(word)}: {count(len(digits), 'digit')}; give two digits for each byte"
        )
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", digits) or len(digits) > 2 * SITE_SIZE_MAX:
        raise InputError(
            f"--to {printable(word)}: no code; give 1 to {SITE_SIZE_MAX} bytes in hexadecimal"
            f" digits, {_WORDS}"
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
