"""The bring-up of a machine: what an image needs to have run before its first call.

These are the resolvers of indirect functions, and the set-up of each thread. It answers to glibc's
elf/dl-irel.h (``elf_ifunc_invoke``) and to what elf/rtld.c does before it enters a program. All of
it is guest code on the machine's own CPUs, before a probe can be placed; clock, registers and
stacks then start anew.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from arch_x86.emu.fault import GuestFault
from arch_x86.emu.machine import Machine
from arch_x86.isa.constants import ADDRESS_MASK
from engine.errors import InputError
from engine.image import Symbol
from engine.kallsyms import Kallsyms

__all__ = ("Calls", "bring_up")

_LIMIT: Final = 1_000_000


class Calls(Protocol):
    """The maker of calls on the vCPUs of a machine: :class:`arch_x86.emu.execute.Executor`.

    :ivar has_system: a system call ends the call that makes it; else it fails by ENOSYS.
    """

    machine: Machine
    has_system: bool

    def begin_call(self, cpu: int, addr: int) -> None:
        """Let the call of the function at ``addr`` begin on ``cpu``."""
        ...

    def run_call(self, cpu: int, limit: int) -> GuestFault | None:
        """Run the call on ``cpu`` to its end, at most ``limit`` instructions.

        :returns: the fault that the call died of, or None.
        """
        ...


def bring_up(executor: Calls) -> None:
    """Bring the machine of ``executor`` up, once.

    The name of an indirect function then leads to what its resolver chose. A resolver may make
    system calls: the answer is ENOSYS, as of a kernel that does not know the call.

    :raises InputError: a resolver that a relocation needs, or a set-up function, died or did not
        end; the machine is closed.
    """
    machine = executor.machine
    if machine.is_up:
        return
    machine.is_up = True
    image = machine.image
    indirect = [symbol for symbol in image.symbols if symbol.indirect]
    if not (image.deferred or image.thread_setup or indirect):
        return
    before = [cpu.save() for cpu in machine.cpus]
    executor.has_system = False
    try:
        answers = _relocate(executor)
        for cpu in range(len(machine.cpus)):
            for addr in image.thread_setup:
                fault = _call(executor, addr, cpu)
                if fault is not None:
                    raise InputError(
                        f"{image.name}: setting a thread up died at {fault.place}: {fault.kind}:"
                        f" {fault.explain}"
                    )
        moved = [
            symbol for each in indirect if (symbol := _target(executor, each, answers)) is not None
        ]
    except InputError:
        machine.close()
        raise
    executor.has_system = True
    machine.kallsyms = Kallsyms(image, moved)
    machine.clock = 0
    for cpu, state, task in zip(machine.cpus, before, machine.tasks, strict=True):
        cpu.restore(state)
        task.reset()
        size = machine.config.stack_pages * 4096
        machine.ram.write(task.stack_top - size, bytes(size))


def _relocate(executor: Calls) -> dict[int, int]:
    """Do the deferred relocations, and return what each resolver answered."""
    machine = executor.machine
    answers: dict[int, int] = {}
    for item in machine.image.deferred:
        if item.resolver not in answers:
            fault = _call(executor, item.resolver)
            if fault is not None:
                name = item.symbol or machine.kallsyms.describe(item.resolver)
                raise InputError(
                    f"{machine.image.name}: the resolver of {name} died at {fault.place}:"
                    f" {fault.kind}: {fault.explain}"
                )
            answers[item.resolver] = machine.cpus[0].registers()[0]
        if not machine.ram.write(
            item.place, struct.pack("<Q", (answers[item.resolver] + item.addend) & ADDRESS_MASK)
        ):
            raise InputError(
                f"{machine.image.name}: an indirect function's address goes to {item.place:#x},"
                " which is not writable"
            )
    return answers


def _target(executor: Calls, symbol: Symbol, answers: dict[int, int]) -> Symbol | None:
    """Return the function that callers of the indirect function ``symbol`` get, under its name.

    :returns: None where the resolver does not say.
    """
    machine = executor.machine
    if symbol.addr not in answers:
        answers[symbol.addr] = (
            0 if _call(executor, symbol.addr) is not None else machine.cpus[0].registers()[0]
        )
    addr = answers[symbol.addr]
    if not machine.image.is_text(addr):
        return None
    found = machine.kallsyms.lookup(addr)
    return Symbol(symbol.name, addr, found[0].size - found[1] if found is not None else 0)


def _call(executor: Calls, addr: int, cpu: int = 0) -> GuestFault | None:
    executor.begin_call(cpu, addr)
    return executor.run_call(cpu, _LIMIT)
