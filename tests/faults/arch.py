"""Faults of the arch layer: ``arch_x86/probes/``."""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("ARCH",)

_ARCH, _BREAKPOINT, _STEPPING = (
    "arch_x86/probes/x86_arch.py",
    "arch_x86/probes/breakpoint.py",
    "arch_x86/probes/stepping.py",
)
_DETOUR, _SLOT, _RELOCATE = (
    "arch_x86/probes/detour.py",
    "arch_x86/probes/slot.py",
    "arch_x86/probes/relocate.py",
)
_OPTIMIZE, _EMULATION, _SINGLESTEP = (
    "arch_x86/probes/optimize.py",
    "arch_x86/probes/emulate.py",
    "arch_x86/probes/singlestep.py",
)
_RECOVER, _KRETPROBE = "arch_x86/probes/recover.py", "arch_x86/probes/kretprobe_trampoline.py"
_SITES, _JUMP = "arch_x86/probes/optimized_sites.py", "arch_x86/probes/optimized_hit.py"
_PLAIN: Final = "arch_x86/probes/plain_sites.py"

_BUFFERS: Final = (
    Fault(
        "the jump leads one byte too far",
        _SITES,
        "jump = jmp32(op.at, at)",
        "jump = jmp32(op.at, at + 1)",
        Kind.TEXT,
    ),
    Fault(
        "an undone jump leaves its tail",
        _SITES,
        "INT3 + op.optinsn.original[1:]",
        "INT3 + op.optinsn.jump[1:]",
        Kind.TEXT,
    ),
    Fault(
        "an undone jump leaves its last byte",
        _SITES,
        "for insn in plan.insns)[:JMP32_SIZE]",
        "for insn in plan.insns)[: JMP32_SIZE - 1]",
        Kind.TEXT,
    ),
    Fault(
        "a neighbour at the last replaced byte does not keep the jump off",
        _SITES,
        "for offset in range(1, optinsn.size):",
        "for offset in range(1, optinsn.size - 1):",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "a new probe at the last replaced byte does not force the jump back",
        _ARCH,
        "return op.at <= addr < op.at + optinsn.size",
        "return op.at <= addr < op.at + optinsn.size - 1",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "6.1: a disabled neighbour whose jump still stands does not keep a jump off",
        _SITES,
        "            if waits or not other.disabled:",
        "            if not other.disabled:",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "a disabled neighbour keeps the jump off",
        _SITES,
        "            if waits or not other.disabled:",
        "            if True:",
        Kind.PROGRESS,
    ),
    Fault(
        "next: a boosted hit runs the copy that ends in int3",
        _PLAIN,
        "places[-1][0] if boostable",
        "places[0][0] if boostable",
        Kind.COPY,
    ),
    Fault(
        "a freed detour buffer stays its probe's",
        _SITES,
        "        op.optinsn = None\n        self._copies.detours.free",
        "        self._copies.detours.free",
        Kind.FREED,
    ),
    Fault(
        "the jump back of a slot leads one byte too far",
        _SLOT,
        "jmp32(slot_addr + len(copy), insn.end)",
        "jmp32(slot_addr + len(copy), insn.end + 1)",
        Kind.COPY,
    ),
    Fault(
        "the detour returns one byte too far",
        _DETOUR,
        "jmp32(copied_at + len(copied), plan.end)",
        "jmp32(copied_at + len(copied), plan.end + 1)",
        Kind.COPY,
    ),
    Fault(
        "the detour returns behind five bytes, however many were replaced",
        _OPTIMIZE,
        "        return self.addr + self.size",
        "        return self.addr + JMP32_SIZE",
        Kind.COPY,
    ),
    Fault(
        "a handler behind a jump runs with DF as the interrupted code has it",
        _DETOUR,
        'b"\\xfc"  # cld',
        'b"\\x90"  # cld',
        Kind.MACHINE,
    ),
    Fault(
        "a handler behind a jump has its stack not aligned",
        _DETOUR,
        'b"\\x48\\x83\\xe4\\xf0"  # and',
        'b"\\x0f\\x1f\\x40\\x00"  # and',
        Kind.MACHINE,
    ),
    Fault(
        "a handler behind a jump leaves the flags as they were at its end",
        _DETOUR,
        'b"\\x9d"  # popfq',
        'b"\\x48\\x8d\\x64\\x24\\x08"  # popfq',
        Kind.COPY,
    ),
    Fault(
        "the detour gives back two registers swapped",
        _DETOUR,
        'b"\\x41\\x5b"  # pop r11\n    b"\\x41\\x5a"',
        'b"\\x41\\x5a"  # pop r11\n    b"\\x41\\x5b"',
        Kind.COPY,
    ),
    Fault(
        "a handler behind a jump sees the stack pointer eight bytes off",
        _DETOUR,
        '    + b"\\x48\\x83\\x44\\x24\\x08\\x08"',
        '    + b"\\x48\\x83\\x44\\x24\\x08\\x10"',
        Kind.COPY,
    ),
    Fault(
        "a detour writes over the red zone",
        _DETOUR,
        "template = RED_ZONE if red_zone else PLAIN",
        "template = PLAIN",
        Kind.COPY,
    ),
    Fault(
        "a copied operand that is relative to RIP leads to somewhere else",
        _RELOCATE,
        "    if target is None:",
        "    if True:",
        Kind.COPY,
    ),
    Fault(
        "a copied operand counts from the start of the copy",
        _RELOCATE,
        "rel32(to + insn.length, target)",
        "rel32(to, target)",
        Kind.COPY,
    ),
    Fault(
        "each copy in a detour is made for the address of the first",
        _RELOCATE,
        "        to += insn.length",
        "        pass",
        Kind.COPY,
    ),
    Fault(
        "a jump replaces bytes that the function jumps into",
        _OPTIMIZE,
        "    if function.jumps_into(",
        "    if False and function.jumps_into(",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "a branch may be among the replaced instructions",
        _OPTIMIZE,
        "        if not can_boost(",
        "        if not insns and not can_boost(",
        Kind.COPY,
    ),
    Fault(
        "a jump's first four bytes alone have to lie in the function",
        _OPTIMIZE,
        "if function.end - addr < JMP32_SIZE:",
        "if function.end - addr < JMP32_SIZE - 1:",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "a function that jumps through a register may be optimized",
        _OPTIMIZE,
        "    if cache.jumps_indirectly(function):",
        "    if False:",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "the jump of a probe that waits to be undone is taken for the original",
        _RECOVER,
        "            if queued or not p.queued:",
        "            if not p.queued:",
        Kind.NEIGHBOUR,
    ),
    Fault(
        "a jump that reaches into what is decoded is taken for the original",
        _RECOVER,
        "    before = FTRACE_SIZE_MAX - 1\n",
        "    before = 0\n",
        Kind.NEIGHBOUR,
    ),
)

_HITS: Final = (
    Fault(
        "a jump's hit never ends: all that follows is missed",
        _JUMP,
        "        self._cpus.ctlblk[cpu].current = None\n",
        "        pass\n",
        Kind.HITS,
    ),
    Fault(
        "a boosted hit never ends: all that follows is missed",
        _BREAKPOINT,
        "            if not reenter:\n                block.current = None\n            assert",
        "            assert",
        Kind.HITS,
    ),
    Fault(
        "a hit at the breakpoint of an optimized probe never ends",
        _BREAKPOINT,
        "            if not reenter:\n                block.current = None\n            return",
        "            return",
        Kind.HITS,
    ),
    Fault(
        "a stepped hit never ends: all that follows is missed",
        _BREAKPOINT,
        "            block.prev = block.prev[:-1]\n        else:\n            block.current = None",
        "            block.prev = block.prev[:-1]",
        Kind.HITS,
    ),
    Fault(
        "a hit at the breakpoint of an optimized probe runs the whole detour",
        _BREAKPOINT,
        "regs.ip = optinsn.copied",
        "regs.ip = optinsn.detour.addr",
        Kind.HITS,
    ),
    Fault(
        "a removed breakpoint that was hit is nobody's",
        _BREAKPOINT,
        "if not self._asks_for_removed or",
        "if True or",
        Kind.TEXT,
    ),
    Fault(
        "a breakpoint that is hit within a hit is not counted as missed",
        _BREAKPOINT,
        "        self._cpus.core.kprobes_inc_nmissed_count(p)\n        self._setup",
        "        self._setup",
        Kind.HITS,
    ),
    Fault(
        "a breakpoint that is hit within a hit runs its handler",
        _BREAKPOINT,
        "        if block.current is not None:\n            self._reenter",
        "        if False:\n            self._reenter",
        Kind.HITS,
    ),
    Fault(
        "a jump that is hit within a hit is not counted as missed",
        _JUMP,
        "            cpus.core.kprobes_inc_nmissed_count(op)\n",
        "",
        Kind.HITS,
    ),
    Fault(
        "a jump that is hit within a hit runs its handler",
        _JUMP,
        "        if block.current is not None:\n"
        "            cpus.core.kprobes_inc_nmissed_count(op)",
        "        if False:\n            cpus.core.kprobes_inc_nmissed_count(op)",
        Kind.HITS,
    ),
    Fault(
        "a hit within a hit does not lead back to that",
        _BREAKPOINT,
        "        if block.prev:",
        "        if False:",
        Kind.HITS,
    ),
    Fault(
        "a post_handler is never called",
        _BREAKPOINT,
        "            if p.post_handler is not None:\n                p.post_handler(p, regs, 0)",
        "            if False:\n                p.post_handler(p, regs, 0)",
        Kind.POST,
    ),
    Fault(
        "a post_handler is called for a hit within a hit",
        _BREAKPOINT,
        "if block.status is not _REENTER and (self._ends_step or",
        "if True and (self._ends_step or",
        Kind.POST,
    ),
    Fault(
        "a handler behind a jump sees the address of the probe as ip",
        _JUMP,
        "regs.ip = op.at + INT3_SIZE",
        "regs.ip = op.at",
        Kind.HITS,
    ),
    Fault(
        "the breakpoint handlers of all CPUs keep one record",
        _BREAKPOINT,
        "        block = self._cpus.ctlblk[cpu]\n        if p is None:\n            if self",
        "        block = self._cpus.ctlblk[0]\n        if p is None:\n            if self",
        Kind.HITS,
    ),
    Fault(
        "a fault in a single step is left at the copy",
        _BREAKPOINT,
        "            regs.ip = p.at\n            regs.flags",
        "            regs.flags",
        Kind.STEP,
    ),
)

_STEPS: Final = (
    Fault(
        "2010: a probe with a post_handler is boosted",
        _STEPPING,
        "return ainsn.boostable and p.post_handler is None",
        "return ainsn.boostable",
        Kind.POST,
    ),
    Fault(
        "6.1: the copy of a probe with a post_handler ends in a jump back",
        _STEPPING,
        "return self._both or p.post_handler is None",
        "return True",
        Kind.POST,
    ),
    Fault(
        "next: a post_handler that joins a boosted probe is not called",
        _STEPPING,
        "return ainsn.boostable and not (self._both and p.post_handler is not None)",
        "return ainsn.boostable",
        Kind.POST,
    ),
    Fault(
        "2010: interrupts come in a single step",
        _STEPPING,
        "(regs.flags | FLAG_TF) & ~FLAG_IF",
        "regs.flags | FLAG_TF",
        Kind.STEP,
    ),
    Fault(
        "6.1: interrupts come in a single step",
        _STEPPING,
        "        regs.flags &= ~FLAG_IF\n        regs.ip = ainsn.slot",
        "        regs.ip = ainsn.slot",
        Kind.STEP,
    ),
    Fault(
        "6.1: IF stays clear after a single step",
        _STEPPING,
        "        regs.flags |= block.saved_flags\n        regs.ip",
        "        regs.ip",
        Kind.STEP,
    ),
    Fault(
        "2010: TF stays set after a single step",
        _STEPPING,
        "        regs.flags &= ~FLAG_TF\n        delta",
        "        delta",
        Kind.STEP,
    ),
    Fault(
        "6.1: any int3 ends a single step",
        _STEPPING,
        "return by_int3 and regs.ip == ainsn.slot + ainsn.insn.length + INT3_SIZE",
        "return by_int3",
        Kind.STEP,
    ),
    Fault(
        "2010: an int3 ends a single step",
        _STEPPING,
        "        return not by_int3",
        "        return True",
        Kind.STEP,
    ),
    Fault(
        "6.1: a stepped instruction is run again",
        _STEPPING,
        "        regs.ip = ainsn.insn.end",
        "        regs.ip = ainsn.insn.addr",
        Kind.STEP,
    ),
    Fault(
        "2010: flags that a stepped instruction pushes have TF set",
        _STEPPING,
        "        if fixup.pushed_flags:",
        "        if False:",
        Kind.STEP,
    ),
    Fault(
        "2010: a stepped CALL returns to the slot",
        _STEPPING,
        "        if fixup.return_address:",
        "        if False:",
        Kind.STEP,
    ),
    Fault(
        "2010: RIP stays behind the slot after a single step",
        _STEPPING,
        "        if fixup.relative_ip:",
        "        if False:",
        Kind.STEP,
    ),
    Fault(
        "2010: a stepped CLI or STI changes nothing",
        _STEPPING,
        "            block.saved_flags &= ~FLAG_IF",
        "            pass",
        Kind.STEP,
    ),
    Fault(
        "2010: a stepped jump through a register goes on relative to the slot",
        _SINGLESTEP,
        "    {\n"
        "        Branch.RET,\n"
        "        Branch.RET_FAR,\n"
        "        Branch.IRET,\n"
        "        Branch.JMP_FAR,\n"
        "        Branch.JMP_INDIRECT_REG,\n"
        "        Branch.JMP_INDIRECT_MEM,\n"
        "    }",
        "    {Branch.RET, Branch.RET_FAR, Branch.IRET, Branch.JMP_FAR, Branch.JMP_INDIRECT_MEM}",
        Kind.STEP,
    ),
    Fault(
        "6.1: JLE and JG ask for both of two conditions",
        _EMULATION,
        "            holds = zero or less",
        "            holds = zero and less",
        Kind.STEP,
    ),
    Fault(
        "6.1: an emulated CALL pushes its own address",
        _EMULATION,
        "            push(regs, memory, insn.end)\n            target = _target(insn)",
        "            push(regs, memory, insn.addr)\n            target = _target(insn)",
        Kind.STEP,
    ),
    Fault(
        "6.1: an emulated branch goes where the register without its REX bit leads",
        _EMULATION,
        "_GPR[insn.rm | (insn.rex & 1) << 3]",
        "_GPR[insn.rm]",
        Kind.STEP,
    ),
    Fault(
        "6.1: an emulated RET leaves the stack pointer",
        _EMULATION,
        "    regs.sp = (regs.sp + 8) & ADDRESS_MASK\n    return value",
        "    return value",
        Kind.STEP,
    ),
    Fault(
        "next: LOOP counts one too high",
        _EMULATION,
        "more = count != 0 if warts else left != 0",
        "more = count != 0",
        Kind.STEP,
    ),
    Fault(
        "6.1: an emulated POPF changes no flags",
        _EMULATION,
        "            regs.flags = _pop(regs, memory)",
        "            _pop(regs, memory)",
        Kind.STEP,
    ),
    Fault(
        "a return probe does not note where the return address lay",
        _KRETPROBE,
        "    ri.frame = regs.sp\n",
        "",
        Kind.RETURNS,
    ),
    Fault(
        "a return probe returns to the word above the return address",
        _KRETPROBE,
        "frame = regs.sp - 8 & ADDRESS_MASK",
        "frame = regs.sp & ADDRESS_MASK",
        Kind.RETURNS,
    ),
)

ARCH: Final = (*_BUFFERS, *_HITS, *_STEPS)
