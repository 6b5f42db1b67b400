"""This module finds out whether code keeps data in the red zone (AMD64 psABI, 3.2.2).

The question arises where the file does not say. Executables and shared objects are user-mode code,
which may keep data in the 128 bytes below RSP. A relocatable object is user-mode code, or a
kernel's, which is built without a red zone. A trap that does not skip a red zone overwrites what
the code has there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine, MachineConfig
from arch_x86.isa.constants import RED_ZONE_SIZE
from arch_x86.lab.calls import check_arguments, place_call
from engine.errors import InputError, printable
from engine.image import Image
from engine.syntax.arguments import Argument

__all__ = ("LOOKED_AT", "Call", "with_red_zone")

LOOKED_AT: Final = 1_000_000
"""This many instructions of a call are looked at, which takes about two seconds at most."""
_AT_ONCE: Final = 50_000

Call = tuple[str, Sequence[Argument]]
"""A call is a function's name, and the arguments that it is called with."""


def with_red_zone(
    image: Image, choice: str, calls: Iterable[Call], config: MachineConfig, limit: int
) -> tuple[Image, str | None]:
    """Return ``image`` with or without a red zone, and a line for the user if that was found out.

    :param choice: ``yes``, ``no``, or ``auto``: as the file says; where the file does not say, yes
        if one of ``calls``, made without probes, loads from below RSP.
    :param config: the machine on which the calls are made.
    :param limit: most instructions of each call.
    :raises InputError: the choice is none of these, or the arguments do not fit.
    """
    if choice in ("yes", "no"):
        return replace(image, red_zone=choice == "yes", red_zone_given=True), None
    if choice != "auto":
        raise InputError(f"--red-zone {printable(choice)}: unknown; give yes, no or auto")
    place = (
        None
        if image.red_zone_given
        else _load_below_stack(image, calls, config, min(limit, LOOKED_AT))
    )
    if place is None:
        return image, None
    line = (
        f"{place} loads from below RSP, so the code is taken to have a red zone; --red-zone no says"
        " that it has none"
    )
    return replace(image, red_zone=True), line


def _load_below_stack(
    image: Image, calls: Iterable[Call], config: MachineConfig, limit: int
) -> str | None:
    """Return where the first of ``calls`` that loads from below RSP does so, or None.

    Stores do not count, since a push or a call stores there in all code.
    """
    with closing(Machine(image, config=config)) as machine:
        executor, uc, ram = Executor(machine), machine.cpus[0].uc, machine.ram
        found: list[int] = []

        def seen(phys: int, rsp: int, rip: int) -> None:
            if found:
                return
            for addr in (rsp - 1, rsp - RED_ZONE_SIZE):  # The two may lie in different pages.
                near = ram.physical(addr)
                if (
                    near is not None
                    and near >> 12 == phys >> 12
                    and rsp - RED_ZONE_SIZE <= addr + phys - near < rsp
                ):
                    found.append(rip)
                    return

        for name, arguments in calls:
            symbol = machine.kallsyms.function(name)
            if symbol is None or not image.is_text(symbol.addr):
                continue  # The command that makes the call later reports the error.
            check_arguments(arguments)
            frame = place_call(machine, symbol.addr, arguments)
            executor.begin_call(0, frame.addr, frame.integers, frame.floats)
            uc.hooks.record_loads(seen)
            left = limit
            while executor.running(0) and left > 0 and not found:
                left -= executor.advance(0, min(left, _AT_ONCE))
            uc.hooks.stop_recording()
            if found:
                return machine.kallsyms.describe(found[0])
            if executor.running(0):
                executor.limit_reached(0, limit)
        return None
