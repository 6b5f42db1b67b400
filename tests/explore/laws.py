"""What a search may never change: the set of outcomes of a case. Collected here by a search of its
own, so that laws can compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from arch_x86.emu.machine import new_pool
from arch_x86.emu.uc import UcPool
from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios.life import SCENARIOS
from arch_x86.explore.scenarios.load import LOAD
from engine.core.ablation import without
from engine.core.profiles import profile_named
from engine.patching.control_state import ControlState
from engine.patching.control_tree import ControlTree
from engine.patching.experiment import Experiment
from engine.patching.exploration import Exploration
from tests.explore.experiments import experiment_of

Outcome = tuple[Any, ...]


class TooLarge(Exception):
    """A law is for small cases."""


def outcomes(
    case: Experiment, pool: UcPool, *, bound: int, reduce: bool, states_max: int = 400_000
) -> frozenset[Outcome]:
    """Of every schedule of ``case`` within ``bound``: what it breaks, or the control state and the
    shared memory that it ends in.

    Depth first, over all choices; a state is left out where it was met before with as much of the
    bound left. ``reduce`` switches what the explorer merges, puts off and leaves out; without it
    every boundary and every step of a control task is a choice.
    """
    found = set[Outcome]()
    with closing(open_experiment(replace(case, reduce=reduce), pool)) as system:
        seen: dict[int, int] = {}
        stack = [
            (system.save(), choice.actor, bound - choice.cost) for choice in _within(system, bound)
        ]
        while stack:
            state, actor, left = stack.pop()
            system.restore(state)
            system.take(actor)
            choices = _within(system, left)
            if not choices:
                if system.violation is not None or not system.choices():
                    found.add(_outcome(system))
                continue
            key = system.key()
            if seen.get(key, -1) >= left:
                continue
            seen[key] = left
            if len(seen) > states_max:
                raise TooLarge
            here = system.save()
            stack += [(here, choice.actor, left - choice.cost) for choice in choices]
    return frozenset(found)


def _within(system: Exploration, left: int) -> list[Any]:
    return [choice for choice in system.choices() if choice.cost <= left]


def _outcome(system: Exploration) -> Outcome:
    """Whichever CPU it is on, and wherever buffers lie: of tasks that share nothing one stands for
    all.
    """
    violation = system.violation
    if violation is not None:
        return (
            violation.kind.value,
            re.sub(r"CPU \d|call \d|0x[0-9a-f]{6,}", "_", violation.explain),
        )
    return ("end", system.node.shared, system.node.lives)


def merged_states_differ(case: Experiment, pool: UcPool, *, nodes_max: int) -> list[str]:
    """Control states of ``case`` that were taken for one, though a next step from the one leads
    elsewhere than from the other.

    Control tasks alone, breadth first, ``nodes_max`` states at most; each state is gone on from by
    the way it was met first, and by the way it was met last.
    """
    with closing(open_experiment(case, pool)) as system:
        tree = system.tree
        other_ways = dict[int, tuple[int, ...]]()
        todo, known = [tree.root], {tree.root.number}
        for node in todo:
            for task in node.tasks:
                following = tree.step(node, task).node
                if following.number not in known and len(known) < nodes_max:
                    known.add(following.number)
                    todo.append(following)
                elif following.path != (*node.path, task):
                    other_ways[following.number] = (*node.path, task)
        return [
            f"{node.at(task)} by {node.path} and by {way}"
            for node in todo
            if (way := other_ways.get(node.number)) is not None
            for task in node.tasks
            if _name_behind(tree, (*way, task)) != tree.step(node, task).node.name
        ]


def _name_behind(tree: ControlTree, path: Sequence[int]) -> int:
    """The name of the control state that steps of the control tasks ``path`` lead to."""
    world = ControlState(tree._stage)
    for task in path:
        world.step(task)
    return world.name()[-1]


def main() -> int:
    """``make laws``: shipped scenarios, reduced and unreduced. 1: some outcome is of one search
    only.
    """
    pool, wrong = new_pool(), 0
    for scenario in (*SCENARIOS, *LOAD):
        for name in scenario.profiles:
            case = replace(
                experiment_of(
                    scenario, without(profile_named(name), frozenset(scenario.request.without))
                ),
                interrupts=False,
                calls=1,
            )
            try:
                found, all_of_them = (
                    outcomes(case, pool, bound=0, reduce=reduce, states_max=60_000)
                    for reduce in (True, False)
                )
            except TooLarge:
                print(f"{scenario.name} in {name}: more than 60,000 states; not compared")
                continue
            wrong += found != all_of_them
            verdict = (
                "the same"
                if found == all_of_them
                else f"DIFFERENT: {sorted(map(str, found ^ all_of_them))[:3]}"
            )
            print(f"{scenario.name} in {name}: {len(all_of_them)} outcomes, {verdict}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
