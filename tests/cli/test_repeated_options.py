"""Laws of options that are there twice, over all options of all commands."""

from __future__ import annotations

import argparse

import pytest

from engine.commands.cli import HELPS, load_command, main, parse
from engine.commands.parser import Parser

LISTS = {
    "--arg",
    "--probe",
    "--stub",
    "--with",
    "--without",
    "--resched",
    "--site",
    "--to",
    "--move",
}


def options_with_a_value() -> list[tuple[str, argparse.Action]]:
    """Each of them, with the name of its command."""
    found: list[tuple[str, argparse.Action]] = []
    for command in map(load_command, HELPS):
        parser = Parser(prog=command.name)
        command.add_options(parser)
        found += [
            (command.name, action)
            for action in parser._actions
            if action.option_strings and action.nargs != 0
        ]
    return found


ALL = options_with_a_value()
ONE_VALUE = [
    (command, action.option_strings[0])
    for command, action in ALL
    if not isinstance(action, argparse._AppendAction)
]


def test_the_options_that_may_be_there_twice_are_the_lists():
    given = {action.option_strings[0] for _, action in ALL}
    assert given - {option for _, option in ONE_VALUE} == LISTS
    assert len(ONE_VALUE) > 40


@pytest.mark.parametrize("first", ["1", "2", "x"])
def test_an_option_of_one_value_twice_is_one_line_and_exit_status_2(capsys, first):
    for command, option in ONE_VALUE:
        for words in (
            (option, first, option, "2"),
            (f"{option}={first}", option, "2"),
            (option, first, "--json", f"{option}={first}"),
        ):
            assert main([command, *words]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err == (
                f"optprobe: {option} is there twice; give it once; see optprobe {command} --help\n"
            )


def test_an_option_and_its_abbreviation_are_one_option(capsys):
    assert main(["run", "image.o", "--call", "work", "--cpus", "1", "--cpu", "2"]) == 2
    assert "there twice" in capsys.readouterr().err


def test_an_option_twice_in_what_found_a_schedule_is_refused_too(capsys):
    words = ["image.o", "--call", "work", "--probe", "work", "--calls", "1", "--calls", "2"]
    assert main(["replay", "v3:00000000:c0", "--", *words]) == 2
    assert capsys.readouterr().err == (
        "optprobe: --calls is there twice; give it once; see optprobe check --help\n"
    )


def test_each_command_line_is_read_anew():
    words = ["check", "image.o", "--call", "work", "--cpus", "2", "--preemptions", "1"]
    first, second = parse(words), parse(words)
    assert vars(first) == vars(second)
    assert (first.cpus, first.preemptions, first.preemptions_given) == ("2", "1", True)


def test_an_option_that_is_a_list_keeps_all_its_values_in_order():
    assert parse(["run", "image.o", "--call", "work", "--arg", "1", "--arg", "-2"]).arguments == [
        "1",
        "-2",
    ]
