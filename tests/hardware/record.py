"""Record what the processor of this computer does with random instructions: ``python -m
tests.hardware.record FILE [SEED] [COUNT]``.

The file has the format of tests/data/hardware, and the same states; ``python -m tests.hardware
FILE`` holds the machine against it. A child process that is traced runs one instruction at a time;
whatever becomes of it, it can be set up again for the next.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import os
import platform
import random
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iced_x86 import Code, Decoder, FlowControl, Formatter, FormatterSyntax, OpCodeInfo, Register

from tests.hardware.records import FILE, GPR, State, load

IP = 0x1000_00A1
PAGE = 4096
AREAS = ((0x1000_0000, PAGE), (0x2200_0000, PAGE), (0x22FF_F000, 3 * PAGE))
DATA_AT, STACK_AT = AREAS[1][0], AREAS[2][0]
TRACEME, CONT, GETREGS, SETREGS, GETFPREGS, SETFPREGS = 0, 7, 12, 13, 14, 15
USER_REGS = (  # struct user_regs_struct
    *(
        "r15",
        "r14",
        "r13",
        "r12",
        "rbp",
        "rbx",
        "r11",
        "r10",
        "r9",
        "r8",
        "rax",
        "rcx",
        "rdx",
        "rsi",
        "rdi",
        "orig_rax",
        "rip",
    ),
    *("cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
FORMS_IN = ({"fcw": 0, "fsw": 2}, {"mxcsr": 24})
PREFIXES = (b"\x66", b"\xf2", b"\xf3", b"\x67", b"\xf0", b"\x2e", b"\x3e", b"\x36")
FLAGS = 0xCD5
# iced's bits: OF SF ZF AF CF PF DF
UNDEFINED = {
    1: 0x800,
    2: 0x80,
    4: 0x40,
    8: 0x10,
    0x10: 0x1,
    0x20: 0x4,
    0x40: 0x400,
}
SKIPPED_NAMES = (
    "RDTSC",
    "RDRAND",
    "RDSEED",
    "CPUID",
    "XGETBV",
    "RDPID",
    "RDPMC",
    "SYSCALL",
    "SYSENTER",
    "INT",
    "UD",
    "FXSAVE",
    "FXRSTOR",
    "XSAVE",
    "XRSTOR",
    "XBEGIN",
    "XABORT",
    "HLT",
)
SKIPPED_NAMES += (
    "FLDENV",
    "FNSTENV",
    "FRSTOR",
    "FNSAVE",
    "SMSW",
    "SLDT",
    "STR",
    "SIDT",
    "SGDT",
    "VERR",
    "VERW",
    "LAR",
    "LSL",
    "MOV_SREG",
    "WRFS",
    "WRGS",
    "RDFS",
    "RDGS",
)
SKIPPED_NAMES += (
    "RDSSP",
    "INCSSP",
    "CLZERO",
    "MONITOR",
    "MWAIT",
    "XEND",
    "XTEST",
    "LFS",
    "LGS",
    "LSS",
    "POP_FS",
    "POP_GS",
    "PUSH_FS",
    "PUSH_GS",
    "RCP",
    "RSQRT",
    "MOV_RM16_SREG",
    "MOV_R32M16_SREG",
    "MOV_R64M16_SREG",
    "SWAPGS",
    "ENTER",
    "VM",
    "STI",
    "CLI",
    "IN_",
    "OUT",
    "PTWRITE",
    "WBNOINVD",
    "TPAUSE",
    "UMWAIT",
    "UMONITOR",
    "SERIALIZE",
    "RDPRU",
    "MCOMMIT",
    "PSMASH",
    "PVALIDATE",
    "LLWPCB",
    "SLWPCB",
    "RMP",
    "INVLPGB",
    "TLBSYNC",
    "GETSEC",
    "ENCL",
    "XSTORE",
    "UIRET",
    "TESTUI",
    "CLUI",
    "STUI",
    "SENDUIPI",
    "SSKPIR",
)


def generate(rng: random.Random) -> Iterator[tuple[bytes, Any]]:
    """Instructions without end, each with what the disassembler makes of it."""
    while True:
        raw = _draw(rng)
        decoder = Decoder(64, raw, ip=IP)
        insn = decoder.decode()
        if insn.code == Code.INVALID or not _wanted(insn):
            continue
        yield raw[: insn.len], insn


def _draw(rng: random.Random) -> bytes:
    prefixes = b"".join(rng.sample(PREFIXES, rng.choice((0, 0, 0, 0, 1, 1, 1, 2))))
    rex = bytes([rng.randrange(0x40, 0x50)]) if rng.random() < 0.4 else b""
    kind = rng.random()
    opcode = rng.randrange(256)
    if kind < 0.3:
        head = prefixes + rex + bytes([opcode])
    elif kind < 0.75:
        head = prefixes + rex + b"\x0f" + bytes([opcode])
    elif kind < 0.85:
        head = prefixes + rex + b"\x0f\x38" + bytes([opcode])
    elif kind < 0.93:
        head = prefixes + rex + b"\x0f\x3a" + bytes([opcode])
    else:
        page = rng.choice((2, 2, 2, 3))
        byte = rng.choice((0xF2, 0xF3, 0xF5, 0xF6, 0xF7)) if page == 2 else 0xF0
        head = bytes(
            [
                0xC4,
                rng.choice((0xE0, 0x60, 0xC0, 0x40)) | page,
                rng.randrange(16) << 3 | rng.randrange(4) | rng.choice((0, 0x80)),
                byte,
            ]
        )
    return head + _operand(rng, len(head)) + rng.randbytes(8)


def _operand(rng: random.Random, before: int) -> bytes:
    reg = rng.randrange(8) << 3
    data = DATA_AT + rng.randrange(0x300, 0x700, rng.choice((1, 16, 16)))
    match rng.randrange(6):
        case 0:
            return bytes([reg | 5]) + struct.pack(
                "<i", data - IP - before - 5 - rng.choice((0, 1, 1, 4))
            )
        case 1:
            return bytes([reg | 0x43, rng.choice((0x10, 0xF0, 0x70))])
        case 2:
            return bytes([reg | 4, 0x25]) + struct.pack("<i", data)
    return bytes([0xC0 | reg | rng.randrange(8)])


def _wanted(insn: Any) -> bool:
    info = OpCodeInfo(insn.code)
    name = _NAMES[insn.code]
    if (
        insn.segment_prefix in (Register.FS, Register.GS)
        or insn.flow_control != FlowControl.NEXT
        or info.is_privileged
        or name.startswith(SKIPPED_NAMES)
        or info.must_be_cpl0
    ):
        return False
    if (
        (name.startswith(("VEX", "EVEX", "XOP", "MVEX")) and not name.startswith("VEX_"))
        or "YMM" in name
        or "ZMM" in name
    ):
        return False
    return not any(
        insn.op_register(i) in (Register.FS, Register.GS, Register.SS)
        for i in range(insn.op_count)
        if insn.op_kind(i) == 0
    )


_NAMES = {value: name for name, value in vars(Code).items() if isinstance(value, int)}


class Processor:
    """A traced child, in which one instruction at a time is executed."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes, libc.ptrace.restype = (
            [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p],
            ctypes.c_long,
        )
        libc.mmap.argtypes, libc.mmap.restype = (
            [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long],
            ctypes.c_void_p,
        )
        self._ptrace = libc.ptrace
        self._registers = (ctypes.c_uint64 * len(USER_REGS))()
        self._floating = ctypes.create_string_buffer(512)
        self.pid = os.fork()
        if self.pid == 0:
            for at, size in AREAS:
                libc.mmap(at, size, 7, 0x32, -1, 0)
            libc.ptrace(TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        os.waitpid(self.pid, 0)
        self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        self._call(GETREGS, self._registers)
        self._start = tuple(self._registers)

    def _call(self, request: int, room: Any) -> None:
        if self._ptrace(request, self.pid, None, ctypes.addressof(room)) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request}")

    def close(self) -> None:
        """End the child."""
        os.close(self._memory)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def run(
        self, raw: bytes, state: State
    ) -> tuple[int | None, dict[str, int], bytes, bytes, bytes]:
        """The signal if there was one, registers, FXSAVE image, data and stack (all of it) after
        ``raw``.
        """
        os.pwrite(self._memory, (raw + b"\xcc").ljust(24, b"\xcc"), IP)
        os.pwrite(self._memory, state.data, DATA_AT)
        os.pwrite(self._memory, bytes(3 * PAGE), STACK_AT)
        values = dict(zip(USER_REGS, self._start, strict=True)) | state.gpr
        values |= {
            "orig_rax": (1 << 64) - 1,
            "rip": IP,
            "rflags": state.rflags,
            "fs_base": 0,
            "gs_base": 0,
        }
        self._registers[:] = [values[name] for name in USER_REGS]
        image = struct.pack(
            "<HHBxHQQII", state.fcw, state.fsw, state.ftw, 0, 0, 0, state.mxcsr, 0xFFFF
        )
        image += b"".join(value.ljust(16, b"\0") for value in state.st) + b"".join(state.xmm)
        self._floating.raw = image.ljust(512, b"\0")
        self._call(SETREGS, self._registers)
        self._call(SETFPREGS, self._floating)
        if self._ptrace(CONT, self.pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace CONT")
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSTOPPED(status):
            raise RuntimeError(f"{raw.hex()} ended the child: {status:#x}")
        self._call(GETREGS, self._registers)
        self._call(GETFPREGS, self._floating)
        after = dict(zip(USER_REGS, self._registers, strict=True))
        number = os.WSTOPSIG(status)
        done = number == signal.SIGTRAP and after["rip"] == IP + len(raw) + 1
        memory, stack = (
            os.pread(self._memory, PAGE, DATA_AT),
            os.pread(self._memory, 3 * PAGE, STACK_AT),
        )
        return None if done else number, after, self._floating.raw, memory, stack


def _after(
    state: State, after: dict[str, int], fx: bytes, memory: bytes, stack: bytes
) -> dict[str, Any]:
    changes: dict[str, Any] = {
        name: hex(after[name]) for name in GPR if after[name] != state.gpr[name]
    }
    if (after["rflags"] ^ state.rflags) & FLAGS:
        changes["rflags"] = hex(after["rflags"] & ~0x10000)
    fcw, fsw, ftw = struct.unpack_from("<HHB", fx)
    words = {"fcw": fcw, "fsw": fsw, "ftw": ftw, "mxcsr": struct.unpack_from("<I", fx, 24)[0]}
    changes |= {name: hex(value) for name, value in words.items() if value != getattr(state, name)}
    changes |= {
        f"st{i}": fx[32 + 16 * i : 42 + 16 * i].hex()
        for i in range(8)
        if fx[32 + 16 * i : 42 + 16 * i] != state.st[i]
    }
    vectors = [fx[160 + 16 * i : 176 + 16 * i] for i in range(16)]
    changes |= {f"xmm{i}": value.hex() for i, value in enumerate(vectors) if value != state.xmm[i]}
    changed: dict[str, str] = {}
    for i, (old, new) in enumerate(zip(state.data, memory, strict=True)):
        if old != new:
            changed[hex(DATA_AT + i)] = f"{new:02x}"
    if changed:
        changes["mem"] = changed
    rsp, top = after["rsp"], state.gpr["rsp"]
    if rsp < top and rsp >= STACK_AT:
        changes["stack"] = stack[rsp - STACK_AT : top - STACK_AT].hex()
    return changes


def record(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """``count`` records; instructions that change where they run or how they end are left out."""
    rng = random.Random(seed)
    states = load()[0]
    formatter = Formatter(FormatterSyntax.NASM)
    processor = Processor()
    per_form: dict[str, int] = {}
    done = 0
    try:
        for raw, insn in generate(rng):
            if done == count:
                return
            code = _NAMES[insn.code]
            if per_form.get(code, 0) >= max(8, count // 500):
                continue
            per_form[code] = per_form.get(code, 0) + 1
            number = rng.randrange(len(states))
            line: dict[str, Any] = {
                "code": code,
                "hex": raw.hex(),
                "text": formatter.format(insn),
                "ip": hex(IP),
                "state": number,
            }
            undefined = insn.rflags_undefined
            line["undefined"] = hex(sum(flag for bit, flag in UNDEFINED.items() if undefined & bit))
            signalled, *rest = processor.run(raw, states[number])
            if signalled is None:
                line["after"] = _after(states[number], *rest)
            else:
                line["signal"] = signalled
            done += 1
            yield line
    finally:
        processor.close()


def main() -> None:
    """Write the file."""
    if platform.machine() not in ("x86_64", "AMD64") or not hasattr(os, "fork"):
        print("this computer is no x86-64 Linux: nothing to record")
        return
    path, seed, count = (
        Path(sys.argv[1]),
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
        int(sys.argv[3]) if len(sys.argv) > 3 else 20_000,
    )
    with gzip.open(FILE, "rt", encoding="ascii") as lines:
        head = next(lines)
    with gzip.open(path, "wt", encoding="ascii") as out:
        out.write(head)
        for line in record(seed, count):
            out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
