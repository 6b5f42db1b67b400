"""``optprobe verify``: one probe at a time over every instruction boundary that a call executes, by every method that the site
allows, with or without an interrupt at each boundary, against the unprobed run.

Compared: result, memory, all general registers, vector registers, flags, the stack pointer; and hits against passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from arch_x86.emu.machine import MachineConfig, Snapshot
from arch_x86.emu.uc import RCX, UcPool
from arch_x86.lab.bench import Workbench
from arch_x86.lab.calls import check_arguments, place_call, require_function
from arch_x86.lab.outcome import OutcomeReader
from arch_x86.lab.run import ExecOptions
from arch_x86.probes.arch import MAX_OPTIMIZED_LENGTH
from arch_x86.probes.eligibility import can_probe
from arch_x86.text.version import TextVersion
from engine.arguments import Argument, parse_number
from engine.errors import EngineBug, InputError
from engine.image import Image
from engine.kprobe import Kprobe, Method

__all__ = ("Failure", "Golden", "Sweep", "Verifier", "parse_sweep")

_METHODS = (Method.INT3, Method.EMULATED, Method.BOOSTED, Method.OPTIMIZED)
_WITH_POST = (Method.INT3, Method.EMULATED)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Where interrupts go. ``boundaries``: one run for each boundary; ``sample``: ``count`` of them, drawn with ``seed``."""

    kind: str = "none"
    seed: int = 0
    count: int = 0


def parse_sweep(text: str) -> Sweep:
    """``none``, ``boundaries`` or ``sample:SEED:N``.

    :raises InputError: none of these.
    """
    words = text.split(":")
    if text in ("none", "boundaries"):
        return Sweep(text)
    if words[0] == "sample" and len(words) == 3:
        what = f"--interrupts {text}"
        return Sweep("sample", parse_number(words[1], what, least=0), parse_number(words[2], what, least=1, most=1_000_000))
    raise InputError(f"--interrupts {text}: unknown; give none, boundaries or sample:SEED:N")


@dataclass(frozen=True, slots=True)
class Failure:
    """One run that went wrong. ``interrupt_at``: instructions retired before the interrupt, None without one."""

    symbol: str
    offset: int
    method: Method
    interrupt_at: int | None
    explain: str

    def to_json(self) -> dict[str, object]:
        """An entry of ``failures``."""
        return {
            "symbol": self.symbol,
            "offset": self.offset,
            "method": str(self.method),
            "interrupt_at": self.interrupt_at,
            "explain": self.explain,
        }


@dataclass(frozen=True, slots=True)
class Golden:
    """The unprobed run. ``passes``: how often each instruction of the image was executed, in order of first execution.

    ``steps``: the same with each iteration of a REP instruction counted, since a single step ends after each one and comes back to
    the breakpoint (as it does on Linux).
    """

    passes: dict[int, int]
    steps: dict[int, int]
    instructions: int
    result: int
    fault: str | None


class Verifier:
    """Checks the sites of one call. Used by one process; :mod:`arch_x86.lab.jobs` spreads sites over several.

    :raises InputError: no such function, or arguments that do not fit.
    """

    def __init__(
        self, image: Image, symbol: str, arguments: Sequence[Argument], *, options: ExecOptions, pool: UcPool | None = None
    ) -> None:
        check_arguments(arguments)
        self.image = image
        self.bench = Workbench(image, config=MachineConfig(stubs=options.stubs), pool=pool, profile=options.profile)
        machine = self.bench.machine
        function = require_function(image, machine.kallsyms, symbol)
        self._frame = place_call(machine, function.addr, arguments)
        self._limit = options.max_instructions
        self._profile = options.profile
        self.base = machine.snapshot()
        self._hits = 0
        self.runs = 0
        self._begin()
        self._reader = OutcomeReader(machine, 0)
        self.golden = self._run_golden()
        self._want = self._reader.read()
        self._probed_limit = 100 * self.golden.instructions + 10_000

    def close(self) -> None:
        """Give the emulator back."""
        self.bench.close()

    # The unprobed run -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Memory and registers as at the start, the text as it is now."""
        self.bench.machine.restore(self.base, keep_text=True)
        frame = self._frame
        self.bench.start_call(0, frame.addr, frame.integers, frame.floats)

    def _run_golden(self) -> Golden:
        machine, executor = self.bench.machine, self.bench.executor
        vcpu, task = machine.cpus[0], machine.tasks[0]
        passes: Counter[int] = Counter()
        steps: Counter[int] = Counter()
        while executor.running(0):
            rip = vcpu.rip
            counted = self.image.is_text(rip)
            rep = counted and self._is_rep(rip)
            before = vcpu.registers()[RCX] if rep else 0
            executor.advance(0, 1)
            while rep and vcpu.rip == rip and executor.running(0):
                executor.advance(0, 1)
            if counted:
                passes[rip] += 1
                steps[rip] += max(1, before - vcpu.registers()[RCX]) if rep else 1
            if vcpu.retired - task.started >= self._limit:
                executor.limit_reached(0, self._limit)
        fault = task.fault
        return Golden(
            passes=dict(passes),
            steps=dict(steps),
            instructions=vcpu.retired - task.started,
            result=vcpu.registers()[0],
            fault=f"{fault.place}: {fault.kind}: {fault.explain}" if fault is not None else None,
        )

    def _is_rep(self, addr: int) -> bool:
        function = self.bench.arch.code.function_at(addr)
        insn = function.insn_at(addr) if function is not None else None
        return insn is not None and (0xF3 in insn.prefixes or 0xF2 in insn.prefixes) and insn.opcode[0] in _STRING_OPCODES

    # Sites ------------------------------------------------------------------------------------------------------------

    def sites(self) -> list[int]:
        """Boundaries that the call executes and that accept a probe, in address order."""
        return [addr for addr in sorted(self.golden.passes) if not can_probe(self.bench.arch.code, addr).errno]

    def check_site(self, addr: int, sweep: Sweep) -> Iterator[Failure]:
        """Every method that the site allows."""
        for method in _METHODS:
            yield from self.check_method(addr, method, sweep)

    def check_method(
        self, addr: int, method: Method, sweep: Sweep, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Failure]:
        """One method; nothing where the site does not allow it. ``progress(done, total)`` counts interrupt positions."""
        probe = self._register(addr, method)
        if probe is not None:
            yield from self._check(addr, method, sweep, progress)
            self._unregister(probe)

    def _register(self, addr: int, method: Method) -> Kprobe | None:
        kprobes = self.bench.kprobes
        kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
        probe = Kprobe(addr=addr, pre_handler=self._hit, post_handler=_ignore if method in _WITH_POST else None)
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

    def _hit(self, _p: Kprobe, _regs: object) -> int:
        self._hits += 1
        return 0

    # Runs -------------------------------------------------------------------------------------------------------------

    def _check(self, addr: int, method: Method, sweep: Sweep, progress: Callable[[int, int], None] | None) -> Iterator[Failure]:
        self._begin()
        self._hits = 0
        start = self.bench.machine.snapshot()
        text = self.bench.machine.text.current
        length = self.bench.machine.cpus[0].retired
        yield from self._finish(addr, method, None)
        length = self.bench.machine.cpus[0].retired - length
        match sweep.kind:
            case "boundaries":
                yield from self._interrupt_at(addr, method, start, range(length), progress)
            case "sample":
                random = Random(f"{sweep.seed}:{addr - self.image.functions[0].addr}:{method}")
                yield from self._interrupt_at(addr, method, start, _sample(random, length, sweep.count), progress)
            case _:
                pass
        self._assert_text(text)
        self.bench.machine.release(start)

    def _assert_text(self, text: TextVersion) -> None:
        if self.bench.machine.text.current is not text:
            raise EngineBug("the text changed during a run")

    def _finish(self, addr: int, method: Method, interrupt_at: int | None) -> Iterator[Failure]:
        """Run to the end and compare."""
        self.bench.executor.run_call(0, self._probed_limit)
        self.runs += 1
        got = self._reader.read()
        explain = self._reader.explain(got, self._want)
        # Under TF a REP instruction comes back to its breakpoint after each iteration.
        by_step = method is Method.INT3 and not self._profile.steps_by_int3
        passes = (self.golden.steps if by_step else self.golden.passes)[addr]
        if explain is None and self._hits != passes:
            explain = f"{self._hits} hits, though the site was passed {passes} times"
        if explain is not None:
            found = self.bench.machine.kallsyms.lookup(addr)
            symbol, offset = (found[0].name, found[1]) if found else ("", addr)
            yield Failure(symbol, offset, method, interrupt_at, explain)

    def _interrupt_at(
        self,
        addr: int,
        method: Method,
        start: Snapshot,
        positions: Sequence[int],
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[Failure]:
        """For each position: run there, deliver an interrupt where IF lets one in, run to the end."""
        machine, executor = self.bench.machine, self.bench.executor
        machine.restore(start)
        self._hits = 0
        first = machine.cpus[0].retired
        for done, position in enumerate(positions):
            if progress is not None and done % 256 == 0:
                progress(done, len(positions))
            ahead = position - (machine.cpus[0].retired - first)
            if ahead > 0:
                executor.advance(0, ahead)
            here = machine.snapshot()
            hits = self._hits
            if executor.running(0) and executor.interrupt(0):
                yield from self._finish(addr, method, position)
            machine.restore(here)
            machine.release(here)
            self._hits = hits


_STRING_OPCODES = frozenset({0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, 0x6C, 0x6D, 0x6E, 0x6F})


def _sample(random: Random, length: int, count: int) -> Sequence[int]:
    """``count`` different positions below ``length``, in order; getrandbits alone is the same on every Python."""
    if count >= length:
        return range(length)
    chosen: set[int] = set()
    while len(chosen) < count:
        chosen.add(random.getrandbits(64) % length)
    return sorted(chosen)


def _ignore(_p: Kprobe, _regs: object, _flags: int) -> None:
    """A post_handler: it makes the site step instead of being boosted."""
