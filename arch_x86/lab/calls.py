"""Setting a call up from the command line's arguments, and reading back what it did."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from arch_x86.emu.execute import INTEGER_ARGUMENTS
from arch_x86.emu.machine import Machine
from engine.errors import InputError, printable
from engine.image import Image, Symbol
from engine.kallsyms import Kallsyms
from engine.syntax.arguments import Argument, BufferArgument, DoubleArgument, IntegerArgument
from engine.syntax.kprobe_events import several_functions

__all__ = ("CallFrame", "check_arguments", "place_call", "require_function", "result_f64")


@dataclass(frozen=True, slots=True)
class CallFrame:
    """Register values of one call on one CPU, and where its buffers lie (address, content
    before).
    """

    addr: int
    integers: tuple[int, ...]
    floats: tuple[float, ...]
    buffers: tuple[tuple[int, bytes], ...]


def require_function(image: Image, kallsyms: Kallsyms, name: str) -> Symbol:
    """The function called ``name``, or at that address.

    :raises InputError: there is none, and the message names close ones; or there are several, and
        it has their addresses.
    """
    several = several_functions(image, name)
    if several:
        raise InputError(f"{image.name}: {several}")
    symbol = kallsyms.function(name)
    if symbol is None:
        raise InputError(
            f"{image.name}: no function {printable(name)}; there is {kallsyms.suggest(name)}"
        )
    if not image.is_text(symbol.addr):
        raise InputError(
            f"{image.name}: {printable(name)} lies outside of the image's code; choose another"
            " function"
        )
    return symbol


def check_arguments(arguments: Sequence[Argument]) -> None:
    """At most 6 integers and buffers and 8 doubles fit in registers.

    :raises InputError: there are more.
    """
    doubles = sum(isinstance(a, DoubleArgument) for a in arguments)
    if doubles > 8 or len(arguments) - doubles > len(INTEGER_ARGUMENTS):
        raise InputError(
            f"{len(arguments)} arguments; at most {len(INTEGER_ARGUMENTS)} integers or buffers and"
            " 8 doubles fit in registers"
        )


def place_call(machine: Machine, addr: int, arguments: Sequence[Argument]) -> CallFrame:
    """Allocate the buffers of one CPU's call and fill its registers."""
    integers: list[int] = []
    floats: list[float] = []
    buffers: list[tuple[int, bytes]] = []
    for argument in arguments:
        match argument:
            case IntegerArgument(value):
                integers.append(value)
            case DoubleArgument(value):
                floats.append(value)
            case BufferArgument(content):
                where = machine.allocate(len(content), content)
                buffers.append((where, content))
                integers.append(where)
    return CallFrame(addr, tuple(integers), tuple(floats), tuple(buffers))


def result_f64(xmm: bytes) -> float | None:
    """The low double of XMM0; None for an infinity or NaN, which JSON does not have."""
    value: float = struct.unpack_from("<d", xmm)[0]
    return value if math.isfinite(value) else None
