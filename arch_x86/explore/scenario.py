"""Scenarios: named cases in Python, for ``optprobe explore`` and ``matrix``.

@scenario(image=TEXT, call="work", arguments=("5",), calls=2, cpus=1)
def register(setup: Setup) -> None:
    \"\"\"A probe goes in and out.\"\"\"
    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from traceback import walk_tb
from typing import Final, TypeVar, cast

from arch_x86.emu.machine import CPUS_MAX
from arch_x86.explore.open_experiment import require_boundary
from arch_x86.images import load_image
from arch_x86.images.asmtext import load_asm
from arch_x86.lab.calls import require_function
from arch_x86.text.poke import PokeFactory
from engine.brief import count, described, shortened
from engine.core.profiles import Profile
from engine.errors import InputError, OptprobeError, error_text, printable
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.patching.control_code import ControlCode
from engine.patching.experiment import Experiment
from engine.patching.operations import Control
from engine.patching.user_code import source_of
from engine.syntax.arguments import parse_argument

__all__ = ("CALLS_MAX", "Control", "Scenario", "Setup", "load_scenarios", "scenario")

_NUMBER_NAME: Final = re.compile(r"^x(?=\d)")
"""A commit's number is no name in Python when it begins with a digit, so its scenario's function
has an x in front of it.
"""
Body = TypeVar("Body", bound=Callable[[Control], None])
CALLS_MAX: Final = 1_000
"""Most calls that a vCPU makes."""
PROFILES: Final = ("linux-2010", "linux-6.1", "next")


class Setup:
    """What a scenario's function is given."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.code: list[tuple[str, ControlCode]] = []

    def control(self, body: Body) -> Body:
        """A control task more, by the name of the function.

        It runs from the start for each control state, and the scenario's function with it: what
        that keeps is shared by its tasks. Keep nothing outside of the scenario's function.
        """
        if not callable(body):
            raise InputError(
                f"setup.control({printable(repr(body))}): a control task is a function of one"
                " argument, k"
            )
        self.code.append((getattr(body, "__name__", "task"), body))
        return body


@dataclass(frozen=True, slots=True)
class Scenario:
    """A named case. ``profiles``: where it makes sense; ``preemptions``: the bound that it is meant
    for; ``without``: steps that it leaves out, so that it shows what they are for; ``steps``: those
    that it fails without; ``batch``: of :class:`engine.core.profiles.Profile`; ``poke``: makes the
    poke protocol, None: the profile's.
    """

    name: str
    doc: str
    image: str
    call: str
    build: Callable[[Setup], None]
    arguments: tuple[str, ...] = ()
    calls: int = 2
    cpus: int = 1
    preempt: bool = False
    nmis: bool = False
    interrupts: bool = True
    asleep: tuple[int, ...] = ()
    preemptions: int = 2
    profiles: tuple[str, ...] = PROFILES
    without: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    batch: int | None = None
    source: str = field(default="", compare=False)
    poke: PokeFactory | None = None

    def __repr__(self) -> str:
        return described(
            self,
            shortened(self.name),
            f"{count(self.calls, 'call')} of {shortened(self.call)}",
            " ".join(self.profiles),
        )

    def case(
        self, profile: Profile, *, cpus: int | None = None, preempt: bool | None = None
    ) -> Experiment:
        """The case in ``profile``, steps left out as there."""
        if self.batch is not None:
            profile = replace(profile, batch=self.batch)
        image = _image(self.image)
        called = require_function(image, Kallsyms(image), self.call)
        return Experiment(
            image=image,
            call=self.call,
            arguments=tuple(parse_argument(text) for text in self.arguments),
            calls=self.calls,
            cpus=self.cpus if cpus is None else cpus,
            profile=profile,
            preempt=self.preempt if preempt is None else preempt,
            nmis=self.nmis,
            interrupts=self.interrupts,
            asleep=tuple(
                require_boundary(image, called.addr + offset, f"asleep={offset}")
                for offset in self.asleep
            ),
            poke=self.poke,
            code=partial(self._control_tasks, profile),
            tag=f"{self.name}:{self.source}",
        )

    def _control_tasks(self, profile: Profile) -> Sequence[tuple[str, ControlCode]]:
        """The control tasks, which share what the scenario's function keeps outside of theirs."""
        setup = Setup(profile)
        try:
            self.build(setup)
        except OptprobeError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(_said(error, self.build.__code__.co_filename)) from None
        return setup.code


@lru_cache(maxsize=64)
def _image(text: str) -> Image:
    """Assembly text, or the path of a file."""
    return load_asm(text, "scenario") if "\n" in text or ";" in text else load_image(text)


def scenario(
    *,
    image: str,
    call: str,
    arguments: Sequence[str] = (),
    calls: int = 2,
    cpus: int = 1,
    preempt: bool = False,
    nmis: bool = False,
    interrupts: bool = True,
    asleep: Sequence[int] = (),
    preemptions: int = 2,
    profiles: Sequence[str] = PROFILES,
    without: Sequence[str] = (),
    steps: Sequence[str] = (),
    batch: int | None = None,
    poke: PokeFactory | None = None,
) -> Callable[[Callable[[Setup], None]], Scenario]:
    """Makes a :class:`Scenario` of a function that places control tasks.

    :param image: assembly text, or a file's path.
    :param arguments: of the call, as on the command line.
    :param asleep: offsets in the called function in front of whose instruction a task falls asleep
        in the middle of its call, for ever.
    :param batch: most probes that a pass takes in each direction in linux-2010, most pokes that
        share their core syncs in ``next``: so that two or three probes are more than a batch. None:
        the kernel's 256.
    :param poke: makes the poke protocol, ``poke(text, plane, without)``; None: the profile's.
    :raises InputError: one of them is of another type, or out of range.
    """
    _check_words(image=image, call=call)
    for name, value in (
        ("arguments", arguments),
        ("profiles", profiles),
        ("without", without),
        ("steps", steps),
    ):
        _check_list(name, value, str, "strings, such as ('5',) or ()")
    _check_numbers(
        1,
        calls=(calls, CALLS_MAX),
        cpus=(cpus, CPUS_MAX),
        batch=(256 if batch is None else batch, 256),
    )
    _check_numbers(0, preemptions=(preemptions, 1_000))
    _check_switches(preempt=preempt, nmis=nmis, interrupts=interrupts)
    if not profiles or not set(profiles) <= set(PROFILES):
        raise InputError(
            f"profiles={printable(repr(profiles))}: give some of {', '.join(PROFILES)}"
        )
    if poke is not None and not callable(poke):
        raise InputError(
            f"poke={printable(repr(poke))}: give what makes a poke protocol, such as its class"
        )
    _check_list("asleep", asleep, int, "offsets in the called function, such as (4,)")

    def make(build: Callable[[Setup], None]) -> Scenario:
        doc = (build.__doc__ or "").strip()
        return Scenario(
            _NUMBER_NAME.sub("", build.__name__).replace("_", "-"),
            doc,
            image,
            call,
            build,
            tuple(arguments),
            calls,
            cpus,
            preempt,
            nmis,
            interrupts,
            tuple(asleep),
            preemptions,
            tuple(profiles),
            tuple(without),
            tuple(steps),
            batch,
            source_of(build),
            poke,
        )

    return make


def _check_words(**given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, str):
            raise InputError(f"{name}={printable(repr(value))}: give a string")


def _check_list(name: str, value: object, kind: type, what: str) -> None:
    if not isinstance(value, (list, tuple)) or any(
        type(one) is not kind for one in cast("Sequence[object]", value)
    ):
        raise InputError(f"{name}={printable(repr(cast('object', value)))}: give a tuple of {what}")


def _check_numbers(least: int, **given: tuple[object, int]) -> None:
    """Each is a number from ``least`` to the one that is given with it."""
    for name, (value, most) in given.items():
        if type(value) is not int or not least <= value <= most:
            raise InputError(
                f"{name}={printable(repr(value))}: give a whole number from {least} to {most:,}"
            )


def _check_switches(**given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, bool):
            raise InputError(f"{name}={printable(repr(value))}: give True or False")


def load_scenarios(spec: str) -> list[Scenario]:
    """Those of ``FILE.py``, or the one of ``FILE.py::NAME``, in the file's order.

    :raises InputError: no such file or scenario, or the file does not run.
    """
    name, _, wanted = spec.partition("::")
    path = Path(name)
    what = _no_file(path)
    if what is not None:
        raise InputError(
            f"{printable(name)}: {what}; give a Python file of scenarios, FILE.py or"
            " FILE.py::SCENARIO"
        )
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        raise InputError(_said(error, str(path))) from None
    found = [value for value in names.values() if isinstance(value, Scenario)]
    if not found:
        raise InputError(
            f"{printable(name)}: no scenario; decorate a function with optprobe.scenario"
        )
    if not wanted:
        return found
    chosen = [
        one
        for one in found
        if wanted.replace("_", "-") in (one.name, one.build.__name__.replace("_", "-"))
    ]
    if not chosen:
        raise InputError(
            f"{printable(name)}: no scenario {printable(wanted)}; there is"
            f" {', '.join(one.name for one in found)}"
        )
    return chosen


def _no_file(path: Path) -> str | None:
    """Why ``path`` is no regular file; None: it is one. Reading a FIFO would wait, and a device may
    never end.
    """
    try:
        if path.is_file():
            return None
        return (
            "a directory"
            if path.is_dir()
            else "not a regular file"
            if path.exists()
            else "no such file"
        )
    except (OSError, ValueError) as error:  # a name that is too long, say
        return error_text(error)


def _said(error: BaseException, file: str) -> str:
    """What a scenario's Python file has raised, with the line of that file where it did."""
    lines = [
        line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file
    ]
    where = f"{printable(file)}{f', line {lines[-1]}' if lines else ''}"
    if isinstance(error, InputError):
        return f"{where}: {error}"
    if isinstance(error, SystemExit):
        return f"{where}: it ends the program; a file of scenarios only defines them"
    if isinstance(error, OSError):
        return f"{where}: {error_text(error)}"
    return f"{where}: {type(error).__name__}: {printable(str(error))}"
