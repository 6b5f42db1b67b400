"""What an architecture's package must offer so that experiments can be set up on it.

It offers images, places in them, and machines that are ready to run.
``arch_x86/explore/x86_setup.py`` implements this for x86-64.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.image import Image, Symbol
from engine.patching.experiment import Experiment
from engine.patching.exploration import Exploration
from engine.patching.orders import Orders
from engine.patching.patch_spec import PatchPlan, PatchSpec
from engine.patching.patched_sites import PatchedSite
from engine.patching.request import Request
from engine.syntax.arguments import Argument

__all__ = ("SetupPort",)


class SetupPort(Protocol):
    """This port sets up experiments.

    Each method raises InputError if what it is given is wrong.
    """

    @property
    def sources(self) -> Sequence[Path]:
        """Return the directories whose source files decide what a search finds."""
        ...

    def load_image(self, file: str, libraries: Sequence[str], stubs: Collection[str]) -> Image:
        """Return the program in ``file``.

        :param libraries: shared libraries to resolve from.
        :param stubs: the names of the imported functions that have a stub.
        """
        ...

    def scenario_image(self, text: str) -> Image:
        """Return the program of a scenario, whose ``text`` is assembly, or the path of a file."""
        ...

    def with_red_zone(
        self, image: Image, request: Request, arguments: Sequence[Argument]
    ) -> tuple[Image, str | None]:
        """Return ``image`` with or without a red zone, as ``request`` says.

        :returns: the image, and one line for the user if the red zone had to be found out,
            or None.
        """
        ...

    def function(self, image: Image, name: str) -> Symbol:
        """Return the function that is called ``name``, or that is at that address."""
        ...

    def boundary(self, image: Image, addr: int, what: str) -> int:
        """Return ``addr``, which has to be where an instruction of a function starts.

        :param what: the option that asks for it, for the message.
        """
        ...

    def poke_by(
        self, protocol: Any, without: Collection[str]
    ) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """Return what makes a poke protocol that writes text by a patch protocol.

        :param protocol: the patch protocol, its name, or a Python file that has it.
        :param without: the names of steps to leave out.
        :returns: what makes the poke protocol, and those of the names that are no steps of it.
        """
        ...

    def plan_patch(self, image: Image, spec: PatchSpec) -> PatchPlan:
        """Return what an exploration of the patch ``spec`` in ``image`` needs."""
        ...

    def static_branches(self, image: Image, branches: Sequence[str]) -> tuple[PatchedSite, ...]:
        """Return the static branches ``SYM+OFF:TARGET`` of ``image``."""
        ...

    def open(self, experiment: Experiment, orders: Orders | None = None) -> Exploration:
        """Return an exploration of ``experiment`` on a new machine, with no control task begun.

        :param orders: what its calls leave in any order without probes, where that is known
            already.
        """
        ...

    def open_in_worker(self, experiment: Experiment, orders: Orders | None) -> Exploration:
        """Return what :meth:`open` does, in a process that was forked from this object's own."""
        ...

    def static_calls(self, image: Image, calls: Sequence[str]) -> tuple[PatchedSite, ...]:
        """Return the static calls ``SYM+OFF:FUNCTION`` of ``image``."""
        ...
