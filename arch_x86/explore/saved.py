"""A violation in a file: image bytes, arguments, probes, options and schedule, all that a replay needs.

Of a scenario it is the name of its Python file: a file that is replayed runs no code that its reader has not put there. Its fingerprint
tells when that has changed.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from arch_x86.emu.images import load_image
from arch_x86.explore.case import Case
from arch_x86.explore.check import life_of_probes
from arch_x86.explore.scenario import Scenario, load_scenarios
from arch_x86.lab.redzone import with_red_zone
from engine.arguments import parse_argument, parse_number
from engine.errors import InputError, printable
from engine.explore.schedule import Schedule, parse_schedule
from engine.image import Image
from engine.kprobe_events import parse_spec, refuse_ambiguous, several_functions
from engine.profile import profile_named
from engine.steps import without

__all__ = ("CheckOptions", "ScenarioOptions", "case_of", "load_saved", "save", "scenario_case")

_FORMAT: Final = "optprobe-schedule"
_VERSION: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """What ``check`` was asked, as text, and so what a file keeps."""

    image: str
    call: str
    arguments: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    calls: int = 3
    cpus: int = 1
    profile: str = "linux-2010"
    preempt: bool = False
    fetch: str = "coherent"
    without: tuple[str, ...] = ()
    resched: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    stubs: tuple[tuple[str, int], ...] = ()
    max_instructions: int = 1_000_000
    red_zone: str = "auto"
    points: str = "locks"
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
    points: str = "locks"
    reduce: bool = True


def scenario_case(one: Scenario, options: ScenarioOptions) -> Case:
    """The case that scenario ``one`` is with these options.

    :raises InputError: one of them is wrong.
    """
    profile = one.profiles[0] if options.profile is None else options.profile
    if profile not in one.profiles:
        raise InputError(f"--profile {printable(profile)}: {one.name} is a scenario of {', '.join(one.profiles)}")
    preempt = options.preempt or one.preempt
    ablated = without(profile_named(profile), frozenset((*options.without, *one.without)), preempt=preempt)
    return replace(one.case(ablated, cpus=options.cpus, preempt=preempt), reduce=options.reduce, points=_points(options.points))


def _points(text: str) -> str:
    """Where control tasks stop.

    :raises InputError: there is no such thing.
    """
    if text not in ("locks", "stores"):
        raise InputError(f"--points {printable(text)}: unknown; give locks or stores")
    return text


def case_of(options: CheckOptions, image: Image | None = None) -> Case:
    """The case that the options describe.

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
            raise InputError(f"probe '{printable(spec.text)}': fetch arguments are not there yet; leave them out")
    if image is None:
        image = load_image(options.image, libraries=options.libraries, stubs=[name for name, _ in options.stubs])
    profile = profile_named(options.profile)
    for spec in specs:
        refuse_ambiguous(spec, image, profile)
    arguments = tuple(parse_argument(text) for text in options.arguments)
    before, stubs = image.red_zone, dict(options.stubs)
    image, taken = with_red_zone(image, options.red_zone, [(options.call, arguments)], stubs, options.max_instructions)
    if taken is not None:
        image = replace(image, warnings=(*image.warnings, taken))
    changed = f" red zone: {image.red_zone}" if image.red_zone is not before else ""  # not always: schedules of before are still good
    return Case(
        image=image,
        call=options.call,
        arguments=arguments,
        calls=options.calls,
        cpus=options.cpus,
        profile=without(profile, frozenset(options.without), preempt=options.preempt),
        preempt=options.preempt,
        resched=tuple(_place(image, text) for text in options.resched),
        reduce=options.reduce,
        points=_points(options.points),
        limit=options.max_instructions,
        stubs=stubs,
        code=[("main", life_of_probes(specs))],
        tag=repr([spec.text for spec in specs]) + changed,
    )


def _place(image: Image, text: str) -> int:
    """The address of SYM+OFF."""
    spec = parse_spec(text)
    if spec.address is not None:
        return spec.address
    several = several_functions(image, spec.symbol or "", spec.offset)
    if several:
        raise InputError(f"--resched {printable(text)}: {several}")
    symbol = next((one for one in image.functions if one.name == spec.symbol), None)
    if symbol is None:
        raise InputError(f"--resched {printable(text)}: {image.name} has no function {printable(spec.symbol or '')}")
    return symbol.addr + spec.offset


def save(directory: Path, number: int, options: CheckOptions | ScenarioOptions, schedule: Schedule, explain: str) -> Path:
    """Write one violation to ``directory``, which is made if need be. Returns the file.

    :raises InputError: it can't be written.
    """
    told = _check_document(options) if isinstance(options, CheckOptions) else _scenario_document(options)
    document = {"format": _FORMAT, "version": _VERSION, "explain": explain, "schedule": str(schedule), **told}
    file = directory / f"violation-{schedule.fingerprint}-{number}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--save {printable(str(directory))}: {error.strerror}; give a directory that can be written to") from None
    return file


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
        },
    }


def _with_content(argument: str) -> str:
    """A buffer filled from a file, by what is in it now."""
    return f"buf:{Path(argument[5:]).read_bytes().hex()}" if argument.startswith("buf:@") else argument


def _file(name: str) -> dict[str, str]:
    path = Path(name)
    return {"name": path.name, "base64": base64.b64encode(path.read_bytes()).decode()}


def load_saved(name: str) -> tuple[Case, Schedule]:
    """What :func:`save` wrote.

    :raises InputError: it is not such a file.
    """
    try:
        document = json.loads(Path(name).read_text(encoding="utf-8"))
        if document["format"] != _FORMAT or document["version"] != _VERSION:
            raise InputError(f"{printable(name)}: not a schedule of this version; give a file that --save wrote")
        schedule = parse_schedule(document["schedule"])
        if "scenario" in document:
            return _scenario(document), schedule
        with tempfile.TemporaryDirectory() as room:
            return _case(document, Path(room)), schedule
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{printable(name)}: {printable(str(error))}; give a file that --save wrote") from None


def _scenario(document: Mapping[str, Any]) -> Case:
    given, where = document["options"], document["scenario"]
    options = ScenarioOptions(
        file=str(where["file"]),
        name=str(where["name"]),
        profile=None if given["profile"] is None else str(given["profile"]),
        preempt=bool(given["preempt"]),
        cpus=None if given["cpus"] is None else parse_number(str(given["cpus"]), "cpus", least=1),
        without=_texts(given["without"]),
        points=str(given.get("points", "locks")),
    )
    (one,) = load_scenarios(f"{options.file}::{options.name}")
    return scenario_case(one, options)


def _case(document: Mapping[str, Any], room: Path) -> Case:
    def unpack(entry: Mapping[str, str], place: str) -> str:
        path = room / place / Path(entry["name"]).name
        path.parent.mkdir()
        path.write_bytes(base64.b64decode(entry["base64"], validate=True))
        return str(path)

    given = document["options"]
    options = CheckOptions(
        image=unpack(document["image"], "image"),
        call=str(document["call"]),
        arguments=_texts(document["arguments"]),
        probes=_texts(document["probes"]),
        calls=parse_number(str(given["calls"]), "calls", least=1),
        cpus=parse_number(str(given["cpus"]), "cpus", least=1),
        profile=str(given["profile"]),
        preempt=bool(given["preempt"]),
        fetch=str(given["fetch"]),
        without=_texts(given["without"]),
        resched=_texts(given["resched"]),
        libraries=tuple(unpack(entry, f"lib{i}") for i, entry in enumerate(document["libraries"])),
        stubs=tuple((str(name), int(value)) for name, value in given["stubs"]),
        max_instructions=parse_number(str(given["max_instructions"]), "max_instructions", least=1),
        red_zone=str(given.get("red_zone", "auto")),
        points=str(given.get("points", "locks")),
    )
    return case_of(options)


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
