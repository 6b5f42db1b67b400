"""The setting up of experiments on x86-64: :class:`engine.patching.setup_port.SetupPort`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from arch_x86.emu.machine import MachineConfig
from arch_x86.emu.uc import UcPool
from arch_x86.explore.open_experiment import open_experiment, require_boundary
from arch_x86.explore.patch_plan import plan_patch
from arch_x86.images import load_asm, load_image
from arch_x86.lab.calls import require_function
from arch_x86.lab.redzone import with_red_zone
from arch_x86.protocols.planning import static_branches, static_calls
from arch_x86.protocols.protocol import PatchProtocol
from arch_x86.protocols.protocol_names import other_steps, protocol_named
from arch_x86.protocols.protocol_poke import poke_factory
from arch_x86.text.poke import PokeFactory
from engine.image import Image, Symbol
from engine.kallsyms import Kallsyms
from engine.patching.experiment import Experiment
from engine.patching.exploration import Exploration
from engine.patching.orders import Orders
from engine.patching.patch_spec import PatchPlan, PatchSpec
from engine.patching.patched_sites import PatchedSite
from engine.patching.request import Request
from engine.syntax.arguments import Argument

__all__ = ("X86Setup",)

_ROOT: Final = Path(__file__).resolve().parents[2]


class X86Setup:
    """The setting up of experiments on x86-64 machines.

    :param pool: emulator instances that the machines of this process share; None: each machine
        makes its own.
    """

    sources: Sequence[Path] = (_ROOT / "engine", _ROOT / "arch_x86")

    def __init__(self, pool: UcPool | None = None) -> None:
        self._pool = pool

    def load_image(self, file: str, libraries: Sequence[str], stubs: Collection[str]) -> Image:
        """Load the program in ``file``.

        :param libraries: the shared libraries from which imported functions are resolved.
        :param stubs: the names of the imported functions that have a stub.
        """
        return load_image(file, libraries=libraries, stubs=list(stubs))

    def scenario_image(self, text: str) -> Image:
        """Load the program of a scenario.

        :param text: the program's assembly, or the path of its file.
        """
        return _scenario_image(text)

    def with_red_zone(
        self, image: Image, request: Request, arguments: Sequence[Argument]
    ) -> tuple[Image, str | None]:
        """Return ``image`` with or without a red zone, as ``request`` says.

        :returns: the image; and one line for the user where the red zone had to be found out, else
            None.
        """
        if request.red_zone is None:
            return image, None
        config = MachineConfig(stubs=dict(request.stubs), check_alignment=request.check_alignment)
        call = (request.call, arguments)
        return with_red_zone(image, request.red_zone, [call], config, request.max_instructions)

    def function(self, image: Image, name: str) -> Symbol:
        """Return the function that is called ``name``, or that is at the address ``name``.

        :raises InputError: there is no such function.
        """
        return require_function(image, Kallsyms(image), name)

    def boundary(self, image: Image, addr: int, what: str) -> int:
        """Return ``addr`` if an instruction of a function starts there.

        :param what: the option that asks for it, for the message.
        :raises InputError: no instruction of a function starts there.
        """
        return require_boundary(image, addr, what)

    def poke_by(
        self, protocol: PatchProtocol | str, without: Collection[str]
    ) -> tuple[PokeFactory, tuple[str, ...]]:
        """Return what makes a poke protocol that writes text by a patch protocol.

        :param protocol: the patch protocol, its name, or a Python file that has it.
        :param without: the names of steps to leave out.
        :returns: what makes the poke protocol, and those of the names that are no steps of it.
        """
        found = protocol_named(protocol)
        others = other_steps(found, without)
        return poke_factory(found, frozenset(without) - set(others)), others

    def plan_patch(self, image: Image, spec: PatchSpec) -> PatchPlan:
        """Return what an exploration of the patch ``spec`` in ``image`` needs."""
        return plan_patch(image, spec)

    def static_branches(self, image: Image, branches: Sequence[str]) -> tuple[PatchedSite, ...]:
        """Return the static branches ``SYM+OFF:TARGET`` of ``image``."""
        return static_branches(image, branches)

    def static_calls(self, image: Image, calls: Sequence[str]) -> tuple[PatchedSite, ...]:
        """Return the static calls ``SYM+OFF:FUNCTION`` of ``image``."""
        return static_calls(image, calls)

    def open(self, experiment: Experiment, orders: Orders | None = None) -> Exploration:
        """Bring up a machine for ``experiment``, with its calls placed and no control task started.

        :param orders: what its calls leave in any order without probes, where that is known
            already.
        """
        return open_experiment(experiment, self._pool, orders=orders)

    def open_in_worker(self, experiment: Experiment, orders: Orders | None) -> Exploration:
        """Bring up a machine for ``experiment`` in a process that was forked from this object's.

        The machine makes emulators of its own, since the pool belongs to the process that has made
        it.
        """
        return open_experiment(experiment, orders=orders)


@lru_cache(maxsize=64)
def _scenario_image(text: str) -> Image:
    """Load a program from its assembly, or from the path of its file.

    The images are cached, since scenarios share few programs.
    """
    return load_asm(text, "scenario") if "\n" in text or ";" in text else load_image(text)
