"""An oracle of a user's own: a class that is given to an experiment. The project stays as it is."""

from __future__ import annotations

import pytest

from engine.core.profiles import LINUX_2010
from engine.patching.experiment import Experiment
from engine.patching.oracles.oracle import Oracle
from engine.patching.passes import Seen
from engine.patching.search_options import Search
from engine.search.explorable import Violation, ViolationKind
from engine.syntax.arguments import parse_argument
from tests.conftest import asm_image
from tests.explore.experiments import check, replay_experiment


class OnceACall(Oracle):
    """A probe's pre_handler runs once in a call at the most. What has run is part of the explored
    state.
    """

    def __init__(self, now):
        super().__init__(now)
        self.ran: tuple[tuple[int, int], ...] = ()

    def reset(self):
        self.ran = ()

    def save(self):
        return self.ran

    def restore(self, saved):
        self.ran = saved

    def key(self):
        return self.ran

    def handler_ran(self, vcpu, seen, probe):
        if seen is not Seen.HIT:
            return None
        if (vcpu.task, probe) in self.ran:
            return Violation(
                ViolationKind.EXTRA_HIT, vcpu.index, None, f"probe {probe} is hit twice in one call"
            )
        self.ran = tuple(sorted({*self.ran, (vcpu.task, probe)}))
        return None

    def call_ended(self, vcpu, outcome):
        self.ran = tuple(one for one in self.ran if one[0] != vcpu.task)


def in_and_out(k):
    p = k.kprobe("f", 2)
    k.register(p)
    k.unregister(p)


@pytest.mark.parametrize(
    ("code", "hits"),
    [("mov eax, edi; inc eax; ret", 1), ("mov eax, edi; again: dec eax; jnz again; ret", 2)],
)
def test_an_oracle_of_ones_own_is_asked_and_its_violation_replays(pool, code, hits):
    image, arguments = asm_image(code), (parse_argument("2"),)
    experiment = Experiment(
        image=image,
        call="f",
        arguments=arguments,
        calls=2,
        profile=LINUX_2010,
        code=[("main", in_and_out)],
        tag="t",
        oracles=(OnceACall,),
    )
    result = check(experiment, Search(preemptions=1), pool=pool)
    assert [one.violation.explain for one in result.violations] == [
        "probe 0 is hit twice in one call"
    ] * (hits - 1)
    for one in result.violations:
        assert replay_experiment(experiment, one.schedule, pool=pool)[0] == one.violation
