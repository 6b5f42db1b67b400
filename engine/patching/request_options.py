"""The table of the options of experiments, and the three ways to read it.

For each option the table says which values it can have, and in which ways it can be asked for: by a
command or a function of :mod:`optprobe`, by the keywords of a scenario, or by a saved file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, Final

from engine.limits import BATCH_MAX, CALLS_MAX, CPUS_MAX, INSTRUCTIONS_MAX
from engine.patching.fetch_model import FETCH_MODELS
from engine.patching.option_kinds import Kind, List, Made, Named, Number, Stubs, Switch, Word
from engine.patching.saved_fields import SavedFields

__all__ = (
    "OPTIONS",
    "Option",
    "Way",
    "names_of",
    "options_to_json",
    "read_keywords",
    "read_options",
    "read_saved",
)


class Way(Flag):
    """These are the ways in which an experiment can be asked for."""

    CHECK = auto()
    """A user runs the command ``check``, or calls :func:`optprobe.check`."""
    EXPLORE = auto()
    """A user runs the command ``explore``, or calls :func:`optprobe.explore`.

    Both can change what a scenario says.
    """
    SCENARIO = auto()
    """A user writes the option as a keyword of the decorator ``scenario``."""
    PATCH = auto()
    """A user runs the command ``patch``, or calls :func:`optprobe.patch`."""
    FILE = auto()
    """A file that ``--save`` wrote has the option among its ``options``.

    A saved check has the options of ``check``, a saved patch those of ``patch``, and a saved
    scenario those of ``explore``.
    """


_CHECK, _EXPLORE, _SCENARIO, _FILE = Way.CHECK, Way.EXPLORE, Way.SCENARIO, Way.FILE
_PATCH = Way.PATCH


@dataclass(frozen=True, slots=True)
class Option:
    """An option is a row of the table.

    :ivar kind: the kind of values that the option has.
    :ivar ways: the ways in which the option can be asked for.
    :ivar may_lack: a saved file may lack the option, since files were saved before there was
        such an option; the default holds in that case.
    """

    kind: Kind
    ways: Way
    may_lack: bool = False


OPTIONS: Final[Mapping[str, Option]] = {
    "image": Option(Word(), _CHECK | _PATCH | _SCENARIO),
    "call": Option(Word(), _CHECK | _PATCH | _SCENARIO),
    "arguments": Option(List(str), _CHECK | _PATCH | _SCENARIO),
    "probes": Option(List(str), _CHECK),
    "libraries": Option(List(str), _CHECK | _PATCH),
    "calls": Option(Number(1, CALLS_MAX), _CHECK | _PATCH | _SCENARIO | _FILE),
    "cpus": Option(Number(1, CPUS_MAX), _CHECK | _EXPLORE | _PATCH | _SCENARIO | _FILE),
    "profile": Option(Word(), _CHECK | _EXPLORE | _FILE),
    "preempt": Option(Switch(), _CHECK | _EXPLORE | _PATCH | _SCENARIO | _FILE),
    "fetch": Option(
        Word(tuple(model.name for model in FETCH_MODELS)),
        _CHECK | _EXPLORE | _PATCH | _SCENARIO | _FILE,
        may_lack=True,
    ),
    "strict": Option(Switch(), _CHECK | _EXPLORE | _PATCH | _FILE, may_lack=True),
    "without": Option(List(str), _CHECK | _EXPLORE | _SCENARIO | _FILE),
    "resched": Option(List(str), _CHECK | _PATCH | _FILE),
    "stubs": Option(Stubs(), _CHECK | _PATCH | _FILE),
    "max_instructions": Option(Number(1, INSTRUCTIONS_MAX), _CHECK | _PATCH | _FILE),
    "red_zone": Option(Word(), _CHECK | _PATCH | _FILE, may_lack=True),
    "points": Option(Word(("locks", "stores")), _CHECK | _EXPLORE | _FILE, may_lack=True),
    "check_alignment": Option(Switch(), _CHECK | _EXPLORE | _PATCH | _FILE, may_lack=True),
    "protocol": Option(Named(), _CHECK | _EXPLORE | _FILE, may_lack=True),
    "reduce": Option(Switch(), _CHECK | _EXPLORE | _PATCH),
    "nmis": Option(Switch(), _SCENARIO),
    "interrupts": Option(Switch(), _SCENARIO),
    "asleep": Option(List(int, "offsets in the called function, such as (4,)"), _SCENARIO),
    "branches": Option(List(str, "texts, such as ('work+0x3:work+0x10',)"), _SCENARIO),
    "static_calls": Option(List(str, "texts, such as ('work+0x3:other',)"), _SCENARIO),
    "text_reserved": Option(Switch(), _SCENARIO),
    "batch": Option(Number(1, BATCH_MAX), _SCENARIO),
    "poke": Option(Made("what makes a poke protocol, such as its class"), _CHECK | _SCENARIO),
}
"""This table has the options by name, in the order in which a saved file has them.

No file has ``reduce``: a replay has to be able to take any choice, so it never reduces them.
"""
_LEFT_TO_SCENARIO: Final = ("cpus", "profile", "fetch")
"""These options are None, or null in a file, if the scenario decides their values."""


def names_of(way: Way) -> Iterator[str]:
    """Return the options that can be asked for in all ways of ``way``, in table order."""
    return (name for name, option in OPTIONS.items() if way in option.ways)


def read_options(way: Way, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that the command line or the Python interface gives.

    They are fields of :class:`engine.patching.request.Request`. Of the options that may be left
    to a scenario, those that are None are left out.

    :param way: the way in which the experiment is asked for.
    :param given: the options by name; other names in it are not looked at.
    :raises InputError: an option is wrong. The message calls it as the command line does.
    """
    return {
        name: OPTIONS[name].kind.read(name, given[name])
        for name in names_of(way)
        if name in given and not _left_to_scenario(way, name, given[name])
    }


def _left_to_scenario(way: Way, name: str, value: object) -> bool:
    return value is None and way is Way.EXPLORE and name in _LEFT_TO_SCENARIO


def read_keywords(given: Mapping[str, object]) -> dict[str, Any]:
    """Return the fields that the keywords of a scenario give, without a ``batch`` of None.

    :raises InputError: a keyword's value is of another type, or out of range.
    """
    return {
        name: OPTIONS[name].kind.keyword(name, given[name])
        for name in names_of(Way.SCENARIO)
        if not (name == "batch" and given[name] is None)
    }


def read_saved(way: Way, fields: SavedFields) -> dict[str, Any]:
    """Return the fields that the ``options`` of a saved file give.

    :param way: whether a check, a patch or a scenario was saved.
    :raises InputError: an option is missing, of another type, or out of range.
    """
    return {
        name: OPTIONS[name].kind.saved(name, fields)
        for name in names_of(way | Way.FILE)
        if not (OPTIONS[name].may_lack and not fields.has(name))
        and not (fields.is_null(name) and _left_to_scenario(way, name, None))
    }


def options_to_json(way: Way, asked: Mapping[str, Any]) -> dict[str, object]:
    """Return the ``options`` of a saved file, with null for each option that has no value.

    :param way: whether a check, a patch or a scenario is saved.
    """
    return {
        name: None if asked.get(name) is None else OPTIONS[name].kind.to_json(asked[name])
        for name in names_of(way | Way.FILE)
    }
