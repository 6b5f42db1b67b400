"""A case: everything that an exploration depends on, and the system that it makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from arch_x86.emu.execute import Executor
from arch_x86.emu.machine import Machine, MachineConfig
from arch_x86.emu.uc import UcPool
from arch_x86.explore.x86_port import X86Port
from arch_x86.lab.calls import check_arguments, place_call, require_function
from arch_x86.probes.code import CodeCache
from engine.core.profiles import Profile
from engine.errors import InputError, printable
from engine.image import Image
from engine.patching.baseline import ORDERS_MOST, Baseline
from engine.patching.control_code import ControlCode, ControlCodes
from engine.patching.exploration import Exploration
from engine.patching.judge import MakeOracle
from engine.patching.oracles.listed import ORACLES
from engine.patching.orders import Orders
from engine.patching.plan import Plan, PlannedCall
from engine.syntax.arguments import Argument

__all__ = ("Case", "find_orders", "fingerprint", "open_case", "require_boundary")

_STACK_PAGES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What to explore.

    :ivar call: on every vCPU, ``arguments`` as on the command line; made ``calls`` times.
    :ivar code: the control tasks, by name, or what makes them: that is called for each control state, so that what tasks share outside of
        their functions is made anew with them. ``tag`` says what they do, for the fingerprint.
    :ivar fetch: the fetch model.
    :ivar restores: when all control tasks have ended the text has to be the original.
    :ivar asleep: addresses in front of whose instruction a task falls asleep for ever.
    :ivar reduce: choice points are where something meets somebody else's doing; ``apart``: of tasks that share nothing one at a time is in
        the middle of its call. See :class:`engine.patching.plan.Plan`.
    :ivar resched: addresses in front of whose instruction a task calls ``schedule()``.
    :ivar oracles: what is asked whether all is well beside :data:`engine.patching.oracles.listed.ORACLES`, and behind them: classes of
        :class:`engine.patching.oracles.oracle.Oracle`.
    :ivar points: ``stores``: a control task also stops in front of each store to a field that hits read without a lock
        (:mod:`engine.patching.store_points`); ``locks``: it does not.
    """

    image: Image
    call: str
    arguments: tuple[Argument, ...] = ()
    calls: int = 3
    cpus: int = 1
    profile: Profile
    preempt: bool = False
    fetch: str = "coherent"
    interrupts: bool = True
    nmis: bool = False
    resched: tuple[int, ...] = ()
    asleep: tuple[int, ...] = ()
    reduce: bool = True
    apart: bool = True
    points: str = "locks"
    restores: bool = True
    limit: int = 1_000_000
    stubs: dict[str, int] = field(default_factory=dict[str, int])
    oracles: tuple[MakeOracle, ...] = ()
    code: Sequence[tuple[str, ControlCode]] | ControlCodes
    tag: str

    def control_tasks(self) -> Sequence[tuple[str, ControlCode]]:
        """The control tasks' work, by name, for one control state."""
        return self.code() if callable(self.code) else self.code


def require_boundary(image: Image, addr: int, what: str) -> int:
    """``addr``, where an instruction of a function starts.

    :param what: the option that asks for it, for the message.
    :raises InputError: none does.
    """
    function = CodeCache(image).function_at(addr)
    if function is None:
        raise InputError(f"{printable(what)}: {addr:#x} is outside of every function; give where one of its instructions starts")
    if function.insn_at(addr) is None:
        near = max((at for at in function.insns if function.start + at < addr), default=0)
        name = printable(function.symbol.name)
        raise InputError(f"{printable(what)}: no instruction of {name} starts there; one does at {name}+{near:#x}")
    return addr


def fingerprint(case: Case) -> str:
    """8 hexadecimal digits of all that decides what a schedule does."""
    digest = blake2b(digest_size=4)
    for segment in case.image.segments:
        digest.update(f"{segment.addr:x}:{len(segment.data)}:{segment.executable}".encode())
        digest.update(segment.data)
    profile = case.profile
    words = (
        case.call,
        case.arguments,
        case.calls,
        case.cpus,
        profile.name,
        sorted(map(str, profile.without)),
        case.preempt,
        case.fetch,
        case.nmis,
    )
    if case.image.ibt:
        digest.update(b"ibt")
    if case.asleep:  # not always: schedules of before are still good
        digest.update(repr(case.asleep).encode())
    if profile.batch is not None:  # likewise
        digest.update(f"batch {profile.batch}".encode())
    if case.points != "locks":  # likewise
        digest.update(f"points {case.points}".encode())
    digest.update(repr((words, case.resched, sorted(case.stubs.items()), case.tag)).encode())
    return digest.hexdigest()


def open_case(case: Case, pool: UcPool | None = None, *, orders: Orders | None = None) -> Exploration:
    """A machine for ``case``, brought up, with the calls placed and the control tasks not started.

    :param orders: what its calls leave in any order without probes, where that is known already.
    :raises InputError: no such function, or arguments that do not fit; or calls that share data in too many orders.
    """
    system = Exploration(*_place(case, pool), (*ORACLES, *case.oracles))
    if system.shares:
        try:
            system.judge_by(find_orders(replace(case, reduce=True), pool) if orders is None else orders)
        except BaseException:
            system.close()
            raise
    return system


def find_orders(case: Case, pool: UcPool | None = None, *, most: int = ORDERS_MOST) -> Orders:
    """What the calls of ``case``, which share data, leave without probes, in any order.

    :param most: schedules.
    :raises InputError: there are more; or the function also runs in NMIs, of which there can be any number.
    """
    if case.nmis:
        raise InputError(
            f"{printable(case.call)}: its calls share data, and NMIs make more of them, so what they may leave is not known; "
            "explore it without NMIs, or with a function that writes to its own stack and buffers only"
        )
    with closing(Baseline(*_place(replace(case, code=()), pool))) as system:
        return system.find_orders(most)


def _place(case: Case, pool: UcPool | None) -> tuple[X86Port, Plan]:
    """A machine, and what happens on it. Twice the same for cases that differ in their control tasks only."""
    check_arguments(case.arguments)
    config = MachineConfig(
        int3_gap=case.profile.steps_by_int3, stack_pages=_STACK_PAGES, stubs=case.stubs, heap_pages=_heap_pages(case)
    )  # fmt: skip
    machine = Machine(case.image, cpus=case.cpus, config=config, pool=pool)
    executor = Executor(machine)
    function = require_function(case.image, machine.kallsyms, case.call)
    tasks = [2 * cpu + second for cpu in range(case.cpus) for second in range(1 + case.preempt)]
    frames = {task: place_call(machine, function.addr, case.arguments) for task in tasks}
    times = {task: 1 if task % 2 else case.calls for task in tasks}
    plan = Plan(
        calls={task: PlannedCall(function.addr, times[task]) for task in tasks},
        code=case.control_tasks,
        profile=case.profile,
        interrupts=case.interrupts,
        nmis=case.nmis,
        preempt=case.preempt,
        resched=frozenset(case.resched),
        asleep=frozenset(case.asleep),
        reduce=case.reduce,
        apart=case.apart,
        points=case.points,
        restores=case.restores,
        limit=case.limit,
    )
    return X86Port(machine, executor, case.profile, frames, times, case.limit), plan


def _heap_pages(case: Case) -> int:
    """Room for the buffers of all vCPUs, and a little."""
    sizes = [len(getattr(argument, "content", b"")) for argument in case.arguments]
    return 64 + 2 * case.cpus * sum(2 + size // 4096 for size in sizes)
