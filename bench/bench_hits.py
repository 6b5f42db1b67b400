"""What a hit costs by each method, and how fast interrupt points are run.

A hit's cost, in host time and in guest instructions (which are exact), is that of a loop with the
probe in it less that of the same loop without. It is taken twice: with hits that are answered while
the emulator runs, as is usual, and with hits that leave it. An interrupt point is one run of
``verify``: go on by one instruction, take a snapshot, deliver an interrupt, run to the end, compare
everything with the unprobed run, restore. The target is 5,000 of them a second, on a call of about
160 instructions with one optimized probe.
"""

from __future__ import annotations

import struct
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from arch_x86.lab.bench import Workbench
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Sweep, Verifier
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from bench.images import asm_image, shipped
from bench.race import Contender, race
from engine.kprobe import Kprobe, Method
from engine.syntax.arguments import BufferArgument, IntegerArgument

if TYPE_CHECKING:
    from arch_x86.emu.uc import UcPool
    from bench.figures import Figures

_HITS: Final = 10_000
_LIMIT: Final = 10_000_000
_POINTS_A_SECOND: Final = 5_000
# The probed instruction has 8 bytes, can be boosted, and is the target of the loop's jump, so the
# jump of an optimized probe replaces it alone.
_LOOP: Final = f"""
    mov ecx, {_HITS}
again:
    lea rax, [rax + rcx * 2 + 0x1000]
    dec ecx
    jnz again
    ret
"""
_SITE: Final = 5  # the offset behind the mov
_METHODS: Final = (Method.INT3, Method.BOOSTED, Method.OPTIMIZED)
_TARGETS: Final = {Method.INT3: 8.0, Method.BOOSTED: 3.0, Method.OPTIMIZED: 2.0}
"""The most that a hit may take that does not leave the emulator, in microseconds."""


class Loop:
    """The loop in a machine, with a probe that is hit by ``method``, or with none.

    :param inside: hits are answered while the emulator runs.
    """

    def __init__(self, pool: UcPool, method: Method | None, *, inside: bool = True) -> None:
        self.hits = self.seen = 0
        self.bench = Workbench(asm_image(_LOOP), pool=pool)
        self.contender = Contender(self._begin, self._run)
        if not inside:
            self.bench.machine.cpus[0].fast = None
        self._entry = self.bench.image.by_name["f"].addr
        if method is not None:
            self._probe(method)

    def _probe(self, method: Method) -> None:
        kprobes = self.bench.kprobes
        kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
        probe = Kprobe(
            symbol_name="f",
            offset=_SITE,
            pre_handler=self._hit,
            post_handler=_ignore if method is Method.INT3 else None,
        )
        kprobes.register_kprobe(probe)
        kprobes.wait_for_kprobe_optimizer()
        assert self.bench.method(probe) is method

    def _hit(self, _p: Kprobe, regs: Any) -> int:
        self.hits += 1
        self.seen = regs.cx
        return 0

    def _begin(self) -> None:
        self.hits = 0
        self.bench.start_call(0, self._entry)

    def _run(self) -> None:
        fault = self.bench.executor.run_call(0, _LIMIT)
        assert fault is None, fault

    def instructions(self) -> int:
        """The number of instructions that the last call has retired."""
        return self.bench.machine.cpus[0].retired - self.bench.machine.tasks[0].started


def _ignore(_p: Kprobe, _regs: Any, _flags: int) -> None:
    """A post_handler that does nothing; with it, the probed instruction is stepped."""


@pytest.mark.parametrize("method", _METHODS, ids=str)
def test_hit(benchmark: Any, figures: Figures, pool: UcPool, method: Method) -> None:
    """10,000 hits with a pre_handler that counts in Python and reads a register.

    For the stepped method there is also a post_handler that does nothing.
    """
    without, probed = (
        [Loop(pool, one, inside=inside) for inside in (True, False)] for one in (None, method)
    )
    race(benchmark, *(loop.contender for loop in (*without, *probed)))
    name = {Method.INT3: "int3, stepped", Method.BOOSTED: "int3, boosted"}.get(method, str(method))
    for plain, loop, what, target in zip(
        without, probed, ("", " that leaves"), (("<=", _TARGETS[method]), None), strict=True
    ):
        assert loop.hits == _HITS
        assert loop.seen == 1
        extra, odd = divmod(loop.instructions() - plain.instructions(), _HITS)
        assert odd == 0
        cost = (loop.contender.seconds - plain.contender.seconds) / _HITS
        figures.add(benchmark, f"{name}: a hit{what}", cost * 1e6, "us", target)
        if target is None:
            figures.add(benchmark, f"{name}: guest instructions a hit", extra)
        plain.bench.close()
        loop.bench.close()


def _verifier(pool: UcPool) -> tuple[Verifier, int]:
    """A verifier of sorting two numbers, 167 instructions, and a site in it.

    The site is the last one that can be optimized and is passed once, so that the probe is hit
    late.
    """
    arguments = (BufferArgument(struct.pack("<2i", 5, 3)), IntegerArgument(2))
    verifier = Verifier(shipped("qsort.o"), "sort_i32", arguments, options=ExecOptions(), pool=pool)
    code = verifier.bench.arch.code
    once = [addr for addr in verifier.sites() if len(verifier.golden.passes[addr]) == 1]
    return verifier, max(
        addr for addr in once if isinstance(can_optimize(code, addr), OptimizePlan)
    )


def test_interrupt_points(benchmark: Any, figures: Figures, pool: UcPool) -> None:
    """One site and every boundary of the call.

    The time includes the probe's registration, optimization and removal.
    """
    verifier, addr = _verifier(pool)
    rates: dict[Method, list[float]] = {method: [] for method in _METHODS}

    def sweep(method: Method) -> None:
        runs, began = verifier.runs, perf_counter()
        failures = list(verifier.check_method(addr, method, Sweep("boundaries")))
        rates[method].append((verifier.runs - runs) / (perf_counter() - began))
        assert not failures, failures[0].explain

    def setup() -> None:
        for method in _METHODS[:-1]:
            sweep(method)

    benchmark.pedantic(
        lambda: sweep(Method.OPTIMIZED), setup=setup, rounds=20, warmup_rounds=2, iterations=1
    )
    what = f"interrupt points a second, {verifier.golden.instructions} instructions"
    for method in _METHODS:
        target = (">=", _POINTS_A_SECOND) if method is Method.OPTIMIZED else None
        figures.add(benchmark, f"{what}, {method}", median(rates[method]), "/s", target)
    verifier.bench.close()
