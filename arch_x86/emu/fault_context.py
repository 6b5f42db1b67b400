"""The context of a fault: what the registers and the stack tell of it.

They tell the caller where execution left all code, and the system call that was asked for.
"""

from __future__ import annotations

from typing import Final

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.fault import Caller
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import RAX
from arch_x86.isa.constants import MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import Branch, Insn

__all__ = ("find_caller", "find_system_call")

_CALLS: Final = frozenset({Branch.CALL, Branch.CALL_INDIRECT_REG, Branch.CALL_INDIRECT_MEM})
_SYSCALL, _SYSENTER, _INT_80 = b"\x0f\x05", b"\x0f\x34", b"\xcd\x80"
_LOW: Final = (1 << 32) - 1
# Names of arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl, of what code asks for most.
_NAMES_64: Final = {
    0: "read",
    1: "write",
    2: "open",
    3: "close",
    4: "stat",
    5: "fstat",
    7: "poll",
    8: "lseek",
    9: "mmap",
    10: "mprotect",
    11: "munmap",
    12: "brk",
    13: "rt_sigaction",
    14: "rt_sigprocmask",
    16: "ioctl",
    20: "writev",
    21: "access",
    22: "pipe",
    24: "sched_yield",
    25: "mremap",
    28: "madvise",
    32: "dup",
    35: "nanosleep",
    39: "getpid",
    41: "socket",
    42: "connect",
    56: "clone",
    57: "fork",
    59: "execve",
    60: "exit",
    61: "wait4",
    62: "kill",
    72: "fcntl",
    79: "getcwd",
    87: "unlink",
    96: "gettimeofday",
    110: "getppid",
    158: "arch_prctl",
    186: "gettid",
    200: "tkill",
    202: "futex",
    228: "clock_gettime",
    230: "clock_nanosleep",
    231: "exit_group",
    234: "tgkill",
    257: "openat",
    302: "prlimit64",
    318: "getrandom",
    334: "rseq",
}
_NAMES_32: Final = {
    1: "exit",
    2: "fork",
    3: "read",
    4: "write",
    5: "open",
    6: "close",
    11: "execve",
    20: "getpid",
    45: "brk",
    54: "ioctl",
}


def find_caller(machine: Machine, vcpu: Cpu, rsp: int) -> Caller | None:
    """Return the call whose return address lies at ``rsp``.

    :returns: None where what lies there is no address behind a call of the image's code.
    """
    addr = machine.ram.read_u64(rsp)
    if (
        addr is not None
        and machine.trap_handler is not None
        and machine.stubs.trampoline <= addr < machine.stubs.trampoline_asks
    ):
        addr = machine.trap_handler.pending_return(vcpu.index)
    if addr is None or not _is_behind_call(machine, addr):
        return None
    found = machine.kallsyms.lookup(addr - 1)  # A function's last instruction may be a call.
    symbol, offset = (found[0].name, found[1] + 1) if found else ("", 0)
    return Caller(addr, symbol, offset)


def _is_behind_call(machine: Machine, addr: int) -> bool:
    """Return whether a call of the image's text can end at ``addr``.

    Where a function is known to lie there, the call has to be one of its instructions.
    """
    if not machine.image.is_text(addr - 1):
        return False
    found = machine.kallsyms.lookup(addr - 1)
    if found is None:
        # A call has 2 bytes (call rax) to 7 (call [base + index * scale + disp32]).
        starts = range(addr - 2, addr - 8, -1)
        return any(
            _is_call(decode(machine.image.read(at, addr - at), at))
            for at in starts
            if machine.image.is_text(at)
        )
    at = addr - 1 - found[1]
    while at < addr:
        insn = decode(machine.image.read(at, MAX_INSN_SIZE), at)
        if insn is None:
            return False
        at = insn.end
        if at == addr:
            return _is_call(insn)
    return False


def _is_call(insn: Insn | None) -> bool:
    return insn is not None and insn.branch in _CALLS


def find_system_call(vcpu: Cpu, insn: Insn | None) -> tuple[int, str] | None:
    """Return the number in EAX for ``insn``, which asks the system for something, and words for it.

    :returns: None for other instructions.
    """
    if insn is None or not insn.raw.endswith((_SYSCALL, _SYSENTER, _INT_80)):
        return None
    number = vcpu.registers()[RAX] & _LOW
    wide = insn.raw.endswith(_SYSCALL)
    name = (_NAMES_64 if wide else _NAMES_32).get(number)
    of = "Linux" if wide else "32-bit Linux"
    return number, f"number {number} ({name} of {of})" if name else f"number {number} of {of}"
