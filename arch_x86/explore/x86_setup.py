"""x86-64, as :class:`engine.patching.setup_port.SetupPort` has it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from arch_x86.emu.machine import MachineConfig
from arch_x86.emu.uc import UcPool
from arch_x86.explore.open_experiment import open_experiment, require_boundary
from arch_x86.images import load_asm, load_image
from arch_x86.lab.calls import require_function
from arch_x86.lab.redzone import with_red_zone
from engine.image import Image, Symbol
from engine.kallsyms import Kallsyms
from engine.patching.experiment import Experiment
from engine.patching.exploration import Exploration
from engine.patching.orders import Orders
from engine.patching.request import Request
from engine.syntax.arguments import Argument

__all__ = ("X86Setup",)

_ROOT: Final = Path(__file__).resolve().parents[2]


class X86Setup:
    """Experiments on x86-64 machines.

    :param pool: emulator instances that machines of this process share; None: each has its own.
    """

    sources: Sequence[Path] = (_ROOT / "engine", _ROOT / "arch_x86")

    def __init__(self, pool: UcPool | None = None) -> None:
        self._pool = pool

    def load_image(self, file: str, libraries: Sequence[str], stubs: Collection[str]) -> Image:
        """The program in ``file``."""
        return load_image(file, libraries=libraries, stubs=list(stubs))

    def scenario_image(self, text: str) -> Image:
        """The program of a scenario: ``text`` is assembly, or the path of a file."""
        return _scenario_image(text)

    def with_red_zone(
        self, image: Image, request: Request, arguments: Sequence[Argument]
    ) -> tuple[Image, str | None]:
        """``image`` with or without a red zone, as ``request`` says."""
        if request.red_zone is None:
            return image, None
        config = MachineConfig(stubs=dict(request.stubs), check_alignment=request.check_alignment)
        call = (request.call, arguments)
        return with_red_zone(image, request.red_zone, [call], config, request.max_instructions)

    def function(self, image: Image, name: str) -> Symbol:
        """The function that is called ``name``, or is at that address."""
        return require_function(image, Kallsyms(image), name)

    def boundary(self, image: Image, addr: int, what: str) -> int:
        """``addr``, where an instruction of a function starts."""
        return require_boundary(image, addr, what)

    def open(self, experiment: Experiment, orders: Orders | None = None) -> Exploration:
        """A machine for ``experiment``, brought up."""
        return open_experiment(experiment, self._pool, orders=orders)

    def open_in_worker(self, experiment: Experiment, orders: Orders | None) -> Exploration:
        """The same in a process that was forked: it leaves the pool to the process that has made
        it.
        """
        return open_experiment(experiment, orders=orders)


@lru_cache(maxsize=64)
def _scenario_image(text: str) -> Image:
    """Assembly text, or the path of a file. Scenarios share few programs."""
    return load_asm(text, "scenario") if "\n" in text or ";" in text else load_image(text)
