"""This module wires image, machine, control plane and core (kernel/kprobes.c, init_kprobes).

A workbench is what most users of the Python interface start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from arch_x86.emu.execute import Executor, InterruptPlan
from arch_x86.emu.fault import GuestFault, GuestFaultError
from arch_x86.emu.machine import Machine, MachineConfig
from arch_x86.emu.stubs import GS_JPROBE_SP
from arch_x86.emu.task import TaskState
from arch_x86.emu.uc import UcPool
from arch_x86.isa.constants import FLAG_IF
from arch_x86.lab.calls import require_function
from arch_x86.probes.jprobe_handlers import JprobeStub
from arch_x86.probes.x86_arch import X86Arch, X86Areas
from arch_x86.text.poke import (
    MAX_POKE_BATCH,
    PokeFactory,
    PokeProtocol,
    StopMachinePoke,
    TextPokeBp,
)
from arch_x86.text.poke_batch import TextPokeBpBatch
from arch_x86.text.space import TextSpace
from engine.control.sync import ControlPlane
from engine.core.kprobes import Kprobes
from engine.core.profiles import LINUX_2010, Profile
from engine.errors import InputError
from engine.image import Image
from engine.kprobe import Kprobe, Method

__all__ = ("TURN", "Workbench", "build_arch")

_TO_THE_END = 1 << 40
TURN = 1_000
"""Each vCPU runs this many instructions in its turn."""


def _poke_of(profile: Profile, text: TextSpace, plane: ControlPlane) -> PokeProtocol:
    if profile.pokes_together:
        return TextPokeBpBatch(
            text, plane, profile.without, MAX_POKE_BATCH if profile.batch is None else profile.batch
        )
    protocol = TextPokeBp if profile.pokes_by_breakpoint else StopMachinePoke
    return protocol(text, plane, profile.without)


def _require_protocol(made: object) -> PokeProtocol:
    """Return what ``poke=`` has made, if it is a poke protocol.

    :raises InputError: it lacks something that a poke protocol has.
    """
    if not isinstance(made, PokeProtocol):
        wanted = (name for name in vars(PokeProtocol) if not name.startswith("_"))
        missing = ", ".join(name for name in wanted if not hasattr(made, name))
        raise InputError(
            f"poke=: {type(made).__name__} is no poke protocol, for it has no {missing}; see"
            " docs/api.md"
        )
    return made


def build_arch(
    machine: Machine,
    text: TextSpace,
    plane: ControlPlane,
    profile: Profile,
    slots_max: int | None = None,
    *,
    poke: PokeFactory | None = None,
) -> X86Arch:
    """Return the arch layer of ``machine``, which pokes ``text`` under ``plane``.

    :param profile: whose behaviour it shows.
    :param slots_max: most slots, and most detour buffers, in a page; None for as many as fit.
    :param poke: makes the poke protocol; None takes the profile's.
    :raises InputError: ``poke`` makes no poke protocol.
    """
    layout, stubs = machine.layout, machine.stubs
    saved_sp = tuple(layout.gs_base(cpu.index) + GS_JPROBE_SP for cpu in machine.cpus)
    areas = X86Areas(
        (layout.slots, layout.slots_size),
        (layout.detours, layout.detours_size),
        stubs.optimized_callback,
        stubs.trampoline,
        stubs.ftrace_caller,
        JprobeStub(stubs.jprobe_return, stubs.jprobe_return_end, saved_sp),
        slots_max,
    )
    protocol = (
        _poke_of(profile, text, plane)
        if poke is None
        else _require_protocol(poke(text, plane, profile.without))
    )
    return X86Arch(
        machine.image,
        text,
        protocol,
        areas,
        machine.ram,
        len(machine.cpus),
        profile,
        machine.guard,
        plane.synchronize_sched,
    )


class Workbench:
    """A workbench is a machine that is ready to be probed.

    :param image: the code that the machine runs.
    :param cpus: how many vCPUs it has.
    :param config: how the machine is built; the profile decides about the gap under an int3's frame
        in any case.
    :param pool: emulator instances to reuse.
    :param profile: whose behaviour it shows.
    :param poke: makes the poke protocol; None takes the profile's.
    :ivar machine: the vCPUs, the memory and the text.
    :ivar kprobes: the core, with ``register_kprobe()`` and the rest.
    :ivar plane: control tasks, virtual time, and the counts of ``stop_machine`` and core syncs.
    :ivar interrupts: where interrupts come in calls, or None for nowhere.
    :ivar limit: most instructions of a call; None for no limit.
    :raises InputError: ``poke`` makes no poke protocol, or the machine cannot be built.
    """

    def __init__(
        self,
        image: Image,
        *,
        cpus: int = 1,
        config: MachineConfig | None = None,
        pool: UcPool | None = None,
        profile: Profile = LINUX_2010,
        poke: PokeFactory | None = None,
    ) -> None:
        config = replace(config or MachineConfig(), int3_gap=profile.steps_by_int3)
        self.image = image
        self.machine = Machine(image, cpus=cpus, config=config, pool=pool)
        self.executor = Executor(self.machine)
        self.plane = ControlPlane(self)
        self.interrupts: InterruptPlan | None = None
        self.limit: int | None = None
        self.arch = build_arch(self.machine, self.machine.text, self.plane, profile, poke=poke)
        self.machine.trap_handler = self.arch.traps
        self.machine.participants += (self.arch, self)
        self.machine.call_ended.append(self.arch.traps.call_ended)
        self.kprobes = Kprobes(self.arch, self.plane, self.machine.kallsyms, profile)

    def close(self) -> None:
        """Give the emulator instances back to the pool."""
        self.machine.close()

    # Snapshots ------------------------------------------------------------------------------------

    def save_state(self) -> Any:
        """Return the interrupt plan and how far it has come, for :meth:`restore_state`."""
        plan = self.interrupts
        return None if plan is None else (plan, plan.save_state())

    def restore_state(self, state: Any) -> None:
        """Go back to how far the interrupt plan had come when :meth:`save_state` was called.

        A plan that was set since then starts anew, so that it plays alike from this state at each
        time.
        """
        plan, then = state or (None, None)
        if self.interrupts is not None:
            self.interrupts.restore_state(then if plan is self.interrupts else None)

    # Hardware, as the control plane sees it -------------------------------------------------------

    @property
    def jiffies(self) -> int:
        """Return the virtual time, in jiffies of 10,000 retired instructions by default."""
        return self.machine.jiffies

    def run_turn(self) -> bool:
        """Run one turn of each vCPU that is in a call; return False when all vCPUs are idle."""
        progress = False
        for index, task in enumerate(self.machine.tasks):
            if task.state is TaskState.RUNNING:
                self._turn(index, TURN)
                progress = True
        return progress

    def _turn(self, cpu: int, budget: int) -> None:
        executor, machine = self.executor, self.machine
        if self.limit is not None:
            spent = machine.cpus[cpu].retired - machine.tasks[cpu].started
            if spent >= self.limit:
                executor.limit_reached(cpu, self.limit)
                return
            budget = min(budget, self.limit - spent)
        executor.advance(cpu, budget, self.interrupts)

    def advance_to(self, jiffy: int) -> None:
        """Set the clock to the start of ``jiffy``, since no vCPU runs that would advance it."""
        self.machine.clock = max(self.machine.clock, jiffy * self.machine.config.jiffy)

    def quiescent(self) -> tuple[tuple[bool, int], ...]:
        """Return for each vCPU whether it is at a quiescent point now, and how many it has passed.

        A vCPU between two calls is at one. Within a call it passes one at each ``schedule()``.
        """
        return tuple(
            (task.state is not TaskState.RUNNING, task.passed) for task in self.machine.tasks
        )

    @property
    def in_handler(self) -> bool:
        """Return True while a trap of some vCPU is being handled."""
        return self.executor.in_handler

    def sync_core(self, cpu: int) -> bool:
        """Send ``cpu`` the interrupt of a core sync; return False if it cannot take it yet.

        A vCPU between two calls always can; within a call it can where IF is set. Nothing has to be
        done then, since the fetch model here is coherent.
        """
        return not self.executor.running(cpu) or bool(self.machine.cpus[cpu].rflags & FLAG_IF)

    # Calls ----------------------------------------------------------------------------------------

    def start_call(
        self, cpu: int, addr: int, integers: Sequence[int] = (), floats: Sequence[float] = ()
    ) -> None:
        """Begin a call of the function at ``addr`` on ``cpu``, which :meth:`finish_calls` runs.

        :param integers: the integer arguments, at most 6.
        :param floats: the arguments of type double, at most 8.
        """
        self.executor.begin_call(cpu, addr, integers, floats)

    def finish_calls(self) -> list[GuestFault]:
        """Run every vCPU to the end of its call, in turns, and return the faults."""
        while True:
            running = [
                index
                for index, task in enumerate(self.machine.tasks)
                if task.state is TaskState.RUNNING
            ]
            if not running:
                break
            if len(running) == 1:  # There is no other vCPU to take turns with.
                self._turn(running[0], _TO_THE_END)
            else:
                self.run_turn()
        return [task.fault for task in self.machine.tasks if task.fault is not None]

    def finish_call(self, cpu: int) -> GuestFault | None:
        """Run ``cpu`` alone to the end of its call, and return its fault, or None."""
        while self.executor.running(cpu):
            self._turn(cpu, _TO_THE_END)
        return self.machine.tasks[cpu].fault

    def call(self, symbol: str, *integers: int, cpu: int = 0) -> int:
        """Call a function by name on ``cpu`` and return RAX, for tests and notebooks.

        :param integers: the integer arguments, at most 6.
        :raises InputError: there is no such function, or several have this name.
        :raises GuestFaultError: the call ended in a guest fault.
        """
        self.start_call(
            cpu, require_function(self.image, self.machine.kallsyms, symbol).addr, integers
        )
        fault = self.finish_call(cpu)
        if fault is not None:
            raise GuestFaultError(fault)
        return self.machine.cpus[cpu].registers()[0]

    def call_nested(self, cpu: int, addr: int, *integers: int) -> int:
        """Call a guest function from a handler that runs on ``cpu``, and return RAX.

        :meth:`Executor.call_nested` says what this does. The limit is that of the whole call on
        ``cpu``.

        :raises GuestFaultError: the function ended in a guest fault.
        """
        if self.limit is None:
            return self.executor.call_nested(cpu, addr, *integers)
        spent = self.machine.cpus[cpu].retired - self.machine.tasks[cpu].started
        return self.executor.call_nested(cpu, addr, *integers, limit=self.limit - spent)

    # Probes ---------------------------------------------------------------------------------------

    def method(self, p: Kprobe) -> Method:
        """Return how a hit on the registered probe ``p`` would run now."""
        entry = self.kprobes.get_kprobe(p.at)
        assert entry is not None
        return self.arch.method_of(entry)
