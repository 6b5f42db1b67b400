"""Operation scripts, which ``optprobe script`` runs. The kernel has no such syntax.

A script has one operation a line; ``#`` starts a comment.

| operation | meaning |
| --- | --- |
| ``reg ID PLACE [sym\\|both] [post] [disabled]`` | register a fresh probe [1] |
| ``rereg ID [PLACE]`` | register the same object again |
| ``unreg ID``, ``dis ID``, ``en ID``, ``cnt ID`` | unregister, disable, enable, count its hits |
| ``callfn ID SYM`` | let its handler call SYM |
| ``chip ID PLACE`` | let its handler set ip to PLACE and return 1 |
| ``st PLACE`` | only show the state |
| ``call SYM xN`` | make N calls on CPU 0, with 1 as first argument |
| ``wait`` | wait until the optimizer is idle |
| ``sleep JIFFIES`` | let time pass |
| ``sysctl kprobes-optimization=0\\|1``, ``debugfs enabled=0\\|1`` | set a global switch |

1. By address, or with ``sym`` by symbol and offset, or with ``both`` wrongly by address and symbol.

PLACE is ``SYM+OFF`` or ``0xADDR+OFF``; OFF is decimal, or hexadecimal with 0x in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from engine.errors import InputError, printable

__all__ = ("Operation", "Place", "parse_script")

_PLACE: Final = re.compile(
    r"^(?P<base>[A-Za-z_.$][\w.$@]*|0[xX][0-9a-fA-F]{1,16})"
    r"(?:\+(?P<offset>0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19}))?$"
)
_PROBE_WORDS: Final = ("unreg", "dis", "en", "cnt")
_SWITCHES: Final = {"sysctl": "kprobes-optimization", "debugfs": "enabled"}
_REG_WORDS: Final = frozenset({"sym", "both", "post", "disabled"})


@dataclass(frozen=True, slots=True)
class Place:
    """A place in code: ``symbol`` or ``address``, and ``offset`` bytes behind it."""

    symbol: str | None
    address: int | None
    offset: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of a script. A field that the verb does not use is None, empty or 0.

    :ivar text: the line as it was written, with single blanks.
    :ivar probe: the ID of the probe.
    :ivar words: the words behind the place of ``reg``.
    :ivar number: the number of calls or jiffies, or the new value of a switch.
    :ivar where: the file and the line, for messages.
    """

    text: str
    verb: str
    probe: str | None = None
    place: Place | None = None
    symbol: str | None = None
    words: frozenset[str] = frozenset()
    number: int = 0
    where: str = ""


def parse_script(text: str, name: str) -> list[Operation]:
    """The operations of the script ``text``.

    :param name: the file's name, for messages.
    :raises InputError: a line is no operation; the message names the line.
    """
    found: list[Operation] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            where = f"{printable(name)}, line {number}"
            try:
                found.append(replace(_operation(words), where=where))
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
    return found


def _operation(words: Sequence[str]) -> Operation:
    """The operation that the words of a line make."""
    verb, rest, text = words[0], words[1:], " ".join(words)
    match verb, len(rest):
        case "reg", n if n >= 2:
            return Operation(text, verb, rest[0], _place(rest[1]), words=_flags(rest[2:]))
        case "rereg", 1 | 2:
            return Operation(text, verb, rest[0])
        case (("unreg" | "dis" | "en" | "cnt"), 1):
            return Operation(text, verb, rest[0])
        case "callfn", 2:
            return Operation(text, verb, rest[0], symbol=rest[1])
        case "chip", 2:
            return Operation(text, verb, rest[0], _place(rest[1]))
        case "st", 1:
            return Operation(text, verb, place=_place(rest[0]))
        case "call", 2 if re.fullmatch(r"x\d{1,9}", rest[1]):
            return Operation(text, verb, symbol=rest[0], number=int(rest[1][1:]))
        case "wait", 0:
            return Operation(text, verb)
        case "sleep", 1 if re.fullmatch(r"\d{1,9}", rest[0]):
            return Operation(text, verb, number=int(rest[0]))
        case (("sysctl" | "debugfs"), 1) if rest[0] in (
            f"{_SWITCHES[verb]}=0",
            f"{_SWITCHES[verb]}=1",
        ):
            return Operation(text, verb, number=int(rest[0][-1]))
        case _:
            raise InputError(f"'{printable(text)}' is not an operation; {_usage(verb)}")


def _usage(verb: str) -> str:
    """What to write for the operation ``verb``, or which operations there are."""
    forms = {
        "reg": "write reg ID SYM+OFF [sym|both] [post] [disabled]",
        "rereg": "write rereg ID",
        "callfn": "write callfn ID SYM",
        "chip": "write chip ID SYM+OFF",
        "st": "write st SYM+OFF",
        "call": "write call SYM xN",
        "wait": "write wait",
        "sleep": "write sleep JIFFIES",
        "sysctl": "write sysctl kprobes-optimization=0 or =1",
        "debugfs": "write debugfs enabled=0 or =1",
    } | {word: f"write {word} ID" for word in _PROBE_WORDS}
    return forms.get(verb, f"an operation is one of {', '.join(sorted(forms))}")


def _flags(words: Sequence[str]) -> frozenset[str]:
    """The words behind the place of ``reg``."""
    unknown = [word for word in words if word not in _REG_WORDS]
    if unknown:
        raise InputError(
            f"reg takes no '{printable(unknown[0])}'; write sym, both, post or disabled behind the"
            " place"
        )
    if {"sym", "both"} <= set(words):
        raise InputError("reg takes sym or both, not the two together")
    return frozenset(words)


def _place(text: str) -> Place:
    """The place that ``text`` names."""
    found = _PLACE.match(text)
    if found is None:
        raise InputError(f"'{printable(text)}' is not a place; write SYM+OFF or 0xADDR+OFF")
    base, digits = found["base"], found["offset"] or "0"
    offset = int(digits, 16 if digits[:2].lower() == "0x" else 10)
    return (
        Place(None, int(base, 16), offset)
        if base[:2].lower() == "0x"
        else Place(base, None, offset)
    )
