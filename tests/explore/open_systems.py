"""Systems that a test drives by hand: it opens one, follows a schedule, and looks at what can be
chosen there, at the state's name, and at what calls have left.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace

from arch_x86.explore.open_experiment import open_experiment
from engine.core.profiles import LINUX_2010
from engine.patching.experiment import Experiment
from engine.patching.oracles.call_results import CallResults
from engine.search.actor import actor_from
from engine.syntax.arguments import parse_argument
from tests.conftest import asm_image
from tests.explore.shared_functions import SharedFunction, probed


@contextmanager
def sharing(pool, text, **fields):
    """Tasks that make calls of ``text``, which share memory, and no probe."""
    case = replace(probed(SharedFunction("f", text), 0, **fields), code=[("main", lambda k: None)])
    with closing(open_experiment(case, pool)) as system:
        yield system


def follow(system, schedule: str) -> int:
    """The name of the state that ``schedule`` leads to: ``0*3 c1``, actors with the number of
    choices that each makes.
    """
    system.reset()
    go_on(system, schedule)
    return system.key()


def go_on(system, schedule: str) -> None:
    for word in schedule.split():
        actor, _, times = word.partition("*")
        for _ in range(int(times or "1")):
            assert actor in actors(system), (schedule, word)
            system.take(actor_from(actor))


def actors(system) -> set[str]:
    return {str(choice.actor) for choice in system.choices()}


def oracle(system, kind):
    return next(one for one in system.judge.oracles if isinstance(one, kind))


def left(system) -> dict[int, tuple[int, ...]]:
    """Of each task, RAX of each call that it has ended."""
    rax = {
        call: {name: outcome[0][0] for name, outcome in known.items()}
        for call, known in system.orders.calls.items()
    }
    return {
        task: tuple(rax[task, n][name] for n, name in enumerate(names))
        for task, names in oracle(system, CallResults).left.items()
    }


def two_states(system, *ways: tuple[str, str]) -> list[object]:
    """Two ways, each a schedule and one behind it, lead to states of two names; returns where they
    lead to: what can be chosen there, what calls have left, and what has gone wrong.
    """
    keys, ends = [], []
    for schedule, behind in ways:
        keys.append(follow(system, schedule))
        go_on(system, behind)
        ends.append(
            (
                actors(system),
                left(system) if system.orders else {},
                system.violation and system.violation.kind,
            )
        )
    assert keys[0] != keys[1]
    return ends


def nothing(k):
    """No probe."""


def in_and_out(k):
    p = k.kprobe("f", 1)
    k.register(p)
    k.unregister(p)


@contextmanager
def opened(pool, text, control=nothing, **fields):
    """Calls of ``text``, which share nothing, and the control task ``control``."""
    fields = {
        "calls": 1,
        "profile": LINUX_2010,
        "arguments": (parse_argument("5"),),
        "interrupts": False,
        "apart": False,
        **fields,
    }
    case = Experiment(image=asm_image(text), call="f", code=[("main", control)], tag="t", **fields)
    with closing(open_experiment(case, pool)) as system:
        yield system


BOOSTED = "nop; push rdi; pop rax; ret"


def waits_for_tasks(k):
    k.core.plane.point("before")
    k.core.plane.synchronize_rcu_tasks("test")


PREEMPT = {"preempt": True, "interrupts": True}
