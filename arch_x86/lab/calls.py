"""This module sets up a call from the command line's arguments (AMD64 psABI, section 3.2.3).

It also reads back the result of the call.
"""

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
    """This record has the register values of one call on one CPU, and where its buffers lie.

    :ivar addr: the address of the function.
    :ivar integers: its integer arguments, among them the addresses of the buffers.
    :ivar floats: its arguments of type double.
    :ivar buffers: the address of each buffer, and its content before the call.
    """

    addr: int
    integers: tuple[int, ...]
    floats: tuple[float, ...]
    buffers: tuple[tuple[int, bytes], ...]


def require_function(image: Image, kallsyms: Kallsyms, name: str) -> Symbol:
    """Return the function called ``name``, or the one at that address.

    :raises InputError: there is none, and the message has close names; or several have this name,
        and the message has their addresses; or it lies outside of the code.
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
    """Check that ``arguments`` fit in registers: at most 6 integers and buffers, and 8 doubles.

    :raises InputError: there are more.
    """
    doubles = sum(isinstance(a, DoubleArgument) for a in arguments)
    if doubles > 8 or len(arguments) - doubles > len(INTEGER_ARGUMENTS):
        raise InputError(
            f"{len(arguments)} arguments; at most {len(INTEGER_ARGUMENTS)} integers or buffers and"
            " 8 doubles fit in registers"
        )


def place_call(machine: Machine, addr: int, arguments: Sequence[Argument]) -> CallFrame:
    """Allocate the buffers of one CPU's call, and return its register values.

    :param addr: the address of the function.
    """
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
    """Return the low double of XMM0, whose bytes begin ``xmm``.

    It is None for an infinity or NaN, which JSON does not have.
    """
    value: float = struct.unpack_from("<d", xmm)[0]
    return value if math.isfinite(value) else None
