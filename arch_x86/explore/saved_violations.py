"""A violation in a file: image bytes, arguments, probes, options and schedule, all that a replay
needs.

Of a scenario it is the name of its Python file: a file that is replayed runs no code that its
reader has not put there. Its fingerprint tells when that has changed.
"""

from __future__ import annotations

import base64
import errno
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

from arch_x86.emu.machine import CPUS_MAX, MachineConfig
from arch_x86.explore.open_experiment import require_boundary
from arch_x86.explore.scenario import CALLS_MAX, Scenario, load_scenarios
from arch_x86.images import load_image
from arch_x86.lab.redzone import with_red_zone
from arch_x86.text.poke import PokeFactory
from engine import defaults
from engine.core.ablation import without
from engine.core.profiles import Profile, profile_named
from engine.errors import InputError, KprobeError, error_text, printable
from engine.image import Image
from engine.patching.experiment import Experiment
from engine.patching.probe_life import life_of_probes
from engine.report.terminal import count
from engine.search.schedule import Schedule, parse_schedule
from engine.syntax.arguments import parse_argument
from engine.syntax.kprobe_events import (
    MAXACTIVE_MAX,
    parse_spec,
    refuse_ambiguous,
    several_functions,
)

__all__ = (
    "INSTRUCTIONS_MAX",
    "CheckOptions",
    "SaveDirectory",
    "ScenarioOptions",
    "case_of",
    "load_saved",
    "scenario_case",
)

_FORMAT: Final = "optprobe-schedule"
_VERSION: Final = 2
INSTRUCTIONS_MAX: Final = 1 << 62
"""Highest bound on the instructions of a call."""
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """What ``check`` was asked, as text, and so what a file keeps."""

    image: str
    call: str
    arguments: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    calls: int = defaults.CALLS
    cpus: int = defaults.CPUS
    profile: str = defaults.PROFILE
    preempt: bool = False
    fetch: str = defaults.FETCH
    without: tuple[str, ...] = ()
    resched: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    stubs: tuple[tuple[str, int], ...] = ()
    max_instructions: int = defaults.MAX_INSTRUCTIONS
    red_zone: str = defaults.RED_ZONE
    points: str = defaults.POINTS
    check_alignment: bool = False
    reduce: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioOptions:
    """What ``explore`` was asked of one scenario. None: as the scenario says."""

    file: str
    name: str = ""
    profile: str | None = None
    preempt: bool = False
    cpus: int | None = None
    without: tuple[str, ...] = ()
    points: str = defaults.POINTS
    check_alignment: bool = False
    reduce: bool = True


def scenario_case(
    one: Scenario, options: ScenarioOptions, *, profile: Profile | None = None
) -> Experiment:
    """The case that scenario ``one`` is with these options.

    :param profile: takes the place of the shipped profile that they name.
    :raises InputError: one of them is wrong.
    """
    name = one.profiles[0] if options.profile is None else options.profile
    if name not in one.profiles:
        raise InputError(
            f"--profile {printable(name)}: {one.name} is a scenario of {', '.join(one.profiles)}"
        )
    preempt = options.preempt or one.preempt
    ablated = without(
        profile or profile_named(name), frozenset((*options.without, *one.without)), preempt=preempt
    )
    case = one.case(ablated, cpus=options.cpus, preempt=preempt)
    return replace(
        case,
        reduce=options.reduce,
        points=_points(options.points),
        check_alignment=options.check_alignment,
    )


def _points(text: str) -> str:
    """Where control tasks stop.

    :raises InputError: there is no such thing.
    """
    if text not in ("locks", "stores"):
        raise InputError(f"--points {printable(text)}: unknown; give locks or stores")
    return text


def case_of(
    options: CheckOptions,
    image: Image | None = None,
    *,
    profile: Profile | None = None,
    poke: PokeFactory | None = None,
) -> Experiment:
    """The case that the options describe.

    :param image: takes the place of the file that they name; ``profile``: of the profile, such as a
        custom one.
    :param poke: makes the poke protocol; None: the profile's.
    :raises InputError: one of them is wrong.
    """
    if options.fetch != "coherent":
        known = options.fetch in ("stale", "torn")
        why = "is not there yet; leave it out" if known else "unknown; give coherent"
        raise InputError(f"--fetch {printable(options.fetch)}: {why}")
    specs = [parse_spec(text) for text in options.probes]
    if not specs:
        raise InputError("check needs at least one --probe; write --probe SYM+0xOFF")
    for spec in specs:
        if spec.fetchargs:
            raise InputError(
                f"probe '{printable(spec.text)}': fetch arguments are not there yet; leave them out"
            )
        if (spec.maxactive or 0) > MAXACTIVE_MAX:
            shown = printable(spec.text)
            raise KprobeError(
                errno.E2BIG,
                f"probe '{shown}': {spec.maxactive} calls at once; a return probe follows"
                f" {MAXACTIVE_MAX} at most",
            )
    if image is None:
        image = load_image(
            options.image, libraries=options.libraries, stubs=[name for name, _ in options.stubs]
        )
    profile = profile or profile_named(options.profile)
    for spec in specs:
        refuse_ambiguous(spec, image, profile)
    arguments = tuple(parse_argument(text) for text in options.arguments)
    before, stubs = image.red_zone, dict(options.stubs)
    config = MachineConfig(stubs=stubs, check_alignment=options.check_alignment)
    image, taken = with_red_zone(
        image, options.red_zone, [(options.call, arguments)], config, options.max_instructions
    )
    if taken is not None:
        image = replace(image, warnings=(*image.warnings, taken))
    # not always: schedules of before are still good
    changed = f" red zone: {image.red_zone}" if image.red_zone is not before else ""
    return Experiment(
        image=image,
        call=options.call,
        arguments=arguments,
        calls=options.calls,
        cpus=options.cpus,
        profile=without(profile, frozenset(options.without), preempt=options.preempt),
        preempt=options.preempt,
        resched=tuple(_place(image, options.call, text) for text in options.resched),
        reduce=options.reduce,
        points=_points(options.points),
        limit=options.max_instructions,
        stubs=stubs,
        check_alignment=options.check_alignment,
        poke=poke,
        code=[("main", life_of_probes(specs))],
        tag=repr([spec.text for spec in specs]) + changed,
    )


def _place(image: Image, call: str, text: str) -> int:
    """The address of SYM+OFF of the called function."""
    spec = parse_spec(text)
    what = f"--resched {printable(text)}"
    if spec.is_return or spec.event is not None or spec.fetchargs:
        raise InputError(
            f"{what}: a probe's definition; give SYM+OFF, where a task is to call schedule()"
        )
    if spec.address is not None:
        return require_boundary(image, spec.address, what)
    several = several_functions(image, spec.symbol or "", spec.offset)
    if several:
        raise InputError(f"{what}: {several}")
    symbol = next((one for one in image.functions if one.name == spec.symbol), None)
    if symbol is None:
        raise InputError(
            f"{what}: {image.name} has no function {printable(spec.symbol or '')}; give one of its"
            f" own, such as {printable(call)}"
        )
    if symbol.size and spec.offset >= symbol.size:
        raise InputError(
            f"{what}: outside of {printable(symbol.name)}, which has {count(symbol.size, 'byte')};"
            " give where an instruction starts"
        )
    return require_boundary(image, symbol.addr + spec.offset, what)


class SaveDirectory:
    """The directory of ``--save``. It is made and tried out before a search begins, which may take
    a night.

    :raises InputError: it can't be made or written to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory) as trial:
                trial.write(b"violation")
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            where, reason = (
                printable(str(directory)),
                "a file is there" if isinstance(error, FileExistsError) else error_text(error),
            )
            raise InputError(
                f"--save {where}: {reason}; give a directory that can be written to, or one that"
                " can be made"
            ) from None

    def prepare(self, options: CheckOptions | ScenarioOptions) -> SavedCase:
        """What describes the case, with the bytes of all files that it names as they are now.

        :raises InputError: one of those files can't be read.
        """
        try:
            told = (
                _check_document(options)
                if isinstance(options, CheckOptions)
                else _scenario_document(options)
            )
        except OSError as error:
            raise InputError(
                f"--save: {printable(str(error.filename))}: {error_text(error)}; give files that"
                " stay"
            ) from None
        return SavedCase(self._directory, told)


@dataclass(frozen=True, slots=True)
class SavedCase:
    """A case that violations are found in, and where they are written to."""

    directory: Path
    told: Mapping[str, Any]

    def file(self, number: int, schedule: Schedule) -> Path:
        """Where violation ``number`` of the case belongs."""
        return self.directory / f"violation-{schedule.fingerprint}-{number}.json"

    def write(self, file: Path, schedule: Schedule, explain: str) -> None:
        """Write one violation to ``file``.

        :raises OSError: it can't be written.
        """
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "explain": explain,
            "schedule": str(schedule),
            **self.told,
        }
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _check_document(options: CheckOptions) -> dict[str, Any]:
    return {
        "image": _file(options.image),
        "libraries": [_file(name) for name in options.libraries],
        "call": options.call,
        "arguments": [_with_content(text) for text in options.arguments],
        "probes": list(options.probes),
        "options": {
            "calls": options.calls,
            "cpus": options.cpus,
            "profile": options.profile,
            "preempt": options.preempt,
            "fetch": options.fetch,
            "without": list(options.without),
            "resched": list(options.resched),
            "stubs": [list(stub) for stub in options.stubs],
            "max_instructions": options.max_instructions,
            "red_zone": options.red_zone,
            "points": options.points,
            "check_alignment": options.check_alignment,
        },
    }


def _scenario_document(options: ScenarioOptions) -> dict[str, Any]:
    return {
        "scenario": {"file": str(Path(options.file).resolve()), "name": options.name},
        "options": {
            "cpus": options.cpus,
            "profile": options.profile,
            "preempt": options.preempt,
            "without": list(options.without),
            "points": options.points,
            "check_alignment": options.check_alignment,
        },
    }


def _with_content(argument: str) -> str:
    """A buffer filled from a file, by what is in it now."""
    return (
        f"buf:{Path(argument[5:]).read_bytes().hex()}" if argument.startswith("buf:@") else argument
    )


def _file(name: str) -> dict[str, str]:
    path = Path(name)
    return {"name": path.name, "base64": base64.b64encode(path.read_bytes()).decode()}


def load_saved(name: str) -> tuple[Experiment, Schedule]:
    """What :meth:`SavedCase.write` wrote.

    :raises InputError: it is not such a file.
    """
    shown = printable(name)
    try:
        # reading a FIFO would wait, a device may never end
        if Path(name).exists() and not Path(name).is_file():
            raise InputError(f"{shown}: not a regular file; give a file that --save wrote")
        document = json.loads(Path(name).read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{shown}: nested too deeply; give a file that --save wrote") from None
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: no JSON, no UTF-8, or a null character in the name
        raise InputError(f"{shown}: {error_text(error)}; give a file that --save wrote") from None
    fields = _Fields(shown, document, "")
    if fields.take("format", str) != _FORMAT or fields.take("version", int) != _VERSION:
        raise InputError(f"{shown}: not a schedule of this version; give a file that --save wrote")
    schedule = parse_schedule(fields.take("schedule", str))
    if fields.has("scenario"):
        return _scenario(fields), schedule
    with tempfile.TemporaryDirectory() as room:
        return _case(fields, Path(room)), schedule


class _Fields:
    """A JSON object of a saved file, whose values are of the types that :meth:`SavedCase.write`
    gives them.

    :param where: the file's name, for messages; ``within``: the keys that lead to the object, each
        with a dot behind it.
    :raises InputError: it is no object; so do the methods when a value is missing or of another
        type.
    """

    def __init__(self, where: str, values: object, within: str) -> None:
        self._where = where
        self._within = within
        if not isinstance(values, dict):
            what = within.removesuffix(".") or "it"
            raise InputError(f"{where}: {what} is no JSON object; give a file that --save wrote")
        self._values = cast("dict[str, object]", values)

    def has(self, key: str) -> bool:
        """The object has that key."""
        return key in self._values

    def is_null(self, key: str) -> bool:
        """The object has that key, and its value is null."""
        return self.has(key) and self._values[key] is None

    def take(self, key: str, kind: type[_Value], default: _Value | None = None) -> _Value:
        """The value of ``key``; the default where there is none and it may be missing."""
        value = self._values.get(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.refuse(key)
        return value

    def number(self, key: str, most: int) -> int:
        """An integer from 1 to ``most``."""
        value = self.take(key, int)
        if not 1 <= value <= most:
            self.refuse(key)
        return value

    def list(self, key: str) -> list[object]:
        """An array."""
        return cast("list[object]", self.take(key, list))

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings."""
        values = self.list(key)
        if not all(isinstance(value, str) for value in values):
            self.refuse(key)
        return tuple(cast("list[str]", values))

    def below(self, key: str) -> _Fields:
        """The object that is the value of ``key``."""
        return _Fields(self._where, self._values.get(key), f"{self._within}{key}.")

    def each(self, key: str) -> list[_Fields]:
        """The objects of an array."""
        return [
            _Fields(self._where, value, f"{self._within}{key}.{number}.")
            for number, value in enumerate(self.list(key))
        ]

    def refuse(self, key: str) -> NoReturn:
        """Say that the value of ``key`` is none that a saved file has."""
        raise InputError(
            f"{self._where}: {self._within}{key} is missing, or not of the kind or size that it has"
            " there; give a file that --save wrote"
        )


def _scenario(fields: _Fields) -> Experiment:
    given, where = fields.below("options"), fields.below("scenario")
    options = ScenarioOptions(
        file=where.take("file", str),
        name=where.take("name", str),
        profile=None if given.is_null("profile") else given.take("profile", str),
        preempt=given.take("preempt", bool),
        cpus=None if given.is_null("cpus") else given.number("cpus", CPUS_MAX),
        without=given.texts("without"),
        points=given.take("points", str, "locks"),
        check_alignment=given.take("check_alignment", bool, default=False),
    )
    (one,) = load_scenarios(f"{options.file}::{options.name}")
    return scenario_case(one, options)


def _case(fields: _Fields, room: Path) -> Experiment:
    def unpack(entry: _Fields, place: str) -> str:
        try:
            path = room / place / (Path(entry.take("name", str)).name or "image")
            path.parent.mkdir()
            path.write_bytes(base64.b64decode(entry.take("base64", str), validate=True))
        except (OSError, ValueError):  # no base64, or a name that no file can have
            entry.refuse("base64")
        return str(path)

    given = fields.below("options")
    options = CheckOptions(
        image=unpack(fields.below("image"), "image"),
        call=fields.take("call", str),
        arguments=fields.texts("arguments"),
        probes=fields.texts("probes"),
        calls=given.number("calls", CALLS_MAX),
        cpus=given.number("cpus", CPUS_MAX),
        profile=given.take("profile", str),
        preempt=given.take("preempt", bool),
        fetch=given.take("fetch", str),
        without=given.texts("without"),
        resched=given.texts("resched"),
        libraries=tuple(
            unpack(entry, f"lib{i}") for i, entry in enumerate(fields.each("libraries"))
        ),
        stubs=_stubs(given),
        max_instructions=given.number("max_instructions", INSTRUCTIONS_MAX),
        red_zone=given.take("red_zone", str, "auto"),
        points=given.take("points", str, "locks"),
        check_alignment=given.take("check_alignment", bool, default=False),
    )
    return case_of(options)


def _stubs(given: _Fields) -> tuple[tuple[str, int], ...]:
    """Names and values, as pairs."""
    found: list[tuple[str, int]] = []
    for pair in given.list("stubs"):
        match pair:
            case [str(name), int(value)]:
                found.append((name, value))
            case _:
                given.refuse("stubs")
    return tuple(found)
