"""Whatever way an experiment is asked for, it is read by one table into one record: the same
options make the same experiment, and the same schedules are its own.
"""

from __future__ import annotations

import inspect
import json
import re
import warnings
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import optprobe
from arch_x86.explore.x86_setup import X86Setup
from engine import defaults
from engine.commands.cli import parse
from engine.commands.patching_runs import patch_request, patch_spec
from engine.commands.searching import check_request, options_given
from engine.patching.conditions import Conditions, conditions_of
from engine.patching.experiment import Experiment, fingerprint
from engine.patching.make_experiment import experiment_of_check, experiment_of_patch
from engine.patching.request import Request
from engine.patching.request_options import OPTIONS, Way, names_of, options_to_json, read_options
from engine.patching.saved_violations import SaveDirectory, load_saved
from engine.patching.scenario_files import load_scenarios
from engine.search.schedule import Schedule
from optprobe import searches
from tests.images.elf_builder import FUNC, Object

PORT = X86Setup()
CODE = bytes.fromhex("89f8 ffc0 4883ec08 e800000000 4883c408 c3")
"""mov eax, edi; inc eax; sub rsp, 8; call helper; add rsp, 8; ret"""
MADE_IN_PYTHON_ONLY = {"apart", "restores", "oracles"}
"""Conditions of experiments that the project makes to look at itself."""
CHECKED = {
    "arguments": (["--arg", "7"], {"arguments": [7]}),
    "probes": (["--probe", "r work"], {"probes": ["work+0x2", "r work"]}),
    "calls": (["--calls", "2"], {"calls": 2}),
    "cpus": (["--cpus", "2"], {"cpus": 2}),
    "profile": (["--profile", "linux-6.1"], {"profile": "linux-6.1"}),
    "preempt": (["--preempt"], {"preempt": True}),
    "fetch": (["--fetch", "torn"], {"fetch": "torn"}),
    "strict": (["--strict"], {"strict": True}),
    "without": (["--without", "free-wait"], {"without": ["free-wait"]}),
    "resched": (["--resched", "work+0x2"], {"resched": ["work+0x2"]}),
    "stubs": (["--stub", "helper=ret:8"], {"stubs": {"helper": 8}}),
    "max_instructions": (["--max-instructions", "0x500"], {"max_instructions": 0x500}),
    "red_zone": (["--red-zone", "yes"], {"red_zone": "yes"}),
    "points": (["--points", "stores"], {"points": "stores"}),
    "check_alignment": (["--check-alignment"], {"check_alignment": True}),
    "protocol": (["--protocol", "one_store"], {"protocol": "one_store"}),
    "reduce": (["--no-reduction"], {"reduction": False}),
}
"""Of each option of ``check`` that can have another value here: words of the command line, and
what Python is given.
"""
EXPLORED = {
    name: CHECKED[name]
    for name in (
        "cpus",
        "profile",
        "preempt",
        "fetch",
        "strict",
        "without",
        "points",
        "check_alignment",
        "protocol",
        "reduce",
    )
}
PATCHED = {
    **{
        name: CHECKED[name]
        for name in (
            "arguments",
            "calls",
            "cpus",
            "preempt",
            "resched",
            "stubs",
            "max_instructions",
            "red_zone",
            "check_alignment",
            "reduce",
        )
    },
    "calls": (["--calls", "3"], {"calls": 3}),
    "fetch": (["--fetch", "torn"], {"fetch": "torn"}),
    "strict": (["--strict"], {"strict": True}),
    "back": (["--back"], {"back": True}),
    "protocol": (["--protocol", "one_store"], {"protocol": "one_store"}),
    "without": (["--without", "sync-1"], {"without": ["sync-1"]}),
    "moves": (["--move", "work+0x8:work"], {"moves": ["work+0x8:work"]}),
    "lock": (["--lock", "work..work+0x2"], {"lock": "work..work+0x2"}),
    "user": (["--user", "work..work+0x2"], {"user": "work..work+0x2"}),
}
SAID = {
    "arguments": ("7",),
    "calls": 5,
    "cpus": 2,
    "preempt": True,
    "nmis": True,
    "interrupts": False,
    "asleep": (2,),
    "fetch": "unit:8",
    "without": ("free-wait",),
    "batch": 2,
    "poke": optprobe.StopMachinePoke,
}
"""What a scenario can say otherwise than it is usual."""


@pytest.fixture
def image(tmp_path) -> str:
    built = Object()
    text = built.text(CODE)
    built.symbol("work", text, 0, len(CODE), FUNC)
    built.rela(text, CODE.index(b"\xe8") + 1, 4, built.symbol("helper"), -4)
    (tmp_path / "work.o").write_bytes(built.build())
    return str(tmp_path / "work.o")


@pytest.fixture
def scenario_file(tmp_path, image) -> str:
    file = tmp_path / "scenarios.py"
    file.write_text(
        f"""import optprobe
@optprobe.scenario(image={image!r}, call="work", arguments=("5",))
def one(setup):
    @setup.control
    def main(k):
        k.settle()
"""
    )
    return str(file)


@pytest.fixture
def searched(monkeypatch) -> list[Experiment]:
    """The experiments that Python searches, of which none is searched here."""
    found: list[Experiment] = []

    def instead(experiment, *_words, **_options):
        found.append(experiment)
        return SimpleNamespace(interrupted=False)

    monkeypatch.setattr(searches, "check_experiment", instead)
    return found


def told(one: Experiment) -> tuple[object, ...]:
    """Everything that was asked of the experiment."""
    known = {**conditions_of(one), "stubs": dict(one.stubs)}
    return (
        known,
        one.profile.batch,
        one.call,
        one.arguments,
        one.resched,
        one.asleep,
        one.image.red_zone,
        fingerprint(one),
    )


def test_every_field_of_the_record_is_an_option_and_the_other_way_round():
    assert {one.name for one in fields(Request)} - MADE_IN_PYTHON_ONLY == set(OPTIONS)
    assert {one.name for one in fields(Conditions)} <= {one.name for one in fields(Request)}


def test_each_way_has_a_word_for_each_of_its_options():
    words = {"probes": "probe", "stubs": "stub", "reduce": "no_reduction"}
    checked = vars(parse(["check", "image.o", "--call", "work"]))
    explored = vars(parse(["explore", "scenarios.py"]))
    assert {words.get(name, name) for name in names_of(Way.CHECK)} - set(checked) == {"poke"}
    assert {words.get(name, name) for name in names_of(Way.EXPLORE)} <= set(explored)
    patched = vars(parse(["patch", "image.o", "--call", "work"]))
    assert {words.get(name, name) for name in names_of(Way.PATCH)} <= set(patched)
    in_python = {"reduce": "reduction"}
    ways = (
        (optprobe.check, Way.CHECK),
        (optprobe.explore, Way.EXPLORE),
        (optprobe.patch, Way.PATCH),
    )
    for function, way in ways:
        parameters = set(inspect.signature(function).parameters)
        assert {in_python.get(name, name) for name in names_of(way)} <= parameters
    said = set(inspect.signature(optprobe.scenario).parameters)
    assert said - set(names_of(Way.SCENARIO)) == {"preemptions", "profiles", "steps"}
    assert set(names_of(Way.SCENARIO)) <= said


@pytest.mark.parametrize("name", [None, *CHECKED])
def test_an_option_of_check_makes_one_experiment_whichever_way_it_is_asked_for(
    tmp_path, image, searched, name
):
    words, python = ([], {}) if name is None else CHECKED[name]
    usual = [image, "--call", "work", "--probe", "work+0x2", "--stub", "helper=ret:7"]
    request = check_request(parse(["check", *usual, *words]))
    typed = experiment_of_check(request, PORT)
    in_python = {"call": "work", "probes": ["work+0x2"], "stubs": {"helper": 7}, **python}
    with warnings.catch_warnings(action="ignore"):
        optprobe.check(image, **in_python)
    saved = SaveDirectory(tmp_path / "found").of_check(request)
    schedule = Schedule(fingerprint(typed), ())
    saved.write(saved.file(0, schedule), schedule, "")
    again, _ = load_saved(str(saved.file(0, schedule)), PORT)
    if name == "reduce":  # a replay can take any choice
        again = replace(again, reduce=False)
    assert told(typed) == told(searched[0]) == told(again)
    if name is not None:
        plain = experiment_of_check(check_request(parse(["check", *usual])), PORT)
        assert told(plain) != told(typed)


@pytest.mark.parametrize("name", [None, *EXPLORED])
def test_an_option_of_explore_makes_one_experiment_whichever_way_it_is_asked_for(
    tmp_path, scenario_file, searched, name
):
    words, python = ([], {}) if name is None else EXPLORED[name]
    (one,) = load_scenarios(scenario_file)
    given = parse(["explore", scenario_file, *words])
    asked = read_options(Way.EXPLORE, options_given(given))
    typed = one.experiment(one.asked(asked), PORT)
    optprobe.explore(scenario_file, **python)
    saved = SaveDirectory(tmp_path / "found").of_scenario(scenario_file, one.name, asked)
    schedule = Schedule(fingerprint(typed), ())
    saved.write(saved.file(0, schedule), schedule, "")
    again, _ = load_saved(str(saved.file(0, schedule)), PORT)
    if name == "reduce":
        again = replace(again, reduce=False)
    assert told(typed) == told(searched[0]) == told(again)
    assert (told(one.experiment(one.request, PORT)) == told(typed)) is (name is None)


@pytest.mark.parametrize("name", [None, *PATCHED])
def test_an_option_of_patch_makes_one_experiment_whichever_way_it_is_asked_for(
    image, searched, monkeypatch, name
):
    words, python = ([], {}) if name is None else PATCHED[name]
    usual = [image, "--call", "work", "--site", "work+0x8", "--to", "nop", "--stub", "helper=ret:7"]

    def experiment(words):
        given = parse(["patch", *usual, *words])
        return experiment_of_patch(patch_request(given), patch_spec(given), PORT)

    monkeypatch.setattr(searches, "patch_result", lambda *_words, **_options: None)
    in_python = {"call": "work", "sites": ["work+0x8"], "to": ["nop"], "stubs": {"helper": 7}}
    with warnings.catch_warnings(action="ignore"):
        optprobe.patch(image, **{**in_python, **python})
    assert told(experiment(words)) == told(searched[0])
    if name is not None:
        assert told(experiment([])) != told(experiment(words))


@pytest.mark.parametrize("name", SAID)
def test_what_a_scenario_says_is_in_its_experiment(image, name):
    def one(setup):
        setup.control(lambda k: k.settle())

    usual, other = (
        optprobe.scenario(image=image, call="work", **said)(one)
        for said in ({}, {name: SAID[name]})
    )
    experiment = other.experiment(other.request, PORT)
    assert told(usual.experiment(usual.request, PORT)) != told(experiment)
    known = conditions_of(experiment)
    assert known.get(name, SAID[name]) == SAID[name]


def test_the_page_has_the_options_of_a_saved_check_patch_and_scenario():
    page = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
    shown = re.findall(r'"options": (\{.*?\})\}', page, re.DOTALL)
    told = [json.loads(text) for text in shown]
    request = Request(image="", call="", max_instructions=defaults.MAX_INSTRUCTIONS)
    usual = {one.name: getattr(request, one.name) for one in fields(request)}
    asked = read_options(Way.EXPLORE, options_given(parse(["explore", "scenarios.py"])))
    assert told[0] == {**options_to_json(Way.CHECK, usual), "without": ["stop-machine"]}
    patch = options_to_json(Way.PATCH, {**usual, "calls": defaults.PATCH_CALLS})
    assert told[1] == {**patch, "fetch": "torn"}
    assert told[2] == options_to_json(Way.EXPLORE, asked)
    assert [list(one) for one in told] == [
        list(names_of(Way.CHECK | Way.FILE)),
        list(names_of(Way.PATCH | Way.FILE)),
        list(names_of(Way.EXPLORE | Way.FILE)),
    ]
