"""What calls may leave while code is patched: every pass over a site takes the old code or the new.

Each call is made without a patch protocol, once for each way in which its passes can choose. The
first pass over a site takes the old code, and so do the next ones up to some pass; from there on
they take the new code, and, where the old code comes back, the old code again from a later pass on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from engine.brief import count
from engine.errors import InputError, UnprobedFault
from engine.patching.patched_sites import PatchedSite
from engine.patching.planned_call import PlannedCall
from engine.patching.port import Port
from engine.patching.port_records import PatchFacts, Stop
from engine.patching.unprobed import CallOutcome

__all__ = ("difference_of_patched", "patched_outcomes")

_PASSES_MOST: Final = 100_000
"""All calls together may pass sites so often, to find out what calls may leave (some seconds)."""
_TOO_OFTEN: Final = (
    "the call passes the sites so often that there are too many ways in which its passes can take"
    " the old code or the new; give arguments with which the call passes them less often, or fewer"
    " --calls"
)
_TO_THE_END: Final = 1 << 40
_SHOWN: Final = 4
"""At most so many right values of a register are shown."""

Outcomes = dict[int, list[frozenset[CallOutcome]]]
"""For each task, what each of its calls may leave."""
_Passes = tuple[tuple[int, int], ...]
"""Which code the passes took so far: for each pass, the site and how often its code had changed."""


def patched_outcomes(
    port: Port,
    calls: Mapping[int, PlannedCall],
    sites: Sequence[PatchedSite],
    *,
    changes: int,
    limit: int,
) -> tuple[Outcomes, frozenset[int]]:
    """Return what each call may leave while the code of ``sites`` changes ``changes`` times.

    The runs of the vCPUs have to stop in front of the sites already. The machine stands where it
    stood before.

    :param calls: the call of each task, by its number.
    :param changes: 1 where the new code comes, and 2 where the old code comes back, too.
    :param limit: the most instructions of a call.
    :returns: what the calls may leave, and the addresses of the sites that a call ever passes.
    :raises InputError: there are too many ways in which the passes of a call can choose.
    """
    runner = _Runner(port, sites, changes, limit)
    start = port.memory.save()
    found = {task: runner.of_task(task, call.times, start) for task, call in calls.items()}
    port.memory.restore(start)
    port.memory.release(start)
    return found, frozenset(runner.passed)


def difference_of_patched(
    got: CallOutcome, known: Collection[CallOutcome], facts: PatchFacts
) -> str:
    """Return a text on what a call has left that it may not leave.

    :param got: what the call has left while the code of sites was replaced.
    :param known: what it leaves where each pass over a site takes the old code or the new.
    :param facts: the names of the parts.
    """
    for number, name in enumerate(facts.registers):
        left, right = got[0][number], sorted({one[0][number] for one in known})
        if left not in right:
            values = " or ".join(f"{value:#x}" for value in right[:_SHOWN])
            others = " or others" if len(right) > _SHOWN else ""
            return f"{name} = {left:#x}; with the old code or the new it leaves {values}{others}"
    for number, part in enumerate(facts.parts, 1):
        if all(got[number] != one[number] for one in known):
            return f"{part} that differs from what it leaves with the old code or the new"
    return "registers and memory of which each is right, but not all of them together"


class _Runner:
    """This object makes calls in which each pass takes the code that it is told to take.

    :param changes: how often the code of a site changes at most.
    :ivar passed: the addresses of the sites that a call has passed.
    """

    def __init__(self, port: Port, sites: Sequence[PatchedSite], changes: int, limit: int) -> None:
        self._port = port
        self._cpus = port.cpus
        self._sites = {site.addr: site for site in sites}
        self._changes = changes
        self._limit = limit
        self._passes = 0
        self.passed: set[int] = set()
        # The second task of a vCPU has a stack of its own.
        self._seconds = {2 * cpu + 1: port.cpus.new_tasks(cpu) for cpu in range(port.cpus.number)}

    def of_task(self, task: int, times: int, start: object) -> list[frozenset[CallOutcome]]:
        """Return what each of the calls of ``task`` may leave."""
        states: dict[object, tuple[object, Mapping[int, int]]] = {None: (start, {})}
        found: list[frozenset[CallOutcome]] = []
        for _ in range(times):
            outcomes, states = self._after_one_call(task, list(states.values()))
            found.append(frozenset(outcomes))
        return found

    def _after_one_call(
        self, task: int, states: Sequence[tuple[object, Mapping[int, int]]]
    ) -> tuple[set[CallOutcome], dict[object, tuple[object, Mapping[int, int]]]]:
        """Make the task's next call from each of ``states``, in every way.

        :param states: the machine's state, and how often the code of each site has changed by then.
        :returns: what the calls left, and the states behind them.
        """
        memory = self._port.memory
        outcomes, after = set[CallOutcome](), dict[object, tuple[object, Mapping[int, int]]]()
        for state, changed in states:
            todo: list[_Passes] = [()]
            while todo:
                wanted = todo.pop()
                memory.restore(state)
                for second in self._seconds.get(task, ()):
                    self._cpus.resume(task // 2, second)
                outcome, passes = self._call(task, wanted, changed)
                outcomes.add(outcome)
                todo += _others(passes, len(wanted), self._changes)
                left = {**changed, **dict(passes)}
                key = (outcome[3:], tuple(sorted(left.items())))
                if key not in after:
                    after[key] = (memory.save(), left)
        return outcomes, after

    def _call(
        self, task: int, wanted: _Passes, changed: Mapping[int, int]
    ) -> tuple[CallOutcome, _Passes]:
        """Make one call, whose first passes are ``wanted``; the others change nothing.

        :returns: what it left, and all its passes.
        """
        cpus, text, cpu = self._cpus, self._port.text, task // 2
        passes, changes = list[tuple[int, int]](), dict(changed)
        cpus.begin_call(cpu, task)
        while True:
            site = self._sites.get(cpus.ip(cpu))
            if site is not None:
                if len(passes) < len(wanted):
                    changes[site.addr] = wanted[len(passes)][1]
                self._passes += 1
                if self._passes > _PASSES_MOST:
                    raise InputError(_TOO_OFTEN)
                self.passed.add(site.addr)
                passes.append((site.addr, changes.get(site.addr, 0)))
                code = site.new if changes.get(site.addr, 0) % 2 else site.old
                text.fetch_as(cpu, site.addr, code)
            stop, _ = cpus.run(cpu, _TO_THE_END)
            if stop is Stop.WATCHED or stop is Stop.BUDGET:
                if cpus.spent(cpu) > self._limit:
                    cpus.out_of_instructions(cpu, self._limit)
                    break
                continue
            cpus.answer(cpu)
            if stop is Stop.CALL_RETURN or cpus.died(cpu):
                break
        text.fetch_as(cpu, 0, b"")
        fault = cpus.fault(cpu)
        if fault is not None:
            new = sum(times % 2 for _, times in passes)
            raise UnprobedFault(
                f"the call dies with no patch protocol at work, where the new code is taken in"
                f" {new:,} of {count(len(passes), 'pass', 'passes')} over the sites:"
                f" {fault.kind} at {fault.place}{self._replaced()}; give code that is right"
                " whichever code each pass takes"
            )
        return cpus.outcome(task), tuple(passes)

    def _replaced(self) -> str:
        """Return which sites have several old instructions: the user may have meant one of them."""
        several = [site for site in self._sites.values() if len(site.replaces) > 1]
        return "".join(
            f"; the new code at {self._port.text.where(site.addr)} replaces"
            f" {len(site.replaces)} instructions, {', '.join(site.replaces)}"
            for site in several
        )


def _others(passes: _Passes, fixed: int, changes: int) -> list[_Passes]:
    """Return the ways that differ from ``passes`` first at a pass behind the first ``fixed`` ones.

    At that pass the code of the site has changed more often.
    """
    return [
        (*passes[:at], (passes[at][0], count))
        for at in range(fixed, len(passes))
        for count in range(passes[at][1] + 1, changes + 1)
    ]
