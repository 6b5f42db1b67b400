"""Users of int3 beside kprobes, and the order in which do_int3() asks them (v6.1).

It answers to do_int3() in arch/x86/kernel/traps.c, and to notify_die() in kernel/notifier.c. A
breakpoint that is no poke's is kgdb's first (kgdb_ll_trap()), then kprobes', and then goes to the
callbacks of register_die_notifier(). A user here counts the hit and emulates its instruction on
pt_regs, as the callback of int3_selftest() does (arch/x86/kernel/alternative.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from arch_x86.isa.constants import INT3, INT3_SIZE, MAX_INSN_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import NO_QUIRKS
from arch_x86.isa.onward import onward
from arch_x86.probes.emulate import StackMemory, emulate
from arch_x86.probes.prepare_emulation import emulation_of
from arch_x86.text.poke import PokeProtocol, TextPokeParam
from engine.errors import EngineBug, InputError

if TYPE_CHECKING:
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.text.space import TextSpace
    from engine.foreign_breakpoint import ForeignBreakpoint
    from engine.image import Image

__all__ = ("DieChain",)


class DieChain:
    """The users of int3 in one machine that are neither kprobes nor a poke protocol.

    :param image: has the instructions that the users emulate.
    :param text: the machine's text, of which a user saves the byte that it replaces.
    :param poke: writes a user's breakpoint as it writes a probe's.
    :param memory: the memory in which the guest's stacks lie.
    """

    def __init__(
        self, image: Image, text: TextSpace, poke: PokeProtocol, memory: StackMemory
    ) -> None:
        self._image = image
        self._text = text
        self._poke = poke
        self._memory = memory
        self._registered: list[ForeignBreakpoint] = []

    def require_emulated(self, addr: int) -> None:
        """Refuse an instruction that a user here does not emulate.

        :raises InputError: it is none of those below.
        """
        code = self._image.read(addr, MAX_INSN_SIZE)
        insn = decode(code, addr)
        if insn is None or (onward(code, addr) is None and emulation_of(insn, NO_QUIRKS) is None):
            raise InputError(
                f"breakpoint at {addr:#x}: its user emulates no-ops, branches, calls, returns and"
                " what changes IF, and nothing else; give such an instruction"
            )

    def register(self, one: ForeignBreakpoint) -> None:
        """Let hits of ``one`` find its handler from now on (register_die_notifier())."""
        if not one.registered:
            one.registered = True
            self._registered.append(one)

    def unregister(self, one: ForeignBreakpoint) -> None:
        """Let no hit find the handler of ``one`` any more (unregister_die_notifier())."""
        if one.registered:
            one.registered = False
            self._registered.remove(one)

    def set(self, one: ForeignBreakpoint) -> None:
        """Write the breakpoint ``one``; the caller holds text_mutex."""
        if one.saved is None:
            saved = self._text.read(one.addr, INT3_SIZE)
            self._poke.text_poke_bytes(
                [TextPokeParam(one.addr, INT3, f"set a foreign breakpoint at {one.addr:#x}")]
            )
            one.saved = saved

    def remove(self, one: ForeignBreakpoint) -> None:
        """Write back what the breakpoint ``one`` has replaced; the caller holds text_mutex."""
        if one.saved is not None:
            self._poke.text_poke_bytes(
                [
                    TextPokeParam(
                        one.addr, one.saved, f"remove a foreign breakpoint at {one.addr:#x}"
                    )
                ]
            )
            one.saved = None

    # Hits -----------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        """Return whether a handler is registered."""
        return bool(self._registered)

    def asks_before_probes(self, addr: int) -> bool:
        """Return whether a user that is asked before kprobes has its breakpoint at ``addr``."""
        return any(one.before_probes and one.addr == addr for one in self._registered)

    def notify(self, regs: PtRegs) -> bool:
        """Let the first user whose breakpoint was hit handle the hit (notify_die()).

        :returns: False if the breakpoint in front of ``regs.ip`` is none of theirs.
        """
        addr = regs.ip - INT3_SIZE
        found = next((one for one in self._registered if one.addr == addr), None)
        if found is None:
            return False
        found.handler(regs)
        self._emulate(addr, regs)
        return True

    def _emulate(self, addr: int, regs: PtRegs) -> None:
        """Do the instruction at ``addr`` of the image on ``regs`` and on the stack."""
        code = self._image.read(addr, MAX_INSN_SIZE)
        insn = decode(code, addr)
        if insn is None:
            raise EngineBug(f"a breakpoint was set at {addr:#x}, where no instruction is")
        kind = emulation_of(insn, NO_QUIRKS)
        if kind is None:
            regs.ip = insn.end
        else:
            emulate(kind, insn, regs, self._memory, warts=False)
