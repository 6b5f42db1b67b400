"""The loading of scenarios from Python files."""

from __future__ import annotations

from engine.errors import InputError, printable
from engine.patching.python_file import names_of_file
from engine.patching.scenario_record import Scenario

__all__ = ("load_scenarios",)


def load_scenarios(spec: str) -> list[Scenario]:
    """Return the scenarios that ``spec`` names, in the order in which the file has them.

    :param spec: ``FILE.py`` for all scenarios of a file, or ``FILE.py::NAME`` for one of them.
    :raises InputError: there is no such file or scenario, or the file raises an error when it
        is run.
    """
    name, _, wanted = spec.partition("::")
    right = "give a Python file of scenarios, FILE.py or FILE.py::SCENARIO"
    names = names_of_file(name, "", right)
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
