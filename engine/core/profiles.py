"""Profiles: whose behaviour a machine shows. Each answers to one version of the kernel.

A profile is one object, and what differs between kernels hangs on its fields, never on a comparison
of names. ``linux-2010`` is kernel/kprobes.c of 6274de4984a6 with the arch code of 2.6.38.
``linux-6.1`` is what a 6.1.192 was measured to do. ``next`` is what a kernel could do, knowing what
this tool shows: the core of 6.1 with its faults mended, and pokes that share core syncs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from engine.brief import described, shortened
from engine.core.safety_steps import SafetyStep
from engine.core.transitions import (
    ClearedAtOnce,
    ClearedWhenRestored,
    TakenBackFromFreeing,
    Transitions,
)
from engine.errors import InputError, printable
from engine.kprobe import KprobeStatus

__all__ = ("LINUX_6_1", "LINUX_2010", "NEXT", "PROFILES", "Profile", "profile_named")

_IN_HANDLERS: Final = frozenset({KprobeStatus.HIT_ACTIVE, KprobeStatus.HIT_SSDONE})


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The differences between the kernels, a field each.

    Where a field is true or false, its text says what a true one means, and behind "else" what a
    false one means.

    Hit path:

    :ivar steps_by_int3: the copy in a slot is followed by a second int3, and branches are emulated
        (since v5.13); else the trap flag steps the copy, and fix-ups follow.
    :ivar emulation_warts: LOOP is emulated with its count one too high, and RET imm16 without
        releasing its arguments.
    :ivar slot_has_both: a slot has one copy that ends in a jump back, where that may be, and one
        that ends in int3, so that a post_handler that joins a boosted probe is called; else the
        first probe at an address decides for good how the only copy ends.
    :ivar misses_in: the statuses of a CPU's last hit in which another breakpoint that it hits is a
        miss: the miss is counted, and the instruction is run.
    :ivar stops_in: the statuses in which the kernel stops for good, since ``reenter_kprobe()`` is
        BUG(). In a status that is in neither set the kernel takes the breakpoint for nobody's, and
        dies of the int3.
    :ivar ends_faulted_step: a fault in a single step ends the step for the CPU's status, too; else
        the status says that a step is under way until the next hit there, and the breakpoint of
        another user stops the kernel (``kprobe_fault_handler()`` resets the current probe only).
    :ivar saved_hits: how many hits that another hit interrupted a CPU has room to keep
        (``prev_kprobe``).

    Text:

    :ivar pokes_by_breakpoint: each probe is poked on its own, behind an int3, with core syncs
        (``text_poke_bp``); else a whole batch is written under one ``stop_machine``.
    :ivar pokes_together: each poke goes behind an int3, but up to 256 jumps of a pass share their
        core syncs, and so do breakpoints that one operation puts in or takes out.
    :ivar pass_max: the most probes that a pass of the optimizer takes in each direction; None: all.
    :ivar batch: a smaller batch than the kernel's, so that what happens between two batches can be
        explored with a few probes; None: the kernel's own. In linux-2010 a batch is what a pass
        takes in each direction, in ``next`` the pokes that share their core syncs. It means nothing
        in linux-6.1, which pokes each probe on its own and has no limit a pass.

    Core:

    :ivar transitions: the rules by which the flag OPTIMIZED and the optimizer's lists change.
    :ivar optprobes: CONFIG_OPTPROBES: jump optimization is compiled in.
    :ivar on_ftrace: CONFIG_KPROBES_ON_FTRACE: a probe on an ftrace location is made of ftrace
        (since v3.7); else it is a breakpoint.
    :ivar preemption: CONFIG_PREEMPTION: tasks can be preempted in the kernel.
    :ivar lookup_is_enoent: an unknown symbol, or an address outside of all text, answers ENOENT;
        else EINVAL.
    :ivar refuses_ambiguous: a probe definition whose symbol several functions have answers
        EADDRNOTAVAIL; else it means the first of these functions.
    :ivar skips_endbr: in a kernel with IBT, a probe at a function's first byte goes behind the
        ENDBR64 there (since v5.18).
    :ivar offset_is_cut: the offset of a probe is taken modulo 2^32.
    :ivar rescues_unused: a probe that is registered where an unused aggregator waits to be
        reclaimed takes that over; else it is refused with EBUSY.
    :ivar rescue_enables: taking it over enables it, also for a probe that comes disabled, so that
        the jump stays for good when that probe goes; else it stays disabled as long as its probes
        are.
    :ivar reoptimizes_neighbour: a probe that another one inside its replaced bytes has kept from
        being optimized is optimized when the other one is disarmed; else it is asked about before
        the other one is marked disabled, and stays a breakpoint.
    :ivar reoptimizes_later: the same where the other one had a jump of its own, once that is
        undone.
    :ivar rearms_whole: a probe that is armed again while its jump waits to be undone keeps that
        jump; else a breakpoint goes over the jump's first byte, and the flag OPTIMIZED alone says
        what stands behind it.
    :ivar looks_at_nearest_only: whether an address lies in replaced bytes is asked of the nearest
        probe in front of it only, even if that is disabled; else of each one near enough.
    :ivar enables_while_disarmed: a probe that is enabled while all are disarmed is armed when all
        are; else it stays disarmed, unless its aggregator was enabled.
    :ivar gives_flags_back: an unregistered probe has the flags that it was registered with; else
        those that it had last.
    :ivar disarms_by_force: disarming all probes undoes every jump at once; else the optimizer
        undoes them.
    :ivar waits_for_freeing: switching off all probes, or optimization, also waits for the
        breakpoint of a probe that was forced back while it waited to be undone; else it waits until
        nothing waits to be optimized or undone.
    :ivar dying_blocks: a disabled probe that still waits on a list keeps a jump off its address
        (f1c97a1b4ef7).
    :ivar marks_entries: a probe at a function's first byte has the flag ON_FUNC_ENTRY.
    :ivar pass_holds_text_lock: a pass of the optimizer holds ``text_mutex`` throughout, its wait
        included.
    :ivar waits_for_tasks: a pass waits by ``synchronize_rcu_tasks``, so for preempted tasks, too;
        else by ``synchronize_sched``.
    :ivar unregisters_behind_tasks: unregister_kprobes() waits for preempted tasks, too, since one
        may be in a detour buffer to which the breakpoint took it; else by ``synchronize_sched``, as
        every kernel so far.

    Return probes:

    :ivar rethook: a return handler finds the return address in ``regs.ip``, and in ``ri.ret_addr``
        what its probe found on the stack, which is the trampoline for all probes on a call but the
        newest, which is entered first; and unregistering switches handlers off before the grace
        period (since v5.18). Else ``regs.ip`` is the trampoline's address, ``ri.ret_addr`` is the
        return address, and handlers are switched off behind the grace period.
    :ivar loses_declined: an instance whose ``entry_handler`` declined the call is never free again.

    Handlers:

    :ivar return_handlers_take_interrupts: the handler of a return probe runs with IF as the code
        that returned has it; else with IF clear, since ``trampoline_handler()`` holds
        ``kretprobe_hash_lock()``. In every kernel here handlers behind a jump take interrupts,
        since the callback has ``preempt_disable()`` alone, and handlers behind a breakpoint do not.
    :ivar fault_handlers: probes have a ``fault_handler`` (until v5.14), and a fault in a handler
        counts as a miss.
    :ivar jprobes: there are jumper probes, and probes have a ``break_handler`` (until v4.19).
    :ivar without: the safety steps that are left out, to see what they are for
        (:mod:`engine.core.safety_steps`).
    """

    name: str
    steps_by_int3: bool
    emulation_warts: bool
    slot_has_both: bool = False
    misses_in: frozenset[KprobeStatus]
    stops_in: frozenset[KprobeStatus]
    ends_faulted_step: bool = False
    saved_hits: int = 1
    pokes_by_breakpoint: bool
    pokes_together: bool = False
    pass_max: int | None
    batch: int | None = None
    transitions: Transitions
    optprobes: bool = True
    on_ftrace: bool = False
    preemption: bool = False
    lookup_is_enoent: bool
    refuses_ambiguous: bool
    skips_endbr: bool = False
    offset_is_cut: bool
    rescues_unused: bool
    rescue_enables: bool = True
    reoptimizes_neighbour: bool
    reoptimizes_later: bool = False
    rearms_whole: bool
    looks_at_nearest_only: bool
    enables_while_disarmed: bool = False
    gives_flags_back: bool = False
    disarms_by_force: bool
    waits_for_freeing: bool = True
    dying_blocks: bool
    marks_entries: bool
    pass_holds_text_lock: bool
    waits_for_tasks: bool
    unregisters_behind_tasks: bool = False
    rethook: bool
    loses_declined: bool
    return_handlers_take_interrupts: bool
    fault_handlers: bool
    jprobes: bool
    without: frozenset[SafetyStep] = frozenset()

    def __repr__(self) -> str:
        left_out = f"without {' '.join(sorted(self.without))}" if self.without else ""
        return described(self, shortened(self.name), left_out, *self._changes())

    def _changes(self) -> tuple[str, ...]:
        """The fields in which it differs from the shipped profile of its name, as texts."""
        shipped = next((one for one in PROFILES if one.name == self.name), None)
        if shipped is None or shipped is self:
            return ()
        names = [one.name for one in fields(self) if one.name != "without"]
        return tuple(
            f"{name}={getattr(self, name)!r}"
            for name in names
            if getattr(self, name) != getattr(shipped, name)
        )

    def has(self, step: SafetyStep) -> bool:
        """Whether the kernel of this profile takes ``step``."""
        return step not in self.without

    @property
    def most_in_a_pass(self) -> int | None:
        """The most probes that a pass of the optimizer takes in each direction; None: all."""
        return (
            self.pass_max
            if self.pass_max is None or self.batch is None
            else min(self.batch, self.pass_max)
        )

    def without_optprobes(self) -> Profile:
        """The profile of the same kernel built without CONFIG_OPTPROBES."""
        return replace(self, name=f"{self.name} without OPTPROBES", optprobes=False)


LINUX_2010: Final = Profile(
    name="linux-2010",
    steps_by_int3=False,
    emulation_warts=False,
    misses_in=_IN_HANDLERS,
    stops_in=frozenset({KprobeStatus.HIT_SS}),
    pokes_by_breakpoint=False,
    pass_max=256,
    transitions=ClearedAtOnce(),
    lookup_is_enoent=False,
    refuses_ambiguous=False,
    offset_is_cut=False,
    rescues_unused=False,
    reoptimizes_neighbour=True,
    rearms_whole=True,
    looks_at_nearest_only=False,
    disarms_by_force=False,
    dying_blocks=True,
    marks_entries=False,
    pass_holds_text_lock=False,
    waits_for_tasks=False,
    rethook=False,
    loses_declined=True,
    return_handlers_take_interrupts=False,
    fault_handlers=True,
    jprobes=True,
)
LINUX_6_1: Final = Profile(
    name="linux-6.1",
    steps_by_int3=True,
    emulation_warts=True,
    misses_in=_IN_HANDLERS | {KprobeStatus.HIT_SS},  # since 6a5022a56ac3 (v3.16)
    stops_in=frozenset({KprobeStatus.REENTER}),
    pokes_by_breakpoint=True,
    pass_max=None,
    on_ftrace=True,
    transitions=ClearedWhenRestored(),
    lookup_is_enoent=True,
    refuses_ambiguous=True,
    skips_endbr=True,
    offset_is_cut=True,
    rescues_unused=True,
    reoptimizes_neighbour=False,
    rearms_whole=False,
    looks_at_nearest_only=True,
    disarms_by_force=True,
    waits_for_freeing=False,
    dying_blocks=True,
    marks_entries=True,
    pass_holds_text_lock=True,
    waits_for_tasks=True,
    rethook=True,
    loses_declined=False,
    return_handlers_take_interrupts=True,
    fault_handlers=False,
    jprobes=False,
)
NEXT: Final = replace(
    LINUX_6_1,
    name="next",
    emulation_warts=False,
    slot_has_both=True,
    misses_in=frozenset(KprobeStatus),
    stops_in=frozenset(),
    ends_faulted_step=True,
    # There is at most one miss in a handler and one in an NMI that comes in the step of that miss,
    # since NMIs do not nest.
    saved_hits=2,
    pokes_together=True,
    transitions=TakenBackFromFreeing(),
    offset_is_cut=False,
    rescue_enables=False,
    reoptimizes_neighbour=True,
    reoptimizes_later=True,
    rearms_whole=True,
    looks_at_nearest_only=False,
    enables_while_disarmed=True,
    gives_flags_back=True,
    # One pass of the optimizer undoes all jumps together, and switching off all probes waits for
    # that.
    disarms_by_force=False,
    waits_for_freeing=True,
    unregisters_behind_tasks=True,
)
PROFILES: Final = (LINUX_2010, LINUX_6_1, NEXT)


def profile_named(name: str) -> Profile:
    """The shipped profile called ``name``.

    :raises InputError: there is none.
    """
    for profile in PROFILES:
        if profile.name == name:
            return profile
    raise InputError(
        f"--profile {printable(name)}: not there; give one of {', '.join(p.name for p in PROFILES)}"
    )
