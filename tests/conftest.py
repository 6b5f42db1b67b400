"""What all tests share: emulator instances, images from assembly text, Hypothesis profiles."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    # This is for the packages workloads and tests. It is appended, so that an installed wheel's
    # packages come first.
    sys.path.append(str(ROOT))

from arch_x86.emu.execute import Executor  # noqa: E402
from arch_x86.emu.machine import Machine, MachineConfig, new_pool  # noqa: E402
from arch_x86.isa.assemble import assemble  # noqa: E402
from arch_x86.lab.bench import Workbench  # noqa: E402
from engine.image import Image, Segment, Symbol  # noqa: E402

settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "nightly", parent=settings.get_profile("ci"), derandomize=False, max_examples=5000
)
settings.load_profile("ci")

BASE = 0x1000_0000


@pytest.fixture(scope="session")
def pool():
    """Emulator instances, whose private offsets are measured once a process."""
    return new_pool()


def asm_image(*functions: str, base: int = BASE, name: str = "asm", **fields: object) -> Image:
    """An image of the functions f, g, h, ..., each given as Intel-syntax assembly.

    Each begins on a 256-byte boundary, and int3 stands between them.
    """
    code = b""
    symbols: list[Symbol] = []
    for label, text in zip("fghijk", functions, strict=False):
        code = code.ljust(-(-len(code) // 256) * 256, b"\xcc")
        body = assemble(text, base + len(code))
        symbols.append(Symbol(label, base + len(code), len(body)))
        code += body
    parts = {"symbols": tuple(symbols), **fields}
    return Image(name=name, segments=(Segment(base, code, len(code)),), **parts)  # type: ignore[arg-type]


class Rig:
    """A machine without probes, and its executor."""

    def __init__(
        self, image: Image, pool, cpus: int = 1, config: MachineConfig | None = None
    ) -> None:
        self.machine = Machine(image, cpus=cpus, pool=pool, config=config)
        self.executor = Executor(self.machine)

    def begin(self, *integers: int, cpu: int = 0, function: str = "f") -> None:
        self.executor.begin_call(cpu, self.machine.image.by_name[function].addr, integers)

    def call(
        self, *integers: int, cpu: int = 0, function: str = "f", limit: int = 1_000_000, plan=None
    ):
        """Run a call to its end, and return its fault or else RAX."""
        self.begin(*integers, cpu=cpu, function=function)
        fault = self.executor.run_call(cpu, limit, plan)
        return fault if fault is not None else self.rax(cpu)

    def rax(self, cpu: int = 0) -> int:
        return self.machine.cpus[cpu].registers()[0]


@pytest.fixture
def rig(pool):
    """``rig(text, ...)`` makes a machine that runs assembly functions; it is closed at the end."""
    made: list[Rig] = []

    def make(
        *functions: str, cpus: int = 1, config: MachineConfig | None = None, **fields: object
    ) -> Rig:
        made.append(Rig(asm_image(*functions, **fields), pool, cpus, config))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()


@pytest.fixture
def workbench(pool):
    """``workbench(text, ..., cpus=1)`` makes a machine with a kprobes core, closed at the end."""
    made: list[Workbench] = []

    def make(
        *functions: str, cpus: int = 1, image: Image | None = None, **fields: object
    ) -> Workbench:
        made.append(Workbench(image or asm_image(*functions, **fields), cpus=cpus, pool=pool))
        return made[-1]

    yield make
    for one in made:
        one.close()
