"""The x86 side of the core's contract: arch_prepare_kprobe() and its siblings.

It answers to arch/x86/kernel/kprobes.c (2.6.38). Plain probes are in
:mod:`arch_x86.probes.plain_sites`, their optimization is in :mod:`arch_x86.probes.optimized_sites`.
Both write through a poke protocol what the pure modules beside them have planned.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arch_x86.isa.constants import JMP32_SIZE, MAX_INSN_SIZE, MAX_OPTIMIZED_LENGTH
from arch_x86.isa.decode import decode
from arch_x86.isa.onward import onward
from arch_x86.probes.code import CodeCache
from arch_x86.probes.copies import Copies, X86Areas
from arch_x86.probes.cpu_state import CpuState
from arch_x86.probes.die_chain import DieChain
from arch_x86.probes.eligibility import (
    ProbeRefusal,
    Verdict,
    can_probe_address,
    can_probe_instruction,
    entry_offset,
    is_ftrace_site,
)
from arch_x86.probes.jprobe_handlers import longjmp, setjmp
from arch_x86.probes.kretprobe_trampoline import hook_return
from arch_x86.probes.optimized_sites import OptimizedSites
from arch_x86.probes.plain_sites import PlainSites
from arch_x86.probes.records import OptInsn
from arch_x86.probes.recover import recover
from arch_x86.probes.static_call_sites import return_0_of
from arch_x86.probes.stepping import stepping_for
from arch_x86.probes.told_places import told_inside
from arch_x86.probes.trap_handler import ProbeTraps
from arch_x86.text.poke import HandlerCrashError, PokeProtocol, TextPokeParam
from engine.core.profiles import LINUX_2010, Profile
from engine.core.safety_steps import SafetyStep
from engine.errors import KprobeError, printable
from engine.image import ReservedKind
from engine.kprobe import AggrKprobe, Kprobe, KprobeStatus, Method

if TYPE_CHECKING:
    from arch_x86.probes.emulate import StackMemory
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.text.space import TextSpace
    from engine.arch import ArchCallbacks
    from engine.image import Image
    from engine.kretprobe import KretprobeInstance

__all__ = ("X86Arch", "X86Areas")


def _not_told(_addr: int, _raw: bytes) -> None:
    """Ignore a copied instruction, where nothing depends on it."""


def _as_known(image: Image, profile: Profile) -> Image:
    """Return ``image`` with the reserved text that kprobes of ``profile`` ask about."""
    if profile.has(SafetyStep.RESERVED_TEXT):
        return image
    kept = (one for one in image.reserved if one.kind is ReservedKind.FTRACE_SITE)
    return replace(image, reserved=tuple(kept))


class X86Arch:
    """The arch layer, which prepares, arms, optimizes and undoes probes in one machine's text.

    :param copied: called with the address and bytes of each copied instruction before it is written
        to a slot or detour buffer.
    :param grace: waits for a grace period, before dirty slots are used again.
    :ivar code: the image's functions, as their text is without probes.
    :ivar stepping: how hits run the instructions under breakpoints.
    :ivar cpus: the state of each CPU.
    :ivar ctlblk: the kprobe_ctlblk of each CPU, a list of ``cpus``.
    :ivar tasks: the task of each CPU, a list of ``cpus``.
    :ivar die_chain: the users of int3 that are neither kprobes nor the poke protocol.
    :ivar traps: answers the machine's traps.
    :ivar copies: the slots and detour buffers.
    :ivar slots: the cache of slots in ``copies``.
    :ivar detours: the cache of detour buffers in ``copies``.
    """

    def __init__(
        self,
        image: Image,
        text: TextSpace,
        poke: PokeProtocol,
        areas: X86Areas,
        memory: StackMemory,
        cpus: int,
        profile: Profile = LINUX_2010,
        copied: Callable[[int, bytes], None] | None = None,
        grace: Callable[[str], None] | None = None,
    ) -> None:
        def text_byte(addr: int) -> int | None:
            data = text.read(addr, 1)
            return data[0] if data else None

        self.profile = profile
        self.image = image
        self.poke = poke
        self._text = text
        self._memory = memory
        self._areas = areas
        copied = copied or _not_told
        self._lookup: Callable[[int], Kprobe | None] = lambda _addr: None
        self.code = CodeCache(_as_known(image, profile), self.recovered)
        self.stepping = stepping_for(profile, memory)
        self.cpus = CpuState(cpus, profile)
        self.ctlblk, self.tasks = self.cpus.ctlblk, self.cpus.tasks
        self.copies = Copies(text, areas, profile, grace)
        self.slots, self.detours = self.copies.slots, self.copies.detours
        self.die_chain = DieChain(image, text, poke, memory)
        self.traps = ProbeTraps(
            self.cpus,
            self.stepping,
            poke,
            memory,
            self.copies,
            areas.trampoline,
            text_byte,
            self.die_chain,
        )
        self._plain = PlainSites(
            image,
            self.code,
            self.copies,
            poke,
            memory,
            self.stepping,
            profile,
            copied,
            areas.ftrace_caller,
        )
        self._optimized = OptimizedSites(
            self.code,
            self.copies,
            poke,
            profile,
            areas.callback,
            copied,
            red_zone=image.red_zone,
        )
        text.listeners.append(lambda write: self.code.text_changed(write.addr, len(write.data)))

    def recovered(self, addr: int, size: int) -> bytes:
        """Return the bytes at ``addr`` as they are without probes (recover_probed_instruction).

        Data of the image is returned as it was loaded.
        """
        if not self._text.covers(addr, 1):
            return self.image.read(addr, size)
        has = self.profile.has
        jumps, queued = has(SafetyStep.COMMIT_86B4CE3156C0), has(SafetyStep.COMMIT_868A6FC0CA24)
        return recover(self._text, self._lookup, addr, size, jumps=jumps, queued=queued)

    @property
    def max_optimized_len(self) -> int:
        """The most bytes that a jump's replaced instructions can have (MAX_OPTIMIZED_LENGTH)."""
        return MAX_OPTIMIZED_LENGTH

    def attach(self, core: ArchCallbacks) -> None:
        """Keep the core whose probes this arch layer serves."""
        self.cpus.core = core
        self._lookup = core.get_kprobe

    def handler_sends_to(self, addr: int) -> int | None:
        """Return where CPUs go on now that hit the poke protocol's breakpoint at ``addr``.

        Of a call, that is where the function returns to; of a conditional jump, the address behind
        it.

        :returns: None where the protocol handles no breakpoint there, or where the handler crashes.
        """
        try:
            poke = self.poke.bp_poke(addr) if self.poke.bp_holds(addr) else None
        except HandlerCrashError:
            return None
        if poke is None or poke.goes_on is None:
            return None
        return poke.goes_on.returns or poke.goes_on.behind or poke.goes_on.target

    # Static branches ------------------------------------------------------------------------------

    def arch_jump_label_transform(self, branches: Sequence[tuple[int, bytes]]) -> None:
        """Write the code of static branches: the address, and the no-op or jump (jump_label.c).

        A CPU that hits the breakpoint which stands there meanwhile goes on as the new code would.
        """
        params = [
            TextPokeParam(addr, code, f"static branch at {addr:#x}", goes_on)
            for addr, code in branches
            if (goes_on := onward(code, addr)) is not None
        ]
        self.poke.text_poke_jumps(params)

    def arch_static_call_transform(self, site: int, code: bytes) -> None:
        """Write the code of the static call at ``site`` (static_call.c).

        A CPU that hits the breakpoint which stands there meanwhile goes on as the new code would.
        """
        goes_on = onward(code, site, return_0_of(self.image))
        param = TextPokeParam(site, code, f"static call at {site:#x}", goes_on)
        self.poke.text_poke_jumps([param])

    # Plain probes ---------------------------------------------------------------------------------

    def arch_check_text(self, addr: int) -> None:
        """Refuse an address that Linux 6.1 refuses without a look at the text there.

        :raises KprobeError: EINVAL or ENOENT.
        """
        if self._text.is_unloaded(addr):
            code = errno.ENOENT if self.profile.lookup_is_enoent else errno.EINVAL
            raise KprobeError(code, f"no probe can go to {addr:#x}: the code there was unloaded")
        self._refuse(addr, can_probe_address(self.code, addr))

    def _refuse(self, addr: int, verdict: Verdict) -> None:
        if verdict.errno:
            # Linux 6.1 looks the symbol up first and answers ENOENT where there is none. Linux
            # 2.6.38 checks whether the address is text and answers EINVAL.
            outside = verdict.errno == errno.ENOENT and not self.profile.lookup_is_enoent
            code = errno.EINVAL if outside else verdict.errno
            function = self.code.function_at(addr)
            place = ""
            if verdict.reason is ProbeRefusal.NOT_BOUNDARY and function is not None:
                name = f"{function.symbol.name}+{addr - function.start:#x}"
                place = f"; {printable(name)} {told_inside(function, addr)}"
            raise KprobeError(code, f"no probe can go to {addr:#x}: {verdict.reason}{place}")

    def arch_adjust_kprobe_addr(self, addr: int) -> int:
        """Return the address behind the ENDBR at a function's entry, in kernels that skip it.

        Any other ``addr`` is returned as it is.
        """
        return addr + entry_offset(self.code, addr) if self.profile.skips_endbr else addr

    def arch_ftrace_location(self, addr: int) -> bool:
        """Return whether the image's lists name ``addr`` as an ftrace location."""
        return is_ftrace_site(self.code, addr)

    def arch_prepare_kprobe(self, p: Kprobe) -> None:
        """Copy the probed instruction to a slot, with a jump back behind it if it can be boosted.

        On an ftrace location nothing is copied.

        :raises KprobeError: EILSEQ, EINVAL, EOPNOTSUPP, ENODEV or ENOSPC, where 6.1 refuses the
            instruction.
        """
        self._refuse(p.at, can_probe_instruction(self.code, p.at))
        self._plain.prepare(p)

    def arch_remove_kprobe(self, p: Kprobe) -> None:
        """Fill the slot of ``p`` with breakpoints and free it, if the probe still has one."""
        self._plain.remove(p)

    def arch_arm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Write the breakpoints of ``ps``, or ftrace's calls for those on ftrace locations."""
        self._plain.arm(ps)

    def arch_disarm_kprobes(self, ps: Sequence[Kprobe]) -> None:
        """Write back what the breakpoints and ftrace's calls of ``ps`` have replaced.

        For a breakpoint this is the original first byte, for a call the whole instruction.
        """
        self._plain.disarm(ps)

    # Optimized probes -----------------------------------------------------------------------------

    def arch_prepare_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Build the detour buffer of ``op`` if its site can be optimized."""
        self._optimized.prepare(op)

    def arch_remove_optimized_kprobe(self, op: AggrKprobe) -> None:
        """Fill the detour buffer of ``op`` with breakpoints and free it."""
        self._optimized.remove(op)

    def arch_check_optimized_kprobe(self, op: AggrKprobe) -> bool:
        """Return False while another probe has its breakpoint or jump in the replaced bytes."""
        return self._optimized.check(op, self._lookup)

    def arch_within_optimized_kprobe(self, op: AggrKprobe, addr: int) -> bool:
        """Return whether ``addr`` lies in the replaced instructions of ``op``."""
        optinsn: OptInsn = op.optinsn
        return op.at <= addr < op.at + optinsn.size

    def arch_optimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Turn the breakpoints of ``ops`` into jumps to their detour buffers."""
        self._optimized.optimize(ops)

    def arch_unoptimize_kprobes(self, ops: Sequence[AggrKprobe]) -> None:
        """Turn the jumps of ``ops`` into breakpoints, with the original bytes behind them."""
        self._optimized.unoptimize(ops, "unoptimize")

    def arch_unoptimize_kprobe(self, op: AggrKprobe) -> None:
        """Turn the jump of ``op`` into a breakpoint at once, without waiting for the optimizer."""
        self._optimized.unoptimize([op], "force unoptimize")

    # Return probes --------------------------------------------------------------------------------

    @property
    def trampoline(self) -> int:
        """The address to which functions with a return probe return."""
        return self._areas.trampoline

    def arch_prepare_kretprobe(self, ri: KretprobeInstance, regs: PtRegs) -> bool:
        """Put the trampoline's address in the place of the return address.

        :returns: False, with nothing done, where the stack is not mapped.
        """
        return hook_return(ri, regs, self._memory, self.trampoline)

    def arch_setjmp(self, entry: int, regs: PtRegs) -> None:
        """Let the hit go on at ``entry``, the guest function of a jumper probe."""
        setjmp(
            self.cpus.current, entry, regs, self._memory, self._areas.jprobe.saved_sp[self.cpus.cpu]
        )

    def arch_longjmp(self, regs: PtRegs) -> bool:
        """Go back from the guest function of a jumper probe to the probed function.

        :returns: False, with nothing done, where the breakpoint is not that of ``jprobe_return``.
        """
        stub = self._areas.jprobe
        return stub.start <= regs.ip - 1 < stub.end and longjmp(
            self.cpus.current, regs, self._memory
        )

    def call_ended(self, cpu: int) -> None:
        """Forget the hits and the open return-probed calls of the call on ``cpu``, which is over.

        The calls in it that return probes follow will never return.
        """
        self.traps.call_ended(cpu)

    # Handlers -------------------------------------------------------------------------------------

    def arch_set_current_kprobe(self, p: Kprobe | None) -> None:
        """Note that a handler of ``p`` runs on this CPU outside of a hit; None: none does."""
        block = self.cpus.current
        block.current = p
        block.status = KprobeStatus.HIT_ACTIVE

    @property
    def kprobe_instance(self) -> Kprobe | None:
        """The child whose handler runs, of the aggregator that is being hit on this CPU."""
        return self.cpus.current.instance

    @kprobe_instance.setter
    def kprobe_instance(self, p: Kprobe | None) -> None:
        cpus = self.cpus
        cpus.ctlblk[cpus.cpu].instance = p

    @property
    def current_task(self) -> int:
        """The task whose trap is being handled."""
        return self.tasks[self.cpus.cpu]

    @property
    def possible_cpus(self) -> int:
        """The number of CPUs of the machine."""
        return len(self.ctlblk)

    # Snapshots ------------------------------------------------------------------------------------

    def save_state(self) -> Any:
        """Return the hits in progress and the calls that return probes follow, for a snapshot."""
        return self.cpus.save_state(), self.cpus.core.kretprobes.save_state()

    def restore_state(self, state: Any) -> None:
        """Go back to the hits and calls that :meth:`save_state` returned."""
        hits, returns = state
        self.cpus.restore_state(hits)
        self.cpus.core.kretprobes.restore_state(returns)

    # Reports --------------------------------------------------------------------------------------

    def method_of(self, p: Kprobe) -> Method:
        """Return how a hit of the table's entry ``p`` would run the probed instruction now."""
        if (
            isinstance(p, AggrKprobe)
            and p.optinsn is not None
            and self._text.read(p.at, JMP32_SIZE) == p.optinsn.jump
        ):
            return Method.OPTIMIZED
        if p.ftrace:
            return Method.FTRACE
        if self.stepping.boosts(p):
            return Method.BOOSTED
        return Method.EMULATED if self.stepping.emulates(p.ainsn) is not None else Method.INT3

    def in_use(self, addr: int) -> bool:
        """Return whether ``addr`` lies in a slot or detour buffer that is in use."""
        return self.copies.in_use(addr)

    def watch_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the start and end of code whose execution others can affect or observe.

        Such code is in slots, in detour buffers in use, and at the entry of ftrace's trampoline.
        """
        if self.profile.on_ftrace and self.code.ftrace_sites:
            yield self._areas.ftrace_caller, self._areas.ftrace_caller + 1
        yield from self.copies.watch_ranges()

    def originals(self, image: Image, addr: int, size: int) -> dict[int, bytes]:
        """Return the bytes of each of ``image``'s instructions from ``addr`` on, by its address.

        :param size: the instructions begin in so many bytes; 0 is taken as 1.
        """
        insns: dict[int, bytes] = {}
        at = addr
        while at < addr + max(size, 1):
            insn = decode(image.read(at, MAX_INSN_SIZE), at)
            if insn is None:
                break
            insns[at] = insn.raw
            at += insn.length
        return insns
