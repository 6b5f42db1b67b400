"""What an architecture's package must offer so that experiments can be set up on it: its images,
places in them, and machines that have been brought up.

``arch_x86/explore/x86_setup.py`` has the implementation for x86-64.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from engine.image import Image, Symbol
from engine.patching.experiment import Experiment
from engine.patching.exploration import Exploration
from engine.patching.orders import Orders
from engine.patching.request import Request
from engine.syntax.arguments import Argument

__all__ = ("SetupPort",)


class SetupPort(Protocol):
    """The setting up of experiments. Each method raises InputError where what it is given is
    wrong.
    """

    @property
    def sources(self) -> Sequence[Path]:
        """The directories whose source files decide what a search finds."""
        ...

    def load_image(self, file: str, libraries: Sequence[str], stubs: Collection[str]) -> Image:
        """The program in ``file``.

        :param libraries: shared libraries to resolve from.
        :param stubs: names of the imported functions that have a stub.
        """
        ...

    def scenario_image(self, text: str) -> Image:
        """The program of a scenario: ``text`` is assembly, or the path of a file."""
        ...

    def with_red_zone(
        self, image: Image, request: Request, arguments: Sequence[Argument]
    ) -> tuple[Image, str | None]:
        """``image`` with or without a red zone, as ``request`` says, and one line for the user
        where that was found out.
        """
        ...

    def function(self, image: Image, name: str) -> Symbol:
        """The function that is called ``name``, or is at that address."""
        ...

    def boundary(self, image: Image, addr: int, what: str) -> int:
        """``addr``, where an instruction of a function starts.

        :param what: the option that asks for it, for the message.
        """
        ...

    def open(self, experiment: Experiment, orders: Orders | None = None) -> Exploration:
        """A machine for ``experiment``, brought up, with the calls placed and the control tasks not
        started.

        :param orders: what its calls leave in any order without probes, where that is known
            already.
        """
        ...

    def open_in_worker(self, experiment: Experiment, orders: Orders | None) -> Exploration:
        """The same in a process that was forked from the one in which this object was made."""
        ...
