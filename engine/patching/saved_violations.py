"""The files of ``--save``: each has a violation, with all that a replay of it needs.

The file of a check or a patch has the image's bytes, arguments, options and the schedule, and the
probes, or which code is replaced and how. That of a scenario has only the name of the scenario's
Python file in place of the code, so that a replay runs no code that its user has not put there. The
fingerprint in the schedule tells when that Python file has changed.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from engine.errors import InputError, error_text, printable
from engine.patching.experiment import Experiment
from engine.patching.make_experiment import experiment_of_check, experiment_of_patch
from engine.patching.patch_spec import PatchSpec
from engine.patching.protocol_file import protocol_file
from engine.patching.request import Request
from engine.patching.request_options import Way, options_to_json, read_saved
from engine.patching.saved_fields import SavedFields
from engine.patching.scenario_files import load_scenarios
from engine.patching.setup_port import SetupPort
from engine.search.schedule import Schedule, parse_schedule

__all__ = ("SaveDirectory", "SavedExperiment", "load_saved")

_FORMAT: Final = "optprobe-schedule"
_VERSION: Final = 2


class SaveDirectory:
    """The directory of ``--save`` is made and tried out when this object is made.

    That is before a search begins, since a search may take a night.

    :raises InputError: the directory can't be made or written to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory) as trial:
                trial.write(b"violation")
        except (OSError, ValueError) as error:  # A null character in the name is a ValueError.
            where, reason = (
                printable(str(directory)),
                "a file is there" if isinstance(error, FileExistsError) else error_text(error),
            )
            raise InputError(
                f"--save {where}: {reason}; give a directory that can be written to, or one that"
                " can be made"
            ) from None

    def of_check(self, request: Request) -> SavedExperiment:
        """Return the experiment of ``check`` with the present bytes of all files that it names.

        :raises InputError: one of those files can't be read.
        """
        document = self._unless_gone(request)
        document["probes"] = list(request.probes)
        document["options"] = _options(Way.CHECK, request)
        return SavedExperiment(self._directory, document)

    def of_patch(self, request: Request, spec: PatchSpec) -> SavedExperiment:
        """Return the experiment of ``patch`` with the present bytes of all files that it names.

        Only the Python file of a patch protocol is not among them: it has to stay.

        :raises InputError: one of those files can't be read.
        """
        document = self._unless_gone(request)
        told = {one.name: getattr(spec, one.name) for one in fields(spec)}
        document["patch"] = dict(_with_whole_path(told))
        document["options"] = _options(Way.PATCH, request)
        return SavedExperiment(self._directory, document)

    def _unless_gone(self, request: Request) -> dict[str, Any]:
        """Return what is called in which program.

        :raises InputError: a file can't be read.
        """
        try:
            return _called(request)
        except OSError as error:
            raise InputError(
                f"--save: {printable(str(error.filename))}: {error_text(error)}; give files that"
                " stay"
            ) from None

    def of_scenario(self, file: str, name: str, asked: Mapping[str, Any]) -> SavedExperiment:
        """Return the experiment of the scenario ``name`` of ``file``.

        :param asked: the options that change what the scenario says.
        """
        told = {
            "scenario": {"file": str(Path(file).resolve()), "name": name},
            "options": options_to_json(Way.EXPLORE, _with_whole_path(asked)),
        }
        return SavedExperiment(self._directory, told)


@dataclass(frozen=True, slots=True)
class SavedExperiment:
    """This record has an experiment and the directory to which its violations are written.

    :ivar directory: the directory.
    :ivar told: the JSON that describes the experiment.
    """

    directory: Path
    told: Mapping[str, Any]

    def file(self, number: int, schedule: Schedule) -> Path:
        """Return the path of the file of violation ``number``."""
        return self.directory / f"violation-{schedule.fingerprint}-{number}.json"

    def write(self, file: Path, schedule: Schedule, explain: str) -> None:
        """Write one violation to ``file``.

        :raises OSError: the file can't be written.
        """
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "explain": explain,
            "schedule": str(schedule),
            **self.told,
        }
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _called(request: Request) -> dict[str, Any]:
    """Return the program, its libraries, and the call, as a file has them."""
    return {
        "image": _file(str(request.image)),
        "libraries": [_file(name) for name in request.libraries],
        "call": request.call,
        "arguments": [_with_content(text) for text in request.arguments],
    }


def _options(way: Way, request: Request) -> dict[str, object]:
    """Return the ``options`` of a file."""
    asked = {one.name: getattr(request, one.name) for one in fields(request)}
    return options_to_json(way, _with_whole_path(asked))


def _with_whole_path(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``asked`` with the whole path of the Python file that has its patch protocol."""
    word = asked.get("protocol")
    if word is None:
        return asked
    file, name = protocol_file(word)
    if file is None:
        return asked
    path = str(Path(file).resolve())
    return {**asked, "protocol": f"{path}:{name}" if name else path}


def _with_content(argument: str) -> str:
    """Return ``argument``; one that names a file has the file's present content instead."""
    return (
        f"buf:{Path(argument[5:]).read_bytes().hex()}" if argument.startswith("buf:@") else argument
    )


def _file(name: str) -> dict[str, str]:
    path = Path(name)
    return {"name": path.name, "base64": base64.b64encode(path.read_bytes()).decode()}


def load_saved(name: str, port: SetupPort) -> tuple[Experiment, Schedule]:
    """Return the experiment and the schedule that :meth:`SavedExperiment.write` wrote.

    :raises InputError: it is not such a file.
    """
    shown = printable(name)
    try:
        # No other file is opened, since reading a FIFO would wait, and a device may never end.
        if Path(name).exists() and not Path(name).is_file():
            raise InputError(f"{shown}: not a regular file; give a file that --save wrote")
        document = json.loads(Path(name).read_text(encoding="utf-8"))
    except RecursionError:
        raise InputError(f"{shown}: nested too deeply; give a file that --save wrote") from None
    except (
        OSError,
        ValueError,
    ) as error:  # Wrong JSON, wrong UTF-8 or a null character in the name is a ValueError.
        raise InputError(f"{shown}: {error_text(error)}; give a file that --save wrote") from None
    fields = SavedFields(shown, document, "")
    if fields.take("format", str) != _FORMAT or fields.take("version", int) != _VERSION:
        raise InputError(f"{shown}: not a schedule of this version; give a file that --save wrote")
    schedule = parse_schedule(fields.take("schedule", str))
    if fields.has("scenario"):
        return _scenario(fields, port), schedule
    with tempfile.TemporaryDirectory() as room:
        if fields.has("patch"):
            asked = _request(fields, Path(room), Way.PATCH)
            return experiment_of_patch(asked, _patch_spec(fields.below("patch")), port), schedule
        asked = _request(fields, Path(room), Way.CHECK, probes=fields.texts("probes"))
        return experiment_of_check(asked, port), schedule


def _scenario(fields: SavedFields, port: SetupPort) -> Experiment:
    """Make the experiment of a scenario, whose Python file still has to be there."""
    asked = read_saved(Way.EXPLORE, fields.below("options"))
    where = fields.below("scenario")
    (one,) = load_scenarios(f"{where.take('file', str)}::{where.take('name', str)}")
    return one.experiment(one.asked(asked), port)


def _patch_spec(fields: SavedFields) -> PatchSpec:
    """Read which code was replaced, by what, and how."""
    return PatchSpec(
        sites=fields.texts("sites"),
        codes=fields.texts("codes"),
        moves=fields.texts("moves"),
        lock=None if fields.is_null("lock") else fields.take("lock", str),
        back=fields.take("back", bool),
        protocol=fields.take("protocol", str),
        without=fields.texts("without"),
    )


def _request(fields: SavedFields, room: Path, way: Way, *, probes: tuple[str, ...] = ()) -> Request:
    """Read what was asked, and unpack its files into the directory ``room``.

    :param way: whether ``check`` or ``patch`` was asked.
    """

    def unpack(entry: SavedFields, place: str) -> str:
        try:
            path = room / place / (Path(entry.take("name", str)).name or "image")
            path.parent.mkdir()
            path.write_bytes(base64.b64decode(entry.take("base64", str), validate=True))
        except (OSError, ValueError):  # The text is no base64, or no file can have the name.
            entry.refuse("base64")
        return str(path)

    libraries = enumerate(fields.each("libraries"))
    return Request(
        image=unpack(fields.below("image"), "image"),
        libraries=tuple(unpack(entry, f"lib{number}") for number, entry in libraries),
        call=fields.take("call", str),
        arguments=fields.texts("arguments"),
        probes=probes,
        **read_saved(way, fields.below("options")),
    )
