"""Return probes. Answers to kernel/kprobes.c (6274de4984a6) and kernel/trace/rethook.c (v6.1).

A return probe is an ordinary probe on a function's entry whose handler puts the address of a
trampoline in place of the return address. The original address is kept in an *instance* until the
function returns; each task has a stack of its open instances.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine.arch import Arch
from engine.core.register_all import register_all
from engine.core.registry import Registry
from engine.core.safety_steps import SafetyStep
from engine.errors import KprobeError
from engine.kprobe import Kprobe
from engine.kretprobe import EntryProbe, Kretprobe, KretprobeInstance

__all__ = ("DATA_SIZE_MAX", "Kretprobes")

DATA_SIZE_MAX: Final = 4096
"""The most bytes of data an instance (KRETPROBE_MAX_DATA_SIZE of v6.1)."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """The state of all return probes, for a snapshot.

    :ivar opened: the open instances of each task, oldest first.
    :ivar free: of each return probe its instances, and those of them that are free.
    :ivar content: each instance with its ``ret_addr``, ``frame`` and data.
    """

    opened: dict[Hashable, tuple[KretprobeInstance, ...]]
    free: dict[Kretprobe, tuple[tuple[KretprobeInstance, ...], tuple[KretprobeInstance, ...]]]
    content: list[tuple[KretprobeInstance, int, int, bytes]]


class Kretprobes:
    """The return probes of one machine, and the calls that they follow.

    :ivar open_stacks: the open instances of each task, oldest first.
    """

    def __init__(self, core: Registry, arch: Arch) -> None:
        self._core = core
        self._arch = arch
        self._registered: dict[Kretprobe, None] = {}
        self.open_stacks: dict[Hashable, list[KretprobeInstance]] = {}

    # Registration ---------------------------------------------------------------------------------

    def register_kretprobe(self, rp: Kretprobe) -> None:
        """Put a return probe on a function; calls that are in progress already are not followed.

        :raises KprobeError: EINVAL (not a function's first byte, or registered already), E2BIG (in
            linux-6.1: more than 4096 bytes of data an instance), and what register_kprobe()
            answers.
        """
        self._register(rp, self._core.register_kprobe)

    def _register(self, rp: Kretprobe, register: Callable[[Kprobe], None]) -> None:
        """Register ``rp``, its entry's probe by the function ``register``."""
        core, kp = self._core, rp.kp
        if rp in self._registered or core.is_registered(kp):
            raise KprobeError(errno.EINVAL, f"{rp!r} is registered already")
        addr = core.kprobe_addr(kp)
        if (
            core.profile.has(SafetyStep.FUNCTION_ENTRY)
            and core.kallsyms.lookup(addr) is not None
            and not core.on_func_entry(addr)
        ):
            place = core.kallsyms.describe(addr)
            raise KprobeError(
                errno.EINVAL,
                f"a return probe goes to a function's first byte; {addr:#x} is {place}",
            )
        if core.profile.rethook and rp.data_size > DATA_SIZE_MAX:
            raise KprobeError(
                errno.E2BIG, f"{rp.data_size} bytes of data an instance; {DATA_SIZE_MAX} at most"
            )
        if rp.maxactive <= 0:
            cpus = self._arch.possible_cpus
            rp.maxactive = max(10, 2 * cpus) if core.profile.preemption else cpus
        kp.pre_handler = self._entered
        kp.post_handler = kp.fault_handler = None
        rp.nmissed = 0
        rp.instances = tuple(KretprobeInstance(rp) for _ in range(rp.maxactive))
        rp.free_instances = list(rp.instances)
        self._registered[rp] = None
        try:
            register(kp)
        except KprobeError:
            self._forget(rp)
            raise

    def register_kretprobes(self, rps: Sequence[Kretprobe]) -> None:
        """Register all of ``rps`` or none: when one fails, those before it are unregistered again.

        :raises KprobeError: EINVAL for an empty list, or the first failure.
        """
        core = self._core
        if core.arming.together:
            locks = core.locked("register_kretprobes")
            register_all(
                rps,
                lambda rp: self._register(rp, core.register_locked),
                self.unregister_kretprobes,
                locks,
            )
        else:
            register_all(rps, self.register_kretprobe, self.unregister_kretprobes)

    def unregister_kretprobe(self, rp: Kretprobe) -> bool:
        """Take one return probe out of service, and say whether it was registered."""
        return self.unregister_kretprobes([rp]) == 1

    def unregister_kretprobes(self, rps: Iterable[Kretprobe]) -> int:
        """Take return probes out of service (unregister_kretprobes).

        None of their handlers runs after this returns, and calls in progress end as if unprobed. A
        call that returns while this waits for the grace period still calls the handler in
        linux-2010, and does not in linux-6.1.

        :returns: how many were registered.
        """
        rps = dict.fromkeys(rps)
        gone = [rp for rp in rps if rp in self._registered]

        def forget() -> None:
            for rp in gone:
                self._forget(rp)

        # With rethook (v5.18) the instances are taken away before the grace period, with the locks
        # held; without it, behind the grace period.
        early = self._core.profile.rethook
        count = self._core.unregister_kprobes(
            [rp.kp for rp in rps], disarmed=forget if early else None
        )
        if not early:
            forget()
        return count

    def _forget(self, rp: Kretprobe) -> None:
        """Take the instances of ``rp`` away, so that no handler of it is called any more.

        The open ones stay on their task's stack, where their calls find the return addresses.
        """
        for ri in rp.instances:
            ri.rp = None
        rp.instances = ()
        rp.free_instances = []
        self._registered.pop(rp, None)

    # Calls ----------------------------------------------------------------------------------------

    def _entered(self, p: Kprobe, regs: Any) -> int:
        """Follow the call that has hit the entry of a return probe (pre_handler_kretprobe).

        A call that finds no free instance, or whose return address can't be replaced, is counted in
        the return probe's ``nmissed``.

        :returns: 0, so that the function runs.
        """
        assert isinstance(p, EntryProbe)
        rp = p.rp
        if not rp.free_instances:
            rp.nmissed += 1
            return 0
        ri = rp.free_instances.pop()
        try:
            declined = rp.entry_handler is not None and rp.entry_handler(ri, regs)
        except BaseException:
            self._recycle(ri)
            raise
        if declined:
            if not self._core.profile.loses_declined:
                self._recycle(ri)
        elif self._arch.arch_prepare_kretprobe(ri, regs):
            self.open_stacks.setdefault(self._arch.current_task, []).append(ri)
        else:  # there is no return address to replace
            rp.nmissed += 1
            self._recycle(ri)
        return 0

    def trampoline_handler(self, regs: Any, frame: int) -> int | None:
        """Handle a return into the trampoline: call the handlers of all probes on the call.

        The handler of the probe that was entered last comes first. Answers to trampoline_handler()
        (6274de4984a6) and rethook_trampoline_handler() (v6.1).

        :param regs: the registers as the caller will have them; ``ip`` is the trampoline's address.
        :param frame: the address on the stack where the return address lay.
        :returns: the address at which the caller goes on; None when no instance has it, where the
            kernel stops for good.
        """
        task = self._arch.current_task
        stack = self.open_stacks.get(task, [])
        trampoline = self._arch.trampoline
        # Of several probes on a call only the one that was entered first has found the real return
        # address; the others have found the trampoline's.
        first = next(
            (at for at in reversed(range(len(stack))) if stack[at].ret_addr != trampoline), None
        )
        if first is None:
            return None
        ret_addr = stack[first].ret_addr
        returning = stack[first:]
        rethook = self._core.profile.rethook
        if rethook:
            regs.ip = ret_addr
        for ri in reversed(returning):
            if rethook and ri.frame != frame:
                # rethook stops at an instance of another frame, whose call has not returned.
                break
            if ri.rp is not None and ri.rp.handler is not None:
                if not rethook:
                    ri.ret_addr = ret_addr
                self._arch.arch_set_current_kprobe(ri.rp.kp)
                ri.rp.handler(ri, regs)
                self._arch.arch_set_current_kprobe(None)
        del stack[first:]
        for ri in reversed(returning):
            self._recycle(ri)
        if not stack:
            self.open_stacks.pop(task, None)
        return ret_addr

    def _recycle(self, ri: KretprobeInstance) -> None:
        """Make an instance free, unless its return probe is unregistered."""
        if ri.rp is not None:
            ri.rp.free_instances.append(ri)

    def pending_return(self, task: Hashable) -> int | None:
        """The address to which the innermost open call of ``task`` will return, or None.

        None means that the task has no open call.
        """
        return next(
            (
                ri.ret_addr
                for ri in reversed(self.open_stacks.get(task, []))
                if ri.ret_addr != self._arch.trampoline
            ),
            None,
        )

    def open_calls(self, task: Hashable) -> int:
        """The number of instances on the stack of ``task``."""
        return len(self.open_stacks.get(task, ()))

    def drop_calls(self, task: Hashable, keep: int) -> None:
        """Forget all open instances of ``task`` but the ``keep`` oldest.

        The calls of the others never return.
        """
        stack = self.open_stacks.get(task, [])
        while len(stack) > keep:
            self._recycle(stack.pop())
        if not stack:
            self.open_stacks.pop(task, None)

    def flush_task(self, task: Hashable) -> None:
        """Forget all open instances of ``task``, which has died (kprobe_flush_task)."""
        self.drop_calls(task, 0)

    # Snapshots ------------------------------------------------------------------------------------

    def save_state(self) -> _Saved | None:
        """The open calls and the content of every instance.

        The result is None where there is no return probe and no open call.
        """
        if not self._registered and not self.open_stacks:
            return None
        seen = dict.fromkeys(ri for stack in self.open_stacks.values() for ri in stack)
        seen |= dict.fromkeys(ri for rp in self._registered for ri in rp.instances)
        return _Saved(
            {task: tuple(stack) for task, stack in self.open_stacks.items()},
            {rp: (rp.instances, tuple(rp.free_instances)) for rp in self._registered},
            [(ri, ri.ret_addr, ri.frame, bytes(ri.data)) for ri in seen],
        )

    def restore_state(self, state: _Saved | None) -> None:
        """Make calls and instances what :meth:`save_state` has returned.

        The probes that are registered now stay so: one registered since then has no open call
        afterwards.
        """
        state = state or _Saved({}, {}, [])
        self.open_stacks = {task: list(stack) for task, stack in state.opened.items()}
        for ri, ret_addr, frame, data in state.content:
            ri.ret_addr, ri.frame, ri.data[:] = ret_addr, frame, data
        for rp in self._registered:
            instances, left = state.free.get(rp, ((), ()))
            rp.free_instances = list(left if instances is rp.instances else rp.instances)
