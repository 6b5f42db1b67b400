"""This module is ``optprobe verify``: does code do with a probe what it does without one?

No kernel file answers to it. One probe at a time goes to every instruction boundary that a call
executes, by every method that the site allows, with or without an interrupt at each boundary. Each
run is compared with the unprobed run: result, memory, all general registers, vector and x87
registers, flags, the stack pointer; hits with passes; and the registers that the handler is shown
at each hit with those that the unprobed run had there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeAlias

from arch_x86.emu.cpu import CODE_SELECTOR, DATA_SELECTOR
from arch_x86.emu.entry import wrong_entry
from arch_x86.emu.fault import FaultKind
from arch_x86.emu.machine import Snapshot
from arch_x86.emu.uc import UcPool
from arch_x86.isa.constants import JMP32_SIZE, MAX_OPTIMIZED_LENGTH
from arch_x86.lab.bench import Workbench
from arch_x86.lab.calls import check_arguments, place_call, require_function
from arch_x86.lab.convergence import Convergence
from arch_x86.lab.golden import Golden, PassLog, saw, step_through
from arch_x86.lab.outcome import OutcomeReader
from arch_x86.lab.pushed import PushedBytes
from arch_x86.lab.run import ExecOptions
from arch_x86.probes.eligibility import can_probe
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from arch_x86.probes.ptregs import PtRegs
from arch_x86.text.text_version import TextVersion
from engine import defaults
from engine.brief import described, shortened
from engine.core.safety_steps import SafetyStep
from engine.errors import EngineBug, InputError, printable
from engine.image import Image
from engine.kprobe import Kprobe, Method
from engine.syntax.arguments import Argument, parse_number

__all__ = ("Failure", "Sweep", "Verifier", "parse_sweep")

Progress: TypeAlias = Callable[[int, int], None]
_METHODS = (Method.INT3, Method.EMULATED, Method.BOOSTED, Method.OPTIMIZED)
_PUSHING = (Method.OPTIMIZED, Method.FTRACE)
"""By these methods guest code pushes before the host is asked, so no frame tells of it."""
_WITH_POST = (Method.INT3, Method.EMULATED)
_HIT_MAX: Final = 200
"""A hit may add this many instructions by any method.

It is above the dearest one, a step that traps and is returned to.
"""
_INTERRUPT_MAX: Final = 1_000
"""An interrupt may add this many instructions."""
_NO_SYSCALL: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep says where interrupts come.

    :ivar kind: ``none``, ``boundaries`` for one run for each boundary, or ``sample``.
    :ivar seed: the number with which a sample is drawn.
    :ivar count: how many boundaries a sample has.
    """

    kind: str = defaults.INTERRUPTS
    seed: int = 0
    count: int = 0


def parse_sweep(text: str) -> Sweep:
    """Return the sweep that ``none``, ``boundaries`` or ``sample:SEED:N`` stands for.

    :raises InputError: the text is none of these.
    """
    words = text.split(":")
    if text in ("none", "boundaries"):
        return Sweep(text)
    if words[0] == "sample" and len(words) == 3:
        what = f"--interrupts {printable(text)}"
        return Sweep(
            "sample",
            parse_number(words[1], what, least=0),
            parse_number(words[2], what, least=1, most=1_000_000),
        )
    raise InputError(
        f"--interrupts {printable(text)}: unknown; give none, boundaries or sample:SEED:N"
    )


@dataclass(frozen=True, slots=True)
class Failure:
    """This record is one run that went wrong.

    :ivar symbol: the function of the site; ``offset`` is the site's offset in bytes from its start.
    :ivar interrupt_at: how many instructions were retired before the interrupt; None without one.
    :ivar explain: what was wrong, in words.
    """

    symbol: str
    offset: int
    method: Method
    interrupt_at: int | None
    explain: str

    def __repr__(self) -> str:
        when = (
            ""
            if self.interrupt_at is None
            else f"interrupt after {self.interrupt_at:,} instructions"
        )
        return described(
            self, f"{shortened(self.symbol)}+{self.offset:#x}", str(self.method), when, self.explain
        )

    def to_json(self) -> dict[str, object]:
        """Return the entry of ``failures`` in the JSON document."""
        return {
            "symbol": self.symbol,
            "offset": self.offset,
            "method": str(self.method),
            "interrupt_at": self.interrupt_at,
            "explain": self.explain,
        }


class Verifier:
    """This class checks the sites of one call, in one process.

    :mod:`arch_x86.lab.jobs` spreads the sites over several processes.

    :param symbol: the function to call, by name or address.
    :param arguments: what it is called with.
    :param pool: emulator instances to reuse.
    :param progress: is called as ``progress(done, total)`` while the unprobed call is stepped.
    :param one_by_one: make one run for each interrupt, even where one run can stand for all of
        them (:mod:`arch_x86.lab.convergence`). What is found does not depend on that.
    :ivar golden: the unprobed run.
    :ivar runs: how many probed runs of the call were compared.
    :raises InputError: there is no such function, or the arguments do not fit.
    """

    def __init__(
        self,
        image: Image,
        symbol: str,
        arguments: Sequence[Argument],
        *,
        options: ExecOptions,
        pool: UcPool | None = None,
        progress: Progress | None = None,
        one_by_one: bool = False,
    ) -> None:
        check_arguments(arguments)
        self.image = image
        self.bench = Workbench(image, config=options.machine, pool=pool, profile=options.profile)
        machine = self.bench.machine
        function = require_function(image, machine.kallsyms, symbol)
        self._frame = place_call(machine, function.addr, arguments)
        self._profile = options.profile
        self.base = machine.snapshot()
        self._site = 0
        self._log = PassLog()
        self._hits = 0
        self._wrong: str | None = None
        self._method = Method.INT3
        self._pushed = PushedBytes(machine)
        self.runs = 0
        self._begin()
        self._reader = OutcomeReader(machine, 0)
        self.golden = self._run_golden(options.max_instructions, progress or _silent)
        self._handler_length = self.bench.executor.handler_length(machine.cpus[0])
        self._convergence = (
            None
            if one_by_one or self.golden.reads_stale
            else Convergence(self.bench, self._handler_length)
        )
        machine.cpus[0].watcher = self._pushed

    def close(self) -> None:
        """Give the emulator instances back to the pool."""
        self.bench.close()

    # The unprobed run -----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin the call with memory and registers as at the start, and the text as it is now."""
        self.bench.machine.restore(self.base, keep_text=True)
        frame = self._frame
        self.bench.start_call(0, frame.addr, frame.integers, frame.floats)

    def _run_golden(self, limit: int, progress: Progress) -> Golden:
        """Return the unprobed run, or its fault.

        It runs at full speed first, for a call that never ends, or ends in a fault, is not worth
        stepping.
        """
        machine = self.bench.machine
        self.bench.executor.run_call(0, limit)
        self._want = self._reader.read()
        instructions = machine.cpus[0].retired - machine.tasks[0].started
        if machine.tasks[0].fault is not None:
            return Golden({}, {}, instructions, machine.tasks[0].fault)
        self._begin()
        return step_through(self.bench, instructions, progress)

    # Sites ----------------------------------------------------------------------------------------

    def sites(self) -> list[int]:
        """Return the addresses to probe, in order.

        They are the boundaries that the call executes and that take a probe. Those are added that
        it does not execute but whose jump would lie over bytes that it does. Where a probe would go
        elsewhere (behind ENDBR64), there is nothing to try.
        """
        passes = self.golden.passes
        arch = self.bench.arch
        executed = {addr for addr in passes if not can_probe(arch.code, addr).errno}
        near = {addr - offset for addr in passes for offset in range(1, JMP32_SIZE)} - passes.keys()
        found = executed | {addr for addr in near if self._can_optimize(addr)}
        return sorted(addr for addr in found if arch.arch_adjust_kprobe_addr(addr) == addr)

    def _can_optimize(self, addr: int) -> bool:
        unchecked = not self._profile.has(SafetyStep.JUMP_RANGE_CHECK)
        return isinstance(
            can_optimize(self.bench.arch.code, addr, jumps_in=unchecked), OptimizePlan
        )

    def check_site(
        self, addr: int, sweep: Sweep, progress: Progress | None = None
    ) -> Iterator[Failure]:
        """Check every method that the site allows, and yield the failures.

        Where the call does not execute the site, only a jump makes a difference.

        :param progress: is called as ``progress(done, total)`` with counts of interrupt positions.
        """
        for method in self._methods(addr):
            yield from self.check_method(addr, method, sweep, progress)

    def _methods(self, addr: int) -> tuple[Method, ...]:
        """Return the methods to try at ``addr``."""
        if addr not in self.golden.passes:
            return (Method.OPTIMIZED,)
        return (
            (Method.FTRACE,)
            if self._profile.on_ftrace and self.bench.arch.arch_ftrace_location(addr)
            else _METHODS
        )

    def check_method(
        self, addr: int, method: Method, sweep: Sweep, progress: Progress | None = None
    ) -> Iterator[Failure]:
        """Check one method, and yield the failures; none where the site does not allow it.

        :param progress: is called as ``progress(done, total)`` with counts of interrupt positions.
        """
        probe = self._register(addr, method)
        if probe is not None:
            yield from self._check(addr, method, sweep, progress)
            # The machine goes back to where no call is under way. Otherwise the optimizer would
            # wait for the call's end, which a probed call need not have.
            self.bench.machine.restore(self.base, keep_text=True)
            self._unregister(probe)

    def _register(self, addr: int, method: Method) -> Kprobe | None:
        kprobes = self.bench.kprobes
        kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
        probe = Kprobe(
            addr=addr, pre_handler=self._hit, post_handler=_ignore if method in _WITH_POST else None
        )
        kprobes.register_kprobe(probe)
        kprobes.wait_for_kprobe_optimizer()
        if self.bench.method(probe) is not method:
            self._unregister(probe)
            return None
        return probe

    def _unregister(self, probe: Kprobe) -> None:
        kprobes, text = self.bench.kprobes, self.bench.machine.text
        addr = probe.at
        kprobes.unregister_kprobe(probe)
        kprobes.wait_for_kprobe_optimizer()
        original = self.image.read(addr, MAX_OPTIMIZED_LENGTH)
        if text.read(addr, len(original)) != original:
            raise EngineBug(f"the text at {addr:#x} was not restored")

    def _hit(self, _p: Kprobe, regs: PtRegs) -> int:
        if self._wrong is None:
            self._wrong = self._explain_registers(regs) or self._check_entry()
        if self._method in _PUSHING and regs.sp in self._log.under:
            self._pushed.pushing_by_itself(regs.sp, self._log.under[regs.sp])
        self._hits += 1
        return 0

    def _check_entry(self) -> str | None:
        """Return what is wrong with the CPU's state at the handler's entry, or None.

        Its registers are checked elsewhere (:meth:`_check_registers`).
        """
        wrong = wrong_entry(self.bench.machine, self.bench.machine.cpus[0])
        return None if wrong is None else f"at pass {self._hits + 1} {wrong}"

    def _explain_registers(self, regs: PtRegs) -> str | None:
        wrong = self._check_registers(regs)
        return None if wrong is None else f"the handler was shown wrong registers: {wrong}"

    def _check_registers(self, regs: PtRegs) -> str | None:
        """Return how the handler's registers differ from those of the unprobed run, or None.

        ``ip`` is behind the one byte of the breakpoint.
        """
        for name, new, old in (
            ("ip", regs.ip, self._site + 1),
            ("cs", regs.cs, CODE_SELECTOR),
            ("ss", regs.ss, DATA_SELECTOR),
            ("orig_ax", regs.orig_ax, _NO_SYSCALL if self._method is not Method.FTRACE else 0),
        ):
            if new != old:
                return f"at pass {self._hits + 1} {name} = {new:#x}, which should be {old:#x}"
        return self._log.explain(self._hits, saw(regs))

    # Runs -----------------------------------------------------------------------------------------

    def _check(
        self, addr: int, method: Method, sweep: Sweep, progress: Progress | None
    ) -> Iterator[Failure]:
        # Under TF a REP instruction comes back to its breakpoint after each iteration.
        by_step = method is Method.INT3 and not self._profile.steps_by_int3
        self._site, self._log = addr, self.golden.hits(addr, by_step=by_step)
        self._method = method
        self._pushed.clear()
        self._begin()
        self._hits, self._wrong = 0, None
        start = self.bench.machine.snapshot()
        text = self.bench.machine.text.current
        length = self.bench.machine.cpus[0].retired
        failure = self._finish(addr, method, None)
        length = self.bench.machine.cpus[0].retired - length
        if failure is not None:  # Every interrupted run would fail in the same way.
            yield failure
        elif sweep.kind == "boundaries":
            yield from self._interrupt_at(addr, method, start, range(length), progress)
        elif sweep.kind == "sample":
            random = Random(f"{sweep.seed}:{addr - self.image.functions[0].addr}:{method}")
            positions = _sample(random, length, sweep.count)
            yield from self._interrupt_at(addr, method, start, positions, progress)
        self._assert_text(text)
        self.bench.machine.release(start)

    def _assert_text(self, text: TextVersion) -> None:
        if self.bench.machine.text.current is not text:
            raise EngineBug("the text changed during a run")

    def _finish(self, addr: int, method: Method, interrupt_at: int | None) -> Failure | None:
        """Run the call to its end, and return how it differs from the unprobed run, or None."""
        limit = self._limit()
        fault = self.bench.executor.run_call(0, limit)
        self.runs += 1
        if fault is not None and fault.kind is FaultKind.INSTRUCTION_LIMIT:
            explain = (
                f"does not end: {limit:,} instructions so far; the unprobed call has"
                f" {self.golden.instructions:,}"
            )
        else:
            explain = self._explain_outcome()
        if explain is None:
            return None
        found = self.bench.machine.kallsyms.lookup(addr)
        symbol, offset = (found[0].name, found[1]) if found else ("", addr)
        return Failure(symbol, offset, method, interrupt_at, explain)

    def _limit(self) -> int:
        """Return how many instructions a probed run may retire."""
        return 2 * self.golden.instructions + _HIT_MAX * len(self._log) + _INTERRUPT_MAX

    def _explain_outcome(self) -> str | None:
        """Return how the run that has ended differs from the unprobed run, or None."""
        got = self._reader.without_pushes(self._reader.read(), self._want, self._pushed.dead)
        explain = self._reader.explain(got, self._want)
        if explain is None and self._hits != len(self._log):
            explain = f"{self._hits} hits, though the site was passed {len(self._log)} times"
        return self._wrong if explain is None else explain

    def _interrupt_at(
        self,
        addr: int,
        method: Method,
        start: Snapshot,
        positions: Sequence[int],
        progress: Progress | None,
    ) -> Iterator[Failure]:
        """Interrupt the call at each of ``positions``, run it to its end, and yield the failures.

        An interrupt is delivered only where IF is set.
        """
        if self._convergence is not None:
            self._begin_again(start)
            runs = self._convergence.runs(
                positions,
                self._limit(),
                ends_well=lambda: self._explain_outcome() is None,
                progress=progress,
            )
            if runs is not None:
                self.runs += runs
                return
        yield from self._interrupt_one_by_one(addr, method, start, positions, progress)

    def _begin_again(self, start: Snapshot) -> None:
        self.bench.machine.restore(start)
        self._hits, self._wrong = 0, None
        self._pushed.clear()

    def _interrupt_one_by_one(
        self,
        addr: int,
        method: Method,
        start: Snapshot,
        positions: Sequence[int],
        progress: Progress | None,
    ) -> Iterator[Failure]:
        """Make one run for each of ``positions``, as :meth:`_interrupt_at` says.

        The uninterrupted run goes on from a snapshot, so that each run begins at its position.
        """
        machine, executor = self.bench.machine, self.bench.executor
        self._begin_again(start)
        first = machine.cpus[0].retired
        for done, position in enumerate(positions):
            if progress is not None and done % 256 == 0:
                progress(done, len(positions))
            ahead = position - (machine.cpus[0].retired - first)
            if ahead > 0:
                executor.advance(0, ahead)
            here = machine.snapshot()
            seen = self._hits, self._wrong
            pushed = self._pushed.save_state()
            if executor.running(0) and executor.interrupt(0):
                # The handler of an interrupt does not ask the host, so it has pushed all when it
                # ends.
                if self._pushed.awaits:
                    executor.advance(0, self._handler_length)
                    self._pushed.pushed(machine.cpus[0])
                failure = self._finish(addr, method, position)
                if failure is not None:
                    yield failure
            machine.restore(here)
            machine.release(here)
            self._hits, self._wrong = seen
            self._pushed.restore_state(pushed)


def _sample(random: Random, length: int, count: int) -> Sequence[int]:
    """Return ``count`` different positions below ``length``, in order.

    They are drawn by getrandbits() alone, which gives the same numbers in every version of Python.
    """
    if count >= length:
        return range(length)
    chosen: set[int] = set()
    while len(chosen) < count:
        chosen.add(random.getrandbits(64) % length)
    return sorted(chosen)


def _silent(_done: int, _total: int) -> None:
    """Report no progress."""


def _ignore(_p: Kprobe, _regs: object, _flags: int) -> None:
    """Do nothing, as a post_handler whose presence makes the site step instead of being boosted."""
