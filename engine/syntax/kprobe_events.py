"""Probe definitions in ``kprobe_events`` syntax. Answers to kernel/trace/trace_kprobe.c.

Documentation/trace/kprobetrace.rst has the syntax: ``p[:[GRP/]EVENT] SYM[+OFF]|ADDR [FETCHARGS]``
and ``r[MAXACTIVE][:[GRP/]EVENT] SYM|ADDR``. A bare ``SYM+0xOFF`` or ``ADDR`` is taken, too.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Final

from engine.brief import described
from engine.core.profiles import Profile
from engine.errors import InputError, KprobeError, printable
from engine.image import Image

__all__ = ("MAXACTIVE_MAX", "ProbeSpec", "parse_spec", "refuse_ambiguous", "several_functions")

_HEAD: Final = re.compile(
    r"^(?P<kind>[pr])(?P<max>\d*)(?::(?:(?P<group>[A-Za-z_]\w*)/)?(?P<event>[A-Za-z_]\w*))?$",
    re.ASCII,
)
_PLACE: Final = re.compile(
    r"^(?P<symbol>[A-Za-z_.$][\w.$@]*)(?:\+(?P<offset>0[xX][0-9a-fA-F]+|[0-9]+))?$"
)
_ADDRESS: Final = re.compile(r"^0[xX][0-9a-fA-F]+$")
_NAME_MAX: Final = 64
"""The most characters of an event's name (MAX_EVENT_NAME_LEN in kernel/trace/trace.h).

A group's name has one less.
"""
_SHOWN: Final = 5
"""The most addresses in a message."""
MAXACTIVE_MAX: Final = 4096
"""The most calls that a return probe follows at once (KRETPROBE_MAXACTIVE_MAX)."""
_TOO_LARGE: Final = 1 << 64
_RIGHT: Final = "write SYM, SYM+0xOFF, or p[:[GRP/]EVENT] SYM[+OFF]"


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """One probe definition.

    :ivar text: the definition as the user wrote it.
    :ivar symbol: the symbol, or None where there is an ``address``.
    :ivar offset: bytes behind the symbol.
    :ivar bare: whether it has no ``p`` or ``r``.
    :ivar is_return: whether it is a return probe.
    :ivar maxactive: the number behind ``r``, or None.
    :ivar group: the event's group, or None.
    :ivar event: the event's name, or None.
    :ivar fetchargs: the words behind the place. No values are fetched.
    """

    text: str
    symbol: str | None
    offset: int
    address: int | None = None
    bare: bool = True
    is_return: bool = False
    maxactive: int | None = None
    group: str | None = None
    event: str | None = None
    fetchargs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return described(self, self.text)


def parse_spec(text: str) -> ProbeSpec:
    """Parse one probe definition.

    :raises InputError: it has none of the forms above.
    """
    words = text.split()
    if not words:
        raise InputError(f"probe '{printable(text)}': empty; {_RIGHT}")
    head = _HEAD.match(words[0]) if len(words) > 1 else None
    if len(words) > 1 and head is None:
        raise InputError(
            f"probe '{printable(text)}': '{printable(words[0])}' is not p or r with an event name;"
            f" {_RIGHT}"
        )
    if head is not None and (
        len(head["event"] or "") > _NAME_MAX or len(head["group"] or "") >= _NAME_MAX
    ):
        raise InputError(
            f"probe '{printable(text)}': a group has at most {_NAME_MAX - 1} characters, an event"
            f" {_NAME_MAX}"
        )
    place = words[1] if head is not None else words[0]
    is_return = head is not None and head["kind"] == "r"
    if head is not None and head["kind"] == "p" and head["max"]:
        raise InputError(f"probe '{printable(text)}': only r takes a MAXACTIVE number; {_RIGHT}")
    symbol, offset, address = _place(text, place)
    if is_return and offset:
        raise InputError(
            f"probe '{printable(text)}': a return probe goes to a function's entry; write"
            " r[MAXACTIVE] SYM"
        )
    return ProbeSpec(
        text=text,
        symbol=symbol,
        offset=offset,
        address=address,
        bare=head is None,
        is_return=is_return,
        maxactive=_number(text, head["max"]) if head is not None and head["max"] else None,
        group=head["group"] if head is not None else None,
        event=head["event"] if head is not None else None,
        fetchargs=tuple(words[2:]),
    )


def refuse_ambiguous(spec: ProbeSpec, image: Image, profile: Profile) -> None:
    """Refuse a definition whose symbol several functions of ``image`` have.

    A bare symbol is refused in every profile. In the syntax of ``kprobe_events`` such a symbol
    means the first of these functions in linux-2010.

    :raises InputError: the symbol is bare.
    :raises KprobeError: EADDRNOTAVAIL, as kernels answer since b022f0c7e404 (v6.7, and stable
        kernels of 6.1).
    """
    several = "" if spec.symbol is None else several_functions(image, spec.symbol, spec.offset)
    if several and spec.bare:
        raise InputError(f"probe '{printable(spec.text)}': {several}")
    if several and profile.refuses_ambiguous:
        raise KprobeError(errno.EADDRNOTAVAIL, f"probe '{printable(spec.text)}': {several}")


def several_functions(image: Image, name: str, offset: int = 0) -> str:
    """A message on which functions of ``image`` are called ``name``, and what to write instead.

    :param offset: bytes behind the function, for the addresses that the message suggests.
    :returns: "" where at most one function has the name.
    """
    places = [f"{symbol.addr + offset:#x}" for symbol in image.homonyms(name)]
    if not places:
        return ""
    shown = ", ".join(places[:_SHOWN]) + (", ..." if len(places) > _SHOWN else "")
    return (
        f"{len(places)} functions are called {printable(name)}; write the address of the one that"
        f" is meant: {shown}"
    )


def _place(text: str, place: str) -> tuple[str | None, int, int | None]:
    """The symbol and offset, or the address, that ``place`` names."""
    if _ADDRESS.match(place):
        return None, 0, _number(text, place)
    found = _PLACE.match(place)
    if found is None:
        raise InputError(
            f"probe '{printable(text)}': '{printable(place)}' is not a symbol with an offset;"
            f" {_RIGHT}"
        )
    offset = found["offset"]
    return found["symbol"], _number(text, offset) if offset else 0, None


def _number(text: str, digits: str) -> int:
    """The number that ``digits`` are, decimal or hexadecimal, which must fit 64 bits."""
    base = 16 if digits[:2].lower() == "0x" else 10
    try:
        value = int(digits, base)
    except ValueError:  # int() refuses more than 4300 digits
        value = _TOO_LARGE
    if value >= _TOO_LARGE:
        raise InputError(f"probe '{printable(text)}': a number does not fit 64 bits; {_RIGHT}")
    return value
