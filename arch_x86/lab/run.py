"""This module is ``optprobe run``: a call with probes in it; no kernel file answers to it.

It registers probes, waits for the optimizer, makes the call on each CPU, and reports.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field

from arch_x86.emu.execute import InterruptPlan
from arch_x86.emu.fault import GuestFault
from arch_x86.emu.machine import Machine, MachineConfig
from arch_x86.emu.uc import UcPool
from arch_x86.lab.bench import Workbench
from arch_x86.lab.calls import CallFrame, check_arguments, place_call, require_function, result_f64
from engine import defaults
from engine.brief import count, described, shortened
from engine.core.kprobes import Kprobes
from engine.core.profiles import LINUX_2010, Profile
from engine.errors import InputError, KprobeError, printable
from engine.image import Image
from engine.kprobe import Kprobe, Method
from engine.kretprobe import Kretprobe
from engine.syntax.arguments import Argument
from engine.syntax.kprobe_events import MAXACTIVE_MAX, ProbeSpec, refuse_ambiguous

__all__ = ("CallResult", "ExecOptions", "ProbeResult", "RunResult", "read_call", "run_image")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecOptions:
    """This record has the options of all commands that execute code.

    :ivar profile: whose behaviour the machine shows.
    :ivar cpus: how many vCPUs it has.
    :ivar max_instructions: most instructions of each call.
    :ivar stubs: see :class:`~arch_x86.emu.machine.MachineConfig`, as for ``check_alignment``.
    """

    profile: Profile = LINUX_2010
    cpus: int = defaults.CPUS
    max_instructions: int = defaults.MAX_INSTRUCTIONS
    stubs: dict[str, int] = field(default_factory=dict[str, int])
    check_alignment: bool = False

    @property
    def machine(self) -> MachineConfig:
        """Return the configuration of the machine that the options ask for."""
        return MachineConfig(stubs=self.stubs, check_alignment=self.check_alignment)


@dataclass(frozen=True, slots=True)
class CallResult:
    """This record is what one CPU's call has left.

    :ivar result: RAX, unsigned; None after a fault.
    :ivar result_f64: the low double of XMM0; None after a fault, and for an infinity or NaN.
    :ivar instructions: how many instructions the call retired.
    :ivar buffers: the content of each buffer after the call.
    """

    cpu: int
    symbol: str
    result: int | None
    result_f64: float | None
    instructions: int
    buffers: tuple[bytes, ...]

    def __repr__(self) -> str:
        value = "no result" if self.result is None else f"{self.result:#x}"
        sizes = (
            f"buffers of {', '.join(f'{len(one):,}' for one in self.buffers)} bytes"
            if self.buffers
            else ""
        )
        return described(
            self,
            f"cpu {self.cpu}",
            f"{shortened(self.symbol)} -> {value}",
            count(self.instructions, "instruction"),
            sizes,
        )

    def to_json(self) -> dict[str, object]:
        """Return the entry of ``calls`` in the JSON document."""
        return {
            "cpu": self.cpu,
            "symbol": self.symbol,
            "result": self.result,
            "result_f64": self.result_f64,
            "instructions": self.instructions,
            "buffers": [content.hex() for content in self.buffers],
        }


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """This record is what became of one probe.

    :ivar spec: the user's text.
    :ivar method: how a hit ran when the call started.
    :ivar hits: how often its handler ran.
    :ivar misses: how many hits its handler could not run in.
    """

    spec: str
    symbol: str
    offset: int
    method: Method
    hits: int
    misses: int

    def __repr__(self) -> str:
        place = f"{shortened(self.symbol)}+{self.offset:#x}"
        return described(
            self,
            place,
            str(self.method),
            count(self.hits, "hit"),
            count(self.misses, "miss", "misses"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the entry of ``probes`` in the JSON document."""
        return {
            "spec": self.spec,
            "symbol": self.symbol,
            "offset": self.offset,
            "method": str(self.method),
            "hits": self.hits,
            "misses": self.misses,
        }


@dataclass(frozen=True, slots=True)
class RunResult:
    """This record is what ``run`` answers.

    :ivar interrupts: how many interrupts were delivered.
    :ivar stop_machine: how many calls of ``stop_machine`` there were.
    :ivar syncs: how many core syncs there were.
    :ivar fault: the fault of the lowest CPU that has one, or None.
    """

    profile: str
    calls: tuple[CallResult, ...]
    probes: tuple[ProbeResult, ...]
    interrupts: int
    stop_machine: int
    syncs: int
    fault: GuestFault | None

    def __repr__(self) -> str:
        calls = ", ".join(
            "no result" if call.result is None else f"{call.result:#x}" for call in self.calls
        )
        hits = ", ".join(f"{probe.hits:,}" for probe in self.probes)
        died = "" if self.fault is None else f"{self.fault.kind} at {shortened(self.fault.place)}"
        return described(self, f"{self.profile} -> {calls}", f"hits: {hits}" if hits else "", died)

    def to_json(self) -> dict[str, object]:
        """Return the document of ``optprobe run --json``."""
        return {
            "schema": 1,
            "profile": self.profile,
            "calls": [call.to_json() for call in self.calls],
            "probes": [probe.to_json() for probe in self.probes],
            "interrupts": self.interrupts,
            "stop_machine": self.stop_machine,
            "syncs": self.syncs,
            "fault": self.fault.to_json() if self.fault else None,
        }


class _Counted:
    """This class is a plain or return probe of the user's that counts its hits."""

    __slots__ = ("hits", "probe", "returns", "spec")

    def __init__(self, spec: ProbeSpec) -> None:
        self.spec = spec
        self.hits = 0
        self.returns: Kretprobe | None = None
        if spec.is_return:
            maxactive = spec.maxactive or 0
            self.returns = Kretprobe(
                addr=spec.address, symbol_name=spec.symbol, handler=self._hit, maxactive=maxactive
            )
            self.probe: Kprobe = self.returns.kp
        else:
            self.probe = Kprobe(
                addr=spec.address,
                symbol_name=spec.symbol,
                offset=spec.offset,
                pre_handler=self._hit,
            )

    def _hit(self, _probe: object, _regs: object) -> int:
        self.hits += 1
        return 0

    def register(self, kprobes: Kprobes) -> None:
        """Register the probe.

        :raises KprobeError: the core refuses it, or it is a return probe that would follow too many
            calls at once.
        """
        if self.returns is None:
            kprobes.register_kprobe(self.probe)
        elif self.returns.maxactive > MAXACTIVE_MAX:
            raise KprobeError(
                errno.E2BIG,
                f"{self.returns.maxactive} calls at once; a return probe follows {MAXACTIVE_MAX} at"
                " most",
            )
        else:
            kprobes.register_kretprobe(self.returns)

    @property
    def misses(self) -> int:
        """Return how many hits the handler could not run in."""
        return self.probe.nmissed + (self.returns.nmissed if self.returns is not None else 0)


def run_image(
    image: Image,
    symbol: str,
    arguments: Sequence[Argument] = (),
    probes: Sequence[ProbeSpec] = (),
    *,
    interrupts: InterruptPlan | None = None,
    optimize: bool = True,
    options: ExecOptions | None = None,
    pool: UcPool | None = None,
) -> RunResult:
    """Register ``probes``, call a function on each CPU, and return what came of it.

    vCPUs take turns of 1,000 instructions in their order.

    :param symbol: the function to call, by name or address.
    :param arguments: what it is called with.
    :param interrupts: when interrupts come; None for never.
    :param optimize: let the optimizer turn probes into jumps.
    :param pool: emulator instances to reuse.
    :raises InputError: there is no such function, the arguments do not fit, or a probe has fetch
        arguments.
    :raises KprobeError: a probe is refused.
    """
    options = options or ExecOptions()
    check_arguments(arguments)
    for spec in probes:
        if spec.fetchargs:
            raise InputError(
                f"probe '{printable(spec.text)}': fetch arguments are not supported yet; write p"
                " SYM+OFF, r SYM or SYM+0xOFF"
            )
    bench = Workbench(
        image, cpus=options.cpus, config=options.machine, pool=pool, profile=options.profile
    )
    try:
        return _run(bench, symbol, arguments, probes, interrupts, optimize, options)
    finally:
        bench.close()


def _run(
    bench: Workbench,
    symbol: str,
    arguments: Sequence[Argument],
    probes: Sequence[ProbeSpec],
    interrupts: InterruptPlan | None,
    optimize: bool,
    options: ExecOptions,
) -> RunResult:
    machine, kprobes = bench.machine, bench.kprobes
    function = require_function(bench.image, machine.kallsyms, symbol)
    kprobes.kprobes_allow_optimization = optimize
    counted = [_Counted(spec) for spec in probes]
    for one in counted:
        refuse_ambiguous(one.spec, bench.image, options.profile)
        try:
            one.register(kprobes)
        except KprobeError as error:
            raise KprobeError(
                error.errno,
                f"probe '{printable(one.spec.text)}'{_place(bench, one.spec)}: {error.reason}",
            ) from None
    if optimize:
        kprobes.wait_for_kprobe_optimizer()
    methods = [bench.method(one.probe) for one in counted]
    bench.interrupts = interrupts
    bench.limit = options.max_instructions
    frames = [place_call(machine, function.addr, arguments) for _ in machine.cpus]
    for cpu, frame in enumerate(frames):
        bench.start_call(cpu, frame.addr, frame.integers, frame.floats)
    bench.finish_calls()
    return RunResult(
        profile=options.profile.name,
        calls=tuple(read_call(machine, cpu, symbol, frame) for cpu, frame in enumerate(frames)),
        probes=tuple(
            _probe_result(bench, one, method) for one, method in zip(counted, methods, strict=True)
        ),
        interrupts=sum(cpu.interrupts for cpu in machine.cpus),
        stop_machine=bench.plane.stats.stop_machine,
        syncs=bench.plane.stats.syncs,
        fault=next((task.fault for task in machine.tasks if task.fault is not None), None),
    )


def read_call(machine: Machine, cpu: int, symbol: str, frame: CallFrame) -> CallResult:
    """Return what the call of ``symbol`` on vCPU ``cpu`` has left.

    :param frame: the registers and buffers for which the call was made, which has ended.
    """
    vcpu, task = machine.cpus[cpu], machine.tasks[cpu]
    ended = task.fault is None
    return CallResult(
        cpu=cpu,
        symbol=symbol,
        result=vcpu.registers()[0] if ended else None,
        result_f64=result_f64(vcpu.uc.extended.vector_state()) if ended else None,
        instructions=vcpu.retired - task.started,
        buffers=tuple(
            machine.ram.read(addr, len(content)) or b"" for addr, content in frame.buffers
        ),
    )


def _place(bench: Workbench, spec: ProbeSpec) -> str:
    """Return where a refused probe would have gone, unless the user's text says the same."""
    place = (
        bench.machine.kallsyms.describe(spec.address or 0)
        if spec.symbol is None
        else f"{spec.symbol}+{spec.offset:#x}"
    )
    return "" if place == spec.text else f" at {printable(place)}"


def _probe_result(bench: Workbench, one: _Counted, method: Method) -> ProbeResult:
    found = bench.machine.kallsyms.lookup(one.probe.at)
    name, offset = (found[0].name, found[1]) if found else ("", 0)
    if one.spec.symbol is not None:  # Of several names at one address, the user's is shown.
        symbol = bench.machine.kallsyms.lookup_name(one.spec.symbol)
        name, offset = (
            one.spec.symbol,
            one.spec.offset if symbol is None else one.probe.at - symbol.addr,
        )
    return ProbeResult(one.spec.text, name, offset, method, one.hits, one.misses)
