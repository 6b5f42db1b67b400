"""Opening an experiment on an x86-64 machine.

A machine is brought up, the calls are placed, and what the calls leave without probes is found.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine, MachineConfig
from arch_x86.emu.uc import UcPool
from arch_x86.explore.x86_port import X86Port
from arch_x86.lab.calls import check_arguments, place_call, require_function
from arch_x86.probes.code import CodeCache
from arch_x86.probes.told_places import told_inside
from engine.errors import InputError, printable
from engine.image import Image
from engine.patching.baseline import ORDERS_MOST, Baseline
from engine.patching.experiment import Experiment
from engine.patching.exploration import Exploration
from engine.patching.oracles.listed import ORACLES
from engine.patching.orders import Orders
from engine.patching.planned_call import PlannedCall

__all__ = ("find_orders", "open_experiment", "require_boundary")

_STACK_PAGES = 4


def require_boundary(image: Image, addr: int, what: str) -> int:
    """Return ``addr`` if an instruction of a function starts there, and refuse it otherwise.

    :param what: the option that asks for it, for the message.
    :raises InputError: no instruction of a function starts there.
    """
    function = CodeCache(image).function_at(addr)
    if function is None:
        raise InputError(
            f"{printable(what)}: {addr:#x} is outside of every function; give where one of its"
            " instructions starts"
        )
    if function.insn_at(addr) is None:
        raise InputError(
            f"{printable(what)}: no instruction starts there; the place"
            f" {told_inside(function, addr)}"
        )
    return addr


def open_experiment(
    experiment: Experiment, pool: UcPool | None = None, *, orders: Orders | None = None
) -> Exploration:
    """Bring up a machine for ``experiment``, with its calls placed and no control task started.

    :param orders: what its calls leave in any order without probes, where that is known already.
    :raises InputError: there is no such function, its arguments do not fit, or calls that share
        data have too many orders.
    """
    system = Exploration(*_place(experiment, pool), (*ORACLES, *experiment.oracles))
    if system.shares or experiment.patches:
        try:
            if experiment.patches:
                _judge_patches(system)
                return system
            system.judge_by(
                find_orders(replace(experiment, reduce=True), pool) if orders is None else orders
            )
        except BaseException:
            system.close()
            raise
    return system


def _judge_patches(system: Exploration) -> None:
    """Find out what calls may leave while the code of patched sites changes.

    :raises InputError: the calls share data, so what they may leave also depends on their order.
    """
    experiment = system.experiment
    if system.shares:
        raise InputError(
            f"{printable(experiment.call)}: its calls share data, so what they may leave while its"
            " code changes is not known; give a function that writes to its own stack and buffers"
            " only"
        )
    system.judge_patches(experiment.patch_changes)


def find_orders(
    experiment: Experiment, pool: UcPool | None = None, *, most: int = ORDERS_MOST
) -> Orders:
    """Find what the calls of ``experiment``, which share data, leave without probes in any order.

    :param most: the most schedules that may be tried.
    :raises InputError: there are more schedules; or the function also runs in NMIs, of which there
        can be any number.
    """
    if experiment.nmis:
        raise InputError(
            f"{printable(experiment.call)}: its calls share data, and NMIs make more of them, so"
            " what they may leave is not known; explore it without NMIs, or with a function that"
            " writes to its own stack and buffers only"
        )
    with closing(Baseline(*_place(replace(experiment, code=()), pool))) as system:
        return system.find_orders(most)


def _place(
    experiment: Experiment, pool: UcPool | None
) -> tuple[X86Port, Experiment, dict[int, PlannedCall]]:
    """Bring up a machine for ``experiment`` and place the call of each task on it.

    Experiments that differ only in their control tasks get equal machines.
    """
    check_arguments(experiment.arguments)
    config = MachineConfig(
        int3_gap=experiment.profile.steps_by_int3,
        stack_pages=_STACK_PAGES,
        stubs=experiment.stubs,
        heap_pages=_heap_pages(experiment),
        check_alignment=experiment.check_alignment,
    )
    machine = Machine(experiment.image, cpus=experiment.cpus, config=config, pool=pool)
    executor = Executor(machine)
    function = require_function(experiment.image, machine.kallsyms, experiment.call)
    tasks = [
        2 * cpu + second
        for cpu in range(experiment.cpus)
        for second in range(1 + experiment.preempt)
    ]
    frames = {task: place_call(machine, function.addr, experiment.arguments) for task in tasks}
    calls = {
        task: PlannedCall(function.addr, 1 if task % 2 else experiment.calls) for task in tasks
    }
    return X86Port(machine, executor, experiment, frames, calls), experiment, calls


def _heap_pages(experiment: Experiment) -> int:
    """Return the number of heap pages that hold the buffers of all vCPUs, with some to spare."""
    sizes = [len(getattr(argument, "content", b"")) for argument in experiment.arguments]
    return 64 + 2 * experiment.cpus * sum(2 + size // 4096 for size in sizes)
