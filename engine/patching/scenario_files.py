"""The loading of scenarios from Python files."""

from __future__ import annotations

import runpy
from pathlib import Path

from engine.errors import InputError, error_text, printable
from engine.patching.error_in_file import error_in_file
from engine.patching.scenario_record import Scenario

__all__ = ("load_scenarios",)


def load_scenarios(spec: str) -> list[Scenario]:
    """Return the scenarios that ``spec`` names, in the order in which the file has them.

    :param spec: ``FILE.py`` for all scenarios of a file, or ``FILE.py::NAME`` for one of them.
    :raises InputError: there is no such file or scenario, or the file raises an error when it
        is run.
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
        raise InputError(error_in_file(error, str(path))) from None
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
    """Return why ``path`` is no regular file, or None if it is one.

    No other file is opened, since reading a FIFO would wait, and a device may never end.
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
    except (OSError, ValueError) as error:  # the name may be too long, for example
        return error_text(error)
