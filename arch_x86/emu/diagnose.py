"""The diagnosis of guest faults: the kind, the place and the disassembly, in one line."""

from __future__ import annotations

from typing import NamedTuple

from arch_x86.emu.alignment import must_be_aligned
from arch_x86.emu.cpu import Cpu
from arch_x86.emu.fault import Caller, FaultKind, GuestFault
from arch_x86.emu.fault_context import find_caller, find_system_call
from arch_x86.emu.guards import find_guard
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RSP
from arch_x86.images.routines import ENDINGS
from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Insn

__all__ = ("diagnose", "instruction_with", "make_fault", "original_place", "unresolved_call")

_UD2 = b"\x0f\x0b"
_INT_N = b"\xcd"
_FRAME_RSP = 24
"""Where the interrupted RSP lies in an exception frame, counted from the interrupted RIP."""
_BEHIND = (FaultKind.SOFTWARE_INTERRUPT, FaultKind.SYSTEM_CALL)
"""Faults for which RIP is behind the instruction, whose length varies with its prefixes."""
_OUTSIDE = (FaultKind.UNMAPPED_FETCH, FaultKind.NO_EXECUTE)
_INVALID_OPCODE, _PAGE_FAULT = 6, 14
_BY_VECTOR = {
    0: FaultKind.DIVIDE_ERROR,
    1: FaultKind.DEBUG,
    3: FaultKind.BREAKPOINT,
    6: FaultKind.INVALID_OPCODE,
    13: FaultKind.GENERAL_PROTECTION,
}
_MISALIGNED = (
    "general protection fault (a memory operand that is not aligned to 16 bytes, or a non-canonical"
    " address)"
)
_WORDS = {
    FaultKind.WRITE_TO_CODE: "writes to code at {cr2:#x}",
    FaultKind.WRITE_TO_CONSTANT: "writes to read-only data at {cr2:#x}",
    FaultKind.UNMAPPED_ACCESS: "accesses unmapped memory at {cr2:#x}",
    FaultKind.UNMAPPED_FETCH: "execution reached unmapped memory at {rip:#x}",
    FaultKind.NO_EXECUTE: "execution reached data at {rip:#x}",
    FaultKind.GENERAL_PROTECTION: (
        "general protection fault (a non-canonical address or a privileged operation)"
    ),
    FaultKind.DIVIDE_ERROR: "divide error",
    FaultKind.FLOATING_POINT: "an x87 exception that is not masked is pending",
    FaultKind.INVALID_OPCODE: "invalid opcode",
    FaultKind.BREAKPOINT: "breakpoint that no probe put there (int3 padding or filler)",
    FaultKind.DEBUG: "single-step trap that no probe asked for",
    FaultKind.SOFTWARE_INTERRUPT: "software interrupt: there is no system here",
    FaultKind.SYSTEM_CALL: "system call: there is no system here",
    FaultKind.HALT: "hlt",
    FaultKind.DOUBLE_FAULT: (
        "the stack is not mapped where a trap frame would go (stack overflow, or RSP holds"
        " something else)"
    ),
    FaultKind.EMULATOR: "the emulator gave up (Unicorn error {error})",
}


def make_fault(
    machine: Machine,
    cpu: int,
    rip: int,
    kind: FaultKind,
    explain: str,
    *,
    caller: Caller | None = None,
    system_call: int | None = None,
) -> GuestFault:
    """Return the record of a fault at ``rip``, with the function that ``rip`` lies in.

    :param explain: what happened, in words.
    :param caller: where the return address on the stack leads to, if that says something.
    :param system_call: the number of the system call that was asked for.
    """
    found = machine.kallsyms.lookup(rip)
    symbol, offset = (found[0].name, found[1]) if found else ("", 0)
    return GuestFault(cpu, rip, symbol, offset, kind, explain, caller, system_call)


def _page_fault_kind(machine: Machine, rip: int, cr2: int) -> FaultKind:
    """Return the kind of the page fault at ``rip`` whose address is ``cr2``."""
    fetch = cr2 == rip or (rip < cr2 < rip + 15 and cr2 % 4096 == 0 and not machine.ram.mapped(rip))
    if fetch:
        return (
            FaultKind.NO_EXECUTE if machine.read(cr2, 1) is not None else FaultKind.UNMAPPED_FETCH
        )
    if machine.text.covers(cr2, 1):
        return FaultKind.WRITE_TO_CODE
    return (
        FaultKind.WRITE_TO_CONSTANT
        if machine.read(cr2, 1) is not None
        else FaultKind.UNMAPPED_ACCESS
    )


def original_place(machine: Machine, vcpu: Cpu, rip: int, rsp: int | None = None) -> int:
    """Return the address of the image's instruction that brought ``vcpu`` to ``rip``.

    From a stub the frames on the stack lead there, from a copy the probe does.

    :param rsp: the stack pointer at ``rip``, where it is not the present one.
    """
    rsp = vcpu.registers()[RSP] if rsp is None else rsp
    stubs, called = machine.stubs, False
    while rip in stubs.frames:
        depth, behind = stubs.frames[rip]
        called = stubs.ftrace_caller <= rip < stubs.ftrace_caller_end
        came_from, before = (
            machine.ram.read_u64(rsp + depth),
            machine.ram.read_u64(rsp + depth + _FRAME_RSP),
        )
        if came_from is None or before is None:
            break
        rip = came_from - behind
        if before <= rsp:  # This is no frame, or not the guest's stack any more.
            break
        rsp = before
    if called:  # RIP is behind an ftrace site, an instruction of five bytes or six.
        rip = instruction_with(machine, rip)
    if machine.trap_handler is None:
        return rip
    if machine.stubs.trampoline <= rip < machine.stubs.trampoline_asks:
        rip = machine.trap_handler.pending_return(vcpu.index) or rip
    return machine.trap_handler.original_ip(rip)


def instruction_with(machine: Machine, addr: int) -> int:
    """Return the start of the image's instruction that has a byte at ``addr``.

    :returns: ``addr`` itself where no function there says where its instructions are.
    """
    found = machine.kallsyms.lookup(addr)
    if found is None or not machine.image.is_text(addr):
        return addr
    symbol, offset = found
    code = machine.image.read(symbol.addr, offset + MAX_INSN_SIZE)
    at = 0
    while at <= offset:
        insn = decode(code[at : at + MAX_INSN_SIZE], symbol.addr + at)
        if insn is None:
            break
        if at + insn.length > offset:
            return symbol.addr + at
        at += insn.length
    return addr


def diagnose(
    machine: Machine,
    vcpu: Cpu,
    rip: int,
    kind: FaultKind | None,
    *,
    vector: int | None = None,
    rsp: int | None = None,
) -> GuestFault:
    """Return the record of a fault at ``rip``.

    :param kind: the fault's kind; None: ``vector`` says it.
    :param vector: the exception, if there was one.
    :param rsp: the stack pointer at ``rip``, where it is not the present one.
    """
    at, rip = rip, original_place(machine, vcpu, rip, rsp)
    if kind in _BEHIND:
        rip = instruction_with(machine, rip)
    if kind is None:
        kind = (
            _page_fault_kind(machine, at, vcpu.uc.cr2)
            if vector == _PAGE_FAULT
            else _BY_VECTOR.get(vector or 0, FaultKind.EMULATOR)
        )
    code = _code_at(machine, rip)
    insn = decode(code, rip) if code else None
    kind, words = _explain(machine, vcpu, _Instruction(rip, code, insn), kind, vector)
    caller = None
    if kind in _OUTSIDE:
        caller = find_caller(machine, vcpu, vcpu.registers()[RSP] if rsp is None else rsp)
    if caller is not None:
        place = f"{caller.symbol}+{caller.offset:#x}" if caller.symbol else f"{caller.rip:#x}"
        words += f"; the return address on the stack is {place}"
    asked = find_system_call(vcpu, insn) if kind in _BEHIND else None
    if asked is not None:
        words = words.replace(":", f" {asked[1]}:", 1)
    shown = ""
    if insn is not None:
        shown = f"`{insn.text}` [{insn.raw.hex(' ')}]: "
    elif code:
        shown = f"[{code.hex(' ')}]: "
    return make_fault(
        machine, vcpu.index, rip, kind, shown + words, caller=caller, system_call=asked and asked[0]
    )


class _Instruction(NamedTuple):
    """The instruction that faulted: its address, its bytes, and what they decode to.

    There are no bytes where the text was unloaded.
    """

    rip: int
    code: bytes
    insn: Insn | None


def _code_at(machine: Machine, rip: int) -> bytes:
    """Return the bytes at ``rip`` as the image has them, or none where text was unloaded.

    In the text itself a probe's breakpoint would hide the instruction that faulted.
    """
    if machine.text.is_unloaded(rip):
        return b""
    if machine.image.is_text(rip):
        return machine.image.read(rip, MAX_INSN_SIZE)
    return machine.text.read(rip, MAX_INSN_SIZE)


def _explain(
    machine: Machine, vcpu: Cpu, at: _Instruction, kind: FaultKind, vector: int | None
) -> tuple[FaultKind, str]:
    """Return the kind of a fault and what happened, in words.

    The kind differs from ``kind`` where the instruction says more.
    """
    rip, code, insn = at
    guarded = find_guard(code, rip)[1] if code and vector == _INVALID_OPCODE else None
    if guarded is not None:
        return FaultKind.UNSUPPORTED_OPCODE, f"uses {guarded}"
    if insn is not None:
        if vector == _INVALID_OPCODE and insn.opcode == _INT_N:
            # This is `int 6`, which the emulator takes for an invalid opcode.
            return FaultKind.SOFTWARE_INTERRUPT, _WORDS[FaultKind.SOFTWARE_INTERRUPT]
        undefined = insn.raw == _UD2 or insn.text.startswith("ud")
        if kind is FaultKind.INVALID_OPCODE and not undefined:
            words = "is an instruction that the emulator does not support"
            return FaultKind.UNSUPPORTED_OPCODE, words
        aligned = machine.config.check_alignment and must_be_aligned(insn)
        if kind is FaultKind.GENERAL_PROTECTION and aligned:
            return kind, _MISALIGNED
    if machine.text.is_unloaded(rip):
        return kind, f"execution reached code that was unloaded at {rip:#x}"
    return kind, _WORDS[kind].format(cr2=vcpu.uc.cr2, rip=rip, error=vcpu.error)


def unresolved_call(machine: Machine, vcpu: Cpu) -> GuestFault:
    """Return the record of a call of a function that no library defines.

    ``vcpu`` has just executed the ``hlt`` that stands for the function.
    """
    name = machine.import_at[vcpu.rip - 1]
    if name in ENDINGS:
        kind, words = FaultKind.ABORT, ENDINGS[name]
    else:
        kind = FaultKind.UNRESOLVED_FUNCTION
        words = (
            f"is not defined in the image; give it a value with --stub {name}=ret:N, or name a"
            " library by --with LIB"
        )
    caller = machine.ram.read_u64(vcpu.registers()[RSP]) or vcpu.rip
    separator = ": " if name in ENDINGS else " "
    return make_fault(machine, vcpu.index, caller, kind, f"{name}{separator}{words}")
