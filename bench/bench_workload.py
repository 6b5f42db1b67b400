"""The speed of a workload beside 1,000 armed probes that it does not hit, against plain Unicorn.

Both count instructions: the machine needs that for its virtual time. Unicorn calls a function of
its own before each instruction for it, and the machine counts by blocks. The target is at least
0.95 of plain Unicorn, by the executor in one piece and by ``Workbench.call``; and at least 0.6 of
plain Unicorn that does not count, in a call of 100 million instructions. Turns of 1,000
instructions, by which several vCPUs share the host, runs of both without counting, and the cost of
counting are measured without a target. Three instances of each run in turn.

A workload is either code of a compiler, with loads and stores (``sha256``), or a loop of register
arithmetic (``registers``), which shows most of what is not the loop itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from arch_x86.lab.bench import TURN, Workbench
from bench.bare import BareUnicorn
from bench.images import asm_image, shipped, with_cold_functions
from bench.race import Contender, pooled, race
from engine.kprobe import Kprobe, Method

if TYPE_CHECKING:
    from arch_x86.emu.uc import UcPool
    from bench.figures import Figures
    from engine.image import Image

_PROBES: Final = 1_000
_INSTANCES: Final = 3
_TARGET: Final = 0.95
_COUNTED_TARGET: Final = 0.6
_LONG: Final = 100_000_000
_LIMIT: Final = 1 << 40
_MESSAGE: Final = bytes(range(256)) * 128
_LOOP: Final = """
    xor eax, eax
    xor edx, edx
    mov ecx, {turns}
again:
    add rax, rcx
    xor rdx, rax
    rol rdx, 5
    lea rsi, [rdx + rax * 2]
    sub rsi, rcx
    dec ecx
    jnz again
    mov rax, rsi
    ret
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """A function, its buffers, and (for ``sha256``) the content of the last buffer afterwards."""

    image: Image
    symbol: str
    buffers: tuple[bytes, ...] = ()
    want: bytes = b""

    def arguments(self, at: list[int]) -> tuple[int, ...]:
        """The integer arguments of the call, with the buffers at the addresses ``at``."""
        return (at[0], len(self.buffers[0]), at[1]) if at else ()


@pytest.fixture(params=["sha256", "registers"])
def workload(request: pytest.FixtureRequest) -> Workload:
    """A workload of about two million instructions."""
    if request.param == "sha256":
        return Workload(
            shipped("sha256.o"), "sha256", (_MESSAGE, bytes(32)), hashlib.sha256(_MESSAGE).digest()
        )
    return Workload(asm_image(_LOOP.format(turns=300_000)), "f")


class Bare:
    """A workload in plain Unicorn."""

    def __init__(self, workload: Workload, *, counted: bool) -> None:
        self._uc = BareUnicorn(workload.image, counted=counted)
        addr = workload.image.by_name[workload.symbol].addr
        arguments = workload.arguments(
            [self._uc.allocate(len(content), content) for content in workload.buffers]
        )
        self.contender = Contender(lambda: self._uc.begin(addr, *arguments), self._uc.run)

    @property
    def result(self) -> int:
        """The value of RAX."""
        return self._uc.result


class Armed:
    """A workload in a machine with 1,000 breakpoints that it does not reach."""

    def __init__(self, workload: Workload, pool: UcPool) -> None:
        self.bench = Workbench(with_cold_functions(workload.image, _PROBES), pool=pool)
        self._workload = workload
        self._addr = workload.image.by_name[workload.symbol].addr
        self._at = [
            self.bench.machine.allocate(len(content), content) for content in workload.buffers
        ]
        kprobes = self.bench.kprobes
        kprobes.kprobes_allow_optimization = False
        probes = [Kprobe(symbol_name=f"cold{i}", pre_handler=_not_reached) for i in range(_PROBES)]
        kprobes.register_kprobes(probes)
        assert all(self.bench.method(probe) is not Method.OPTIMIZED for probe in probes)

    def begin(self) -> None:
        """Set up a call of the workload."""
        self.bench.start_call(0, self._addr, self._workload.arguments(self._at))

    def counted(self) -> Contender:
        """A contender that runs the call in one piece."""
        return Contender(self.begin, lambda: self.bench.executor.run_call(0, _LIMIT))

    def in_turns(self) -> Contender:
        """A contender that runs the call in turns of 1,000 instructions, as beside another vCPU."""

        def run() -> None:
            while self.bench.executor.running(0):
                self.bench.executor.advance(0, TURN)

        return Contender(self.begin, run)

    def called(self) -> Contender:
        """A contender that calls as users of the API do."""
        return Contender(
            _nothing,
            lambda: self.bench.call(self._workload.symbol, *self._workload.arguments(self._at)),
        )

    def uncounted(self) -> Contender:
        """A contender that does not count instructions."""
        return Contender(self.begin, lambda: self.bench.executor.run_uncounted(0))

    def instructions(self) -> int:
        """The number of instructions of one call."""
        cpu = self.bench.machine.cpus[0]
        before = cpu.retired
        self.begin()
        self.bench.executor.run_call(0, _LIMIT)
        return cpu.retired - before

    def assert_right(self, result: int) -> None:
        """The last call gave what plain Unicorn gave."""
        machine = self.bench.machine
        assert machine.tasks[0].fault is None
        assert machine.cpus[0].registers()[0] == result
        if self._at:
            assert machine.ram.read(self._at[-1], len(self._workload.want)) == self._workload.want


def _not_reached(_p: Kprobe, _regs: Any) -> int:
    raise AssertionError("a probe was hit")


def _nothing() -> None:
    """Prepare nothing: the call sets itself up."""


def test_armed_probes_that_are_not_hit(
    benchmark: Any, figures: Figures, pool: UcPool, workload: Workload
) -> None:
    """The call in one piece, in turns and by :meth:`Workbench.call`, against plain Unicorn.

    All of them count instructions.
    """
    name = workload.image.name
    bare = [Bare(workload, counted=True) for _ in range(_INSTANCES)]
    armed = [Armed(workload, pool) for _ in range(_INSTANCES)]
    plain = [one.contender for one in bare]
    turns, called, counted = (
        [kind(one) for one in armed] for kind in (Armed.in_turns, Armed.called, Armed.counted)
    )
    race(benchmark, *plain, *turns, *called, *counted, rounds=15)
    for one in armed:
        one.assert_right(bare[0].result)
    yardstick, piece = pooled(plain), pooled(counted)
    figures.add(
        benchmark,
        f"{name}: armed, counted / bare Unicorn, counted",
        piece.speed_over(yardstick),
        "x",
        (">=", _TARGET),
    )
    figures.add(
        benchmark,
        f"{name}: Workbench.call / bare Unicorn, counted",
        pooled(called).speed_over(yardstick),
        "x",
        (">=", _TARGET),
    )
    figures.add(
        benchmark,
        f"{name}: in turns of {TURN:,} / bare Unicorn, counted",
        pooled(turns).speed_over(yardstick),
        "x",
    )
    figures.add(
        benchmark,
        f"{name}: instructions a second, counted",
        armed[0].instructions() / piece.seconds / 1e6,
        "M/s",
    )
    for one in armed:
        one.bench.close()


def test_uncounted(benchmark: Any, figures: Figures, pool: UcPool, workload: Workload) -> None:
    """The call without counting, against plain Unicorn without counting; and the cost of counting.

    There are instances for each, since changing between the two drops translations.
    """
    name = workload.image.name
    bare = [Bare(workload, counted=False) for _ in range(_INSTANCES)]
    armed = [Armed(workload, pool) for _ in range(2 * _INSTANCES)]
    plain = [one.contender for one in bare]
    counted, uncounted = (
        [one.counted() for one in armed[:_INSTANCES]],
        [one.uncounted() for one in armed[_INSTANCES:]],
    )
    race(benchmark, *plain, *counted, *uncounted)
    for one in armed:
        one.assert_right(bare[0].result)
    figures.add(
        benchmark,
        f"{name}: armed, uncounted / bare Unicorn, uncounted",
        pooled(uncounted).speed_over(pooled(plain)),
        "x",
    )
    figures.add(
        benchmark,
        f"{name}: counted / uncounted",
        pooled(counted).speed_over(pooled(uncounted)),
        "x",
    )
    for one in armed:
        one.bench.close()


@pytest.mark.parametrize("name", ["sha256", "registers"])
def test_counted_against_uncounted(
    benchmark: Any, figures: Figures, pool: UcPool, name: str
) -> None:
    """A call of 100 million instructions, counted, against plain Unicorn, which does not count."""
    if name == "sha256":
        message = bytes(range(256)) * (_LONG // (256 * 63))
        workload = Workload(
            shipped("sha256.o"), name, (message, bytes(32)), hashlib.sha256(message).digest()
        )
    else:
        workload = Workload(asm_image(_LOOP.format(turns=_LONG // 7)), "f")
    bare = [Bare(workload, counted=False) for _ in range(_INSTANCES)]
    armed = [Armed(workload, pool) for _ in range(_INSTANCES)]
    plain, counted = [one.contender for one in bare], [one.counted() for one in armed]
    race(benchmark, *plain, *counted, rounds=5)
    for one in armed:
        one.assert_right(bare[0].result)
    figures.add(
        benchmark,
        f"{workload.image.name}: {armed[0].instructions():,} instructions, armed, counted / bare"
        " Unicorn, uncounted",
        pooled(counted).speed_over(pooled(plain)),
        "x",
        (">=", _COUNTED_TARGET),
    )
    for one in armed:
        one.bench.close()
