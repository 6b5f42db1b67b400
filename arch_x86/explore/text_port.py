"""The text of an x86-64 machine, as an implementation of :class:`engine.patching.port.TextPort`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from arch_x86.emu.fault import FaultKind
from arch_x86.emu.machine import Machine
from arch_x86.emu.uc import GPR_NAMES
from arch_x86.explore.stepped_text import SteppedText
from arch_x86.isa.constants import HLT, INT3, JMP32_OPCODE, JMP32_SIZE, MAX_INSN_SIZE
from arch_x86.isa.decode import decode, decode_length
from arch_x86.isa.disasm import disassemble
from arch_x86.isa.serializing import is_serializing
from arch_x86.lab.bench import build_arch
from arch_x86.probes.code import CodeCache
from arch_x86.probes.ftrace_site import FTRACE_SIZE_MAX, FtraceInsn
from arch_x86.probes.x86_arch import X86Arch
from arch_x86.text.poke import PokeFactory
from engine.control.stepped_plane import SteppedPlane
from engine.core.profiles import Profile
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.patching.port_records import PatchFacts

__all__ = ("X86_FACTS", "X86Text")

X86_FACTS: Final = PatchFacts(
    traps=(INT3, HLT),
    trap_faults=(FaultKind.BREAKPOINT, FaultKind.HALT),
    breakpoint=INT3,
    breakpoint_fault=FaultKind.BREAKPOINT,
    jump=bytes([JMP32_OPCODE]),
    jump_size=JMP32_SIZE,
    patch_size_max=FTRACE_SIZE_MAX,
    insn_size_max=MAX_INSN_SIZE,
    result="RAX",
    registers=(*GPR_NAMES, "rflags"),
    parts=("vector registers", "x87 registers", "a buffer", "the fault"),
)


_OPCODES: Final = re.compile(rb"\xcf|\x0f[\x00\x01\x08\x09\x22\x23\x30\xa2\xaa]", re.DOTALL)
"""The opcode bytes of all serializing instructions. Other instructions have such bytes, too."""


@lru_cache(maxsize=4096)
def _insn_size(data: bytes) -> int:
    """Return the size of the instruction that ``data`` begins with; 1 if there is none."""
    return decode_length(data) or 1


@lru_cache(maxsize=4096)
def _is_synchronizing(data: bytes) -> bool:
    """Return whether the instruction that ``data`` begins with serializes the CPU."""
    return is_serializing(data[: _insn_size(data)])


class X86Text:
    """The text of ``machine`` under the kernel of ``profile``.

    :param poke: makes the poke protocol; None: the profile's protocol is used.
    """

    def __init__(self, machine: Machine, profile: Profile, poke: PokeFactory | None = None) -> None:
        self._poke = poke
        self._machine = machine
        self._profile = profile
        self._store = machine.text.store
        self._version: Any = machine.text.current
        self._cpus = machine.cpus
        layout = machine.layout
        self._detours = layout.detours
        self.facts = X86_FACTS
        self.buffers = range(layout.slots, layout.detours + layout.detours_size)
        self.slots = range(layout.slots, layout.detours)
        self.stubs = machine.stubs.frames

    @property
    def image(self) -> Image:
        """The program that is patched."""
        return self._machine.image

    @property
    def kallsyms(self) -> Kallsyms:
        """The symbols of the program that is patched."""
        return self._machine.kallsyms

    @property
    def trampoline(self) -> int:
        """The address to which functions with a return probe return."""
        return self._machine.stubs.trampoline

    # Contents -------------------------------------------------------------------------------------

    def build(self, plane: SteppedPlane, *, whole_batches: bool) -> tuple[SteppedText, X86Arch]:
        """Make the text and the arch layer of a new control state, with the original content.

        :param whole_batches: what ``stop_machine`` writes is one step.
        """
        text = SteppedText(
            self._store, self.buffers.__contains__, plane.point, whole_batches=whole_batches
        )
        return text, build_arch(self._machine, text, plane, self._profile, poke=self._poke)

    def show(self, state: Any, version: Any) -> None:
        """Let all vCPUs fetch ``version``, and the arch layer of ``state`` answer their traps."""
        self._version = version
        for cpu in self._cpus:
            cpu.view = version
        self._machine.trap_handler = state.arch.traps

    def require_shown(self, version: Any) -> None:
        """Check that all vCPUs fetch ``version``.

        :raises EngineBug: a vCPU fetches another version.
        """
        self._machine.require_fetched(version)

    def fetched(self, cpu: int, addr: int, size: int) -> bytes:
        """Return the ``size`` bytes that the vCPU would fetch at ``addr``."""
        return self._store.read(self._cpus[cpu].view, addr, size)

    def fetch_as(self, cpu: int, addr: int, insn: bytes) -> None:
        """Let the vCPU fetch ``insn`` at ``addr`` in place of the text that is shown.

        Without bytes the vCPU fetches the text that is shown again.
        """
        self._cpus[cpu].view = (
            self._store.write(self._version, addr, insn) if insn else self._version
        )

    def insn_size(self, data: bytes, addr: int) -> int:
        """Return the size of the instruction that ``data`` begins with; 1 if there is none."""
        return _insn_size(data)

    def is_synchronizing(self, data: bytes, addr: int) -> bool:
        """Return whether the instruction that ``data`` begins with serializes the CPU."""
        return _is_synchronizing(data)

    def synchronizing(self) -> Iterator[int]:
        """Yield the addresses of the serializing instructions in the functions of the program."""
        code = CodeCache(self._machine.image)
        seen = set[int]()
        for addr in self._where_one_may_be():
            function = code.function_at(addr)
            if function is None or function.start in seen:
                continue
            seen.add(function.start)
            for insn in function.insns.values():
                if is_serializing(insn.raw):
                    yield insn.addr

    def _where_one_may_be(self) -> Iterator[int]:
        """Yield the addresses of bytes that a serializing instruction has as its opcode."""
        for segment in self._machine.image.segments:
            if segment.executable:
                for found in _OPCODES.finditer(segment.data):
                    yield segment.addr + found.start()

    def read(self, version: Any, addr: int, size: int) -> bytes:
        """Return the ``size`` bytes that ``version`` has at ``addr``."""
        return self._store.read(version, addr, size)

    def first_change(self, version: Any, apart: Mapping[int, bytes]) -> tuple[int, int, int] | None:
        """Return the first byte of ``version`` that differs from the original text.

        Slots and detour buffers are left out, since they are written to as probes come and go.

        :param apart: by address, code that replaces the original, so that it counts as unchanged.
        :returns: the byte's address, its value, and its original value; None: no byte differs.
        """
        initial = self._store.initial
        originals = {page.vpn: page for page in initial.changes_from(None)}
        for page in version.changes_from(initial):
            old = originals.get(page.vpn)
            if old is None or page.vpn << 12 in self.buffers:
                continue
            first = page.vpn << 12
            wanted = _with_code(first, old.content, apart)
            if page.content != wanted:
                at = next(i for i, byte in enumerate(page.content) if byte != wanted[i])
                return first + at, page.content[at], wanted[at]
        return None

    def ftrace(self, ainsn: object) -> tuple[bytes, bytes] | None:
        """Return the call that arms a probe on an ftrace location, and the original instruction.

        :param ainsn: what the arch layer keeps with the probe.
        :returns: None if the probe is not on an ftrace location.
        """
        return (ainsn.call, ainsn.insn.raw) if isinstance(ainsn, FtraceInsn) else None

    def watch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Let runs stop in front of each instruction that begins in one of ``spans`` (begin, end).

        The emulators drop their translations, for code translated before has no stops.
        """
        for cpu in self._cpus:
            for start, end in spans:
                cpu.uc.hooks.watch(start, end)
            cpu.uc.flush_translations()

    # Names ----------------------------------------------------------------------------------------

    def where(self, addr: int) -> str:
        """Return a name for a text address: by function, slot or detour buffer, or a number."""
        found = self._machine.kallsyms.lookup(addr)
        if found is not None:
            return f"{found[0].name}+{found[1]:#x}"
        if addr in self.buffers:
            return f"{'slot' if addr < self._detours else 'detour buffer'} {addr:#x}"
        return f"{addr:#x}"

    def next_instruction(self, cpu: int, insn: bytes | None) -> tuple[str, bool]:
        """Return the place and the disassembly of the vCPU's next instruction, for a timeline.

        :param insn: the bytes that the vCPU fetches; None: those of the text that is shown.
        :returns: that text, and whether the instruction is one of the program's own.
        """
        vcpu = self._cpus[cpu]
        raw = insn or self._store.read(vcpu.view, vcpu.rip, MAX_INSN_SIZE)
        decoded = decode(raw, vcpu.rip)
        text = disassemble(raw[:1] if decoded is None else decoded.raw, vcpu.rip)
        if vcpu.rip == self._machine.stubs.call_return:
            return "the call has returned", True
        own = self._machine.kallsyms.lookup(vcpu.rip) is not None
        return f"{self.where(vcpu.rip) if own else self._short(vcpu.rip)}  {text}", own

    def _short(self, addr: int) -> str:
        stubs = self._machine.stubs
        if addr in stubs.frames:
            starts = {
                stubs.interrupt: "interrupt",
                stubs.nmi: "nmi",
                stubs.schedule: "schedule",
                stubs.trampoline: "trampoline",
            }
            starts |= {at: f"exception {vector}" for vector, at in stubs.exceptions.items()}
            starts |= {stubs.optimized_callback: "callback", stubs.ftrace_caller: "ftrace_caller"}
            start = max((at for at in starts if at <= addr), default=addr)
            return f"stub {starts.get(start, '')}+{addr - start:#x}"
        return self.where(addr)


def _with_code(first: int, content: bytes, codes: Mapping[int, bytes]) -> bytes:
    """Return ``content``, whose first byte is at ``first``, with the bytes of ``codes`` in it."""
    changed = bytearray(content)
    for addr, code in codes.items():
        for at, byte in enumerate(code, addr - first):
            if 0 <= at < len(changed):
                changed[at] = byte
    return bytes(changed)
