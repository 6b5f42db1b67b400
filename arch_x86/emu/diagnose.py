"""Explaining a guest fault: kind, place and disassembly in one line."""

from __future__ import annotations

from arch_x86.emu.alignment import must_be_aligned
from arch_x86.emu.cpu import Cpu
from arch_x86.emu.fault import Caller, FaultKind, GuestFault
from arch_x86.emu.fault_context import find_caller, find_system_call
from arch_x86.emu.guards import find_guard
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RSP
from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode

__all__ = ("diagnose", "instruction_with", "make_fault", "original_place")

_UD2 = b"\x0f\x0b"
_INT_N = b"\xcd"
_FRAME_RSP = 24
# known by the address behind them, and prefixes vary the length
_BEHIND = (FaultKind.SOFTWARE_INTERRUPT, FaultKind.SYSTEM_CALL)
_OUTSIDE = (FaultKind.UNMAPPED_FETCH, FaultKind.NO_EXECUTE)
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
    """A fault at ``rip`` with the function it lies in."""
    found = machine.kallsyms.lookup(rip)
    symbol, offset = (found[0].name, found[1]) if found else ("", 0)
    return GuestFault(cpu, rip, symbol, offset, kind, explain, caller, system_call)


def _page_fault_kind(machine: Machine, rip: int, cr2: int) -> FaultKind:
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
    """The image's instruction that brought ``vcpu`` to ``rip``: out of stubs by the frames on the
    stack, out of copies by the probe.

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
        if before <= rsp:  # no frame, or not the guest's stack any more
            break
        rsp = before
    if called:  # by a site, which is an instruction of five bytes or six
        rip = instruction_with(machine, rip)
    if machine.trap_handler is None:
        return rip
    if machine.stubs.trampoline <= rip < machine.stubs.trampoline_asks:
        rip = machine.trap_handler.pending_return(vcpu.index) or rip
    return machine.trap_handler.original_ip(rip)


def instruction_with(machine: Machine, addr: int) -> int:
    """Start of the image's instruction that has a byte at ``addr``; ``addr`` itself where no
    function tells.
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
    """The fault record for an exception ``vector`` (or a given ``kind``) at ``rip``, where the
    stack pointer is ``rsp``.
    """
    at, rip = rip, original_place(machine, vcpu, rip, rsp)
    if kind in _BEHIND:
        rip = instruction_with(machine, rip)
    cr2 = vcpu.uc.cr2
    # The image's own bytes, not the text: a probe's breakpoint would hide the instruction that
    # faulted.
    unloaded = machine.text.is_unloaded(rip)
    code = (
        b""
        if unloaded
        else (
            machine.image.read(rip, 15)
            if machine.image.is_text(rip)
            else machine.text.read(rip, 15)
        )
    )
    insn = decode(code, rip) if code else None
    guarded = find_guard(code, rip)[1] if code and vector == 6 else None
    if kind is None:
        kind = (
            _page_fault_kind(machine, at, cr2)
            if vector == 14
            else _BY_VECTOR.get(vector or 0, FaultKind.EMULATOR)
        )
    if guarded is not None:
        kind = FaultKind.UNSUPPORTED_OPCODE
        words = f"uses {guarded}"
    elif (
        vector == 6 and insn is not None and insn.opcode == _INT_N
    ):  # `int 6`, which the emulator takes for an invalid opcode
        kind = FaultKind.SOFTWARE_INTERRUPT
        words = _WORDS[kind]
    elif (
        kind is FaultKind.INVALID_OPCODE
        and insn is not None
        and insn.raw != _UD2
        and not insn.text.startswith("ud")
    ):
        kind = FaultKind.UNSUPPORTED_OPCODE
        words = "is an instruction that the emulator does not support"
    elif (
        kind is FaultKind.GENERAL_PROTECTION
        and insn is not None
        and machine.config.check_alignment
        and must_be_aligned(insn)
    ):
        words = _MISALIGNED
    elif unloaded:
        words = f"execution reached code that was unloaded at {rip:#x}"
    else:
        words = _WORDS[kind].format(cr2=cr2, rip=rip, error=vcpu.error)
    caller = (
        find_caller(machine, vcpu, vcpu.registers()[RSP] if rsp is None else rsp)
        if kind in _OUTSIDE
        else None
    )
    if caller is not None:
        words += (
            "; the return address on the stack is"
            f" {f'{caller.symbol}+{caller.offset:#x}' if caller.symbol else f'{caller.rip:#x}'}"
        )
    asked = find_system_call(vcpu, insn) if kind in _BEHIND else None
    if asked is not None:
        words = words.replace(":", f" {asked[1]}:", 1)
    shown = (
        f"`{insn.text}` [{insn.raw.hex(' ')}]: "
        if insn is not None
        else f"[{code.hex(' ')}]: "
        if code
        else ""
    )
    return make_fault(
        machine, vcpu.index, rip, kind, shown + words, caller=caller, system_call=asked and asked[0]
    )
