"""What the functions of this package take, turned into the types that the rest works with.

They take paths and texts of the command line, or objects. A text means what it means on the command
line, and a message about it names the option as the command line does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

from arch_x86.images import load_image, parse_stub
from arch_x86.images.stub import check_stubs
from arch_x86.lab.run import ExecOptions
from engine.core.ablation import without as leave_out
from engine.core.profiles import Profile, profile_named
from engine.errors import InputError, printable
from engine.image import Image
from engine.limits import CPUS_MAX
from engine.syntax.arguments import (
    BUFFER_MAX,
    Argument,
    BufferArgument,
    DoubleArgument,
    IntegerArgument,
    parse_argument,
    parse_number,
)
from engine.syntax.kprobe_events import ProbeSpec, parse_spec

__all__ = (
    "CallArgument",
    "ImageLike",
    "Number",
    "ProbeLike",
    "ProfileLike",
    "Stubs",
    "argument_text",
    "as_argument",
    "as_arguments",
    "as_image",
    "as_profile",
    "as_specs",
    "as_stubs",
    "exec_options",
    "profile",
    "refuse_text",
    "warn_of",
)

ImageLike: TypeAlias = Image | str | Path
"""An image, or the file to load it from."""
ProfileLike: TypeAlias = Profile | str
"""A profile, or the name of a shipped one."""
CallArgument: TypeAlias = int | float | bytes | bytearray | memoryview | str | Argument
"""An argument of a call.

It is an integer, a double, the content of a fresh buffer whose address is passed, or a text as of
``--arg``.
"""
ProbeLike: TypeAlias = str | ProbeSpec
"""The place of a probe, as of ``--probe``."""
Stubs: TypeAlias = Mapping[str, int] | Sequence[str]
"""Functions that return a number: the number by the function's name, or texts as of ``--stub``."""
Number: TypeAlias = int | str
"""A number, or its text."""


def as_argument(value: CallArgument) -> Argument:
    """One argument of a call.

    :raises InputError: it does not fit, or is an empty or too large buffer.
    """
    match value:
        case IntegerArgument() | DoubleArgument() | BufferArgument():
            return value
        case str():
            return parse_argument(value)
        case float():
            return DoubleArgument(value)
        case int():
            return parse_argument(str(int(value)))
        case bytes() | bytearray() | memoryview():
            content = bytes(value)
    if not 1 <= len(content) <= BUFFER_MAX:
        raise InputError(f"a buffer of {len(content):,} bytes; give 1 to {BUFFER_MAX:,}")
    return BufferArgument(content)


def as_arguments(values: Sequence[CallArgument]) -> tuple[Argument, ...]:
    """The arguments of a call.

    :raises InputError: one of them is wrong, or they are no list of arguments.
    """
    refuse_text(values, "arguments", "['5', b'abc']")
    for value in cast("Sequence[object]", values):
        if not isinstance(value, CallArgument):
            raise InputError(
                f"argument {printable(repr(value))}: give an int, a float, bytes, or a text such as"
                " 'buf:+32'"
            )
    return tuple(map(as_argument, values))


def refuse_text(values: object, what: str, right: str) -> None:
    """Refuse a text where a list is meant, since a text is a sequence of texts, too.

    :param what: the name of the parameter, for the message.
    :param right: an example of what would be right, for the message.
    :raises InputError: ``values`` is a text, or no sequence.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InputError(f"{what}={printable(repr(values))}: give a list, such as {right}")


def argument_text(argument: Argument) -> str:
    """The argument as the command line has it."""
    match argument:
        case IntegerArgument(value):
            return str(value)
        case DoubleArgument(value):
            return f"f64:{value!r}"
        case BufferArgument(content):
            return f"buf:{content.hex()}"


def as_specs(probes: Sequence[ProbeLike]) -> tuple[ProbeSpec, ...]:
    """The definitions of probes.

    :raises InputError: one of them has none of the forms of ``kprobe_events``, or they are no list.
    """
    refuse_text(probes, "probes", "['p:hot work+0x4']")
    for one in cast("Sequence[object]", probes):
        if not isinstance(one, str | ProbeSpec):
            raise InputError(
                f"probe {printable(repr(one))}: give a text, such as 'p:hot work+0x4'; a Kprobe is"
                " for Machine.kprobes"
            )
    return tuple(parse_spec(one) if isinstance(one, str) else one for one in probes)


def as_stubs(stubs: Stubs) -> dict[str, int]:
    """The numbers that stubs return, by the function's name.

    :raises InputError: a text is wrong, or a number does not fit 64 bits.
    """
    if isinstance(stubs, Mapping):
        return dict(parse_stub(f"{name}=ret:{number}") for name, number in stubs.items())
    refuse_text(stubs, "stubs", "['malloc=ret:0'] or {'malloc': 0}")
    return dict(map(parse_stub, stubs))


def as_profile(given: ProfileLike) -> Profile:
    """The profile, or the shipped one of that name.

    :raises InputError: no profile has that name.
    """
    return given if isinstance(given, Profile) else profile_named(given)


def profile(base: ProfileLike, *, without: Sequence[str] = (), **changes: Any) -> Profile:
    """A profile of your own: ``base`` with other fields, or with safety steps left out.

    It keeps its name, which tells what each safety step means in it, unless ``name`` is among the
    changes. Then no step can be left out.

    :param without: names of safety steps and mends to leave out, as of ``--without``.
    :param changes: fields of :class:`engine.core.profiles.Profile`, such as ``batch=2``.
    :raises InputError: there is no such profile, step or field, or a field that is true or false is
        given something else.
    """
    found = as_profile(base)
    refuse_text(without, "without", "['free-wait']")
    if without:
        found = leave_out(found, frozenset(without), preempt=found.preemption)
    known = {one.name for one in fields(found)} - {"without"}
    for name, value in changes.items():
        if name not in known:
            raise InputError(
                f"{printable(name)}: no field of a profile; there is {', '.join(sorted(known))}"
            )
        if isinstance(getattr(found, name), bool) and not isinstance(value, bool):
            raise InputError(f"{name}={printable(repr(value))}: give True or False")
    return replace(found, **changes)


def as_image(
    image: ImageLike,
    *,
    libraries: Sequence[str | Path] = (),
    stubs: Mapping[str, int] | None = None,
    executes: bool = True,
) -> Image:
    """The image, loaded if it is a file.

    What is assumed of a file is told by a :class:`UserWarning`; an image that is loaded already has
    ``warnings``.

    :param executes: whether the image will be executed, or only looked at.
    :raises InputError: the file can't be loaded, a stub would never be called, or there are
        libraries for an image that is loaded already.
    """
    names = [] if stubs is None else list(stubs)
    if not isinstance(image, Image):
        loaded = load_image(image, libraries=libraries, stubs=names, executes=executes)
        warn_of(loaded, *loaded.warnings)
        return loaded
    if libraries:
        raise InputError(
            "libraries=: the image is loaded already; give its libraries to load_image()"
        )
    check_stubs(image, names)
    return image


def warn_of(image: Image, *lines: str) -> None:
    """Tell the user what is assumed of ``image``, one warning a line."""
    for line in lines:
        warnings.warn(f"{image.name}: {line}", stacklevel=4)


def exec_options(
    given: ProfileLike, cpus: Number, max_instructions: Number, stubs: Stubs, check_alignment: bool
) -> ExecOptions:
    """The options that everything has which executes code.

    :raises InputError: one of them is wrong.
    """
    return ExecOptions(
        profile=as_profile(given),
        cpus=parse_number(str(cpus), "--cpus", least=1, most=CPUS_MAX),
        max_instructions=parse_number(
            str(max_instructions), "--max-instructions", least=1, most=1 << 62
        ),
        stubs=as_stubs(stubs),
        check_alignment=check_alignment,
    )
