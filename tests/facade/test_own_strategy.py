"""A strategy of a user's own, which knows nothing of parts, processes or checkpoints."""

from __future__ import annotations

import pytest

import optprobe

CODE = "f: lea eax, [rdi + rdi*2]\n add eax, edi\n ret"
OPTIONS = {"call": "f", "arguments": [5], "probes": ["f"], "calls": 1}
BROKEN = {**OPTIONS, "without": ["stop-machine"]}


class Turns(optprobe.Strategy):
    """Everybody goes on for as many choices as the schedule's number says, and then another."""

    def __init__(self, last: int):
        self.last = last

    def begin(self, number):
        self.turn = number + 1
        self.made = 0
        return number < self.last

    def choose(self, choices):
        self.made += 1
        going = [one for one in choices if not one.actor.is_event]
        return going[-1 if self.made % self.turn == 0 else 0]


@pytest.fixture
def image():
    return optprobe.load_asm(CODE, "f.s")


def test_a_strategy_of_ones_own_decides_how_many_schedules_there_are(image):
    result = optprobe.check(image, **OPTIONS, strategy=Turns(40))
    assert (result.verdict, result.outcome.schedules) == ("nothing-found", 40)
    assert (
        optprobe.check(image, **OPTIONS, strategy=Turns(40), max_schedules=7).outcome.schedules == 7
    )


def test_a_strategy_of_ones_own_finds_what_is_wrong_alike_in_two_processes_and_after_a_kill(
    image, tmp_path
):
    found = optprobe.check(image, **BROKEN, strategy=Turns(1_000)).to_json()
    assert found["verdict"] == "violation"
    for again in ({"jobs": 2}, {"checkpoint": tmp_path}, {"checkpoint": tmp_path, "jobs": 2}):
        assert optprobe.check(image, **BROKEN, strategy=Turns(1_000), **again).to_json() == found
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_not_offered_cannot_be_chosen(image):
    strategy = Turns(1)
    strategy.choose = lambda choices: optprobe.Choice(choices[0].actor, 7)
    with pytest.raises(optprobe.InputError, match="was not offered"):
        optprobe.check(image, **OPTIONS, strategy=strategy)
