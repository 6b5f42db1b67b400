"""The oracle of return probes finds each one-line fault of them that is planted in a running
system, and is silent without it.
"""

from __future__ import annotations

import pytest

from engine.core.kretprobes import Kretprobes
from engine.core.profiles import LINUX_6_1
from engine.patching.experiment import fingerprint
from engine.search.schedule import Schedule, segments_from
from tests.conftest import asm_image
from tests.explore.experiments import replay_experiment
from tests.explore.planted import (
    BROKEN,
    EXTRA,
    LOST,
    Fault,
    G,
    case,
    found,
    nothing,
    returns,
    shows,
    two_returns,
)


def keeps_the_handler(self, rp):
    rp.instances, rp.free_instances = (), []
    self._registered.pop(rp)


def takes_what_is_taken(self, p, regs, real=Kretprobes._entered):
    rp = p.rp
    if not rp.free_instances:
        rp.free_instances = list(rp.instances)
    return real(self, p, regs)


def misses_for_nothing(_self, p, _regs):
    p.rp.nmissed += 1
    return 0


def calls(times):
    def handler(self, regs, frame, real=Kretprobes.trampoline_handler):
        stack = self.open_stacks.get(self._arch.current_task, [])
        for ri in stack:
            one = ri.rp.handler
            ri.rp.handler = lambda ri, regs, one=one: [one(ri, regs) for _ in range(times)]
            ri.rp.handler.__wrapped__ = one
        handlers = [ri.rp for ri in stack]
        value = real(self, regs, frame)
        for rp in handlers:
            rp.handler = rp.handler.__wrapped__
        return value

    return handler


def shows_a_wrong_value(self, regs, frame, real=Kretprobes.trampoline_handler):
    regs.ax ^= 1
    value = real(self, regs, frame)
    regs.ax ^= 1
    return value


def oldest_call_first(self, regs, frame, real=Kretprobes.trampoline_handler):
    stack = self.open_stacks.get(self._arch.current_task, [])
    if len(stack) != 2:
        return real(self, regs, frame)
    first, second = stack
    first.rp, second.rp = second.rp, first.rp
    try:
        return real(self, regs, frame)
    finally:  # Whatever is run again has to do the same again.
        first.rp, second.rp = second.rp, first.rp


def stays_open(self, regs, frame, real=Kretprobes.trampoline_handler):
    task = self._arch.current_task
    stack = self.open_stacks[task][:]
    ret_addr = real(self, regs, frame)
    self.open_stacks[task] = stack
    return ret_addr


DEEP = (
    "push rbx; mov ebx, edi; call 0x10000100; add eax, ebx; pop rbx; ret",
    "dec edi; jz .Lend; call 0x10000100; .Lend: ret",
)
FAULTS = {
    "a call that has returned stays open": Fault(
        Kretprobes,
        "trampoline_handler",
        stays_open,
        returns,
        BROKEN,
        "1 calls are kept as open, where 0 are",
        image=G,
    ),
    "a return probe's handler is never called": Fault(
        Kretprobes, "trampoline_handler", calls(0), returns, LOST, "does not run", image=G
    ),
    "a return probe's handler is called twice": Fault(
        Kretprobes, "trampoline_handler", calls(2), returns, EXTRA, "for no call", image=G
    ),
    "a return probe's handler is shown another value": Fault(
        Kretprobes,
        "trampoline_handler",
        shows_a_wrong_value,
        returns,
        EXTRA,
        "is shown RAX",
        image=G,
    ),
    "handlers of a return run in the other order": Fault(
        Kretprobes,
        "trampoline_handler",
        oldest_call_first,
        two_returns,
        LOST,
        "in its turn",
        image=G,
    ),
    "a return probe misses calls with instances free": Fault(
        Kretprobes, "_entered", misses_for_nothing, returns, LOST, "8 of its 8 are free", image=G
    ),
    "instances of a return probe are never free again": Fault(
        Kretprobes, "_recycle", nothing, returns, BROKEN, "has 1 instances in use", image=G
    ),
    "two calls share an instance of a return probe": Fault(
        Kretprobes,
        "_entered",
        takes_what_is_taken,
        lambda k: returns(k, 1),
        EXTRA,
        "with all its 1 instances taken",
        image=DEEP,
    ),
    "a return probe's handler is called after it has gone": Fault(
        Kretprobes,
        "_forget",
        keeps_the_handler,
        returns,
        EXTRA,
        "for no call",
        image=G,
        bound=1,
        resched=(0x10000106,),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_sound_code_is_not_accused(pool, monkeypatch, name):
    shows(pool, monkeypatch, FAULTS[name])


def test_a_return_probe_that_is_never_registered_is_let_be(pool):
    def main(k):
        k.unregister_return(k.kretprobe("g"))

    assert found(pool, case(main, image=asm_image(*G)), 0) == []


def test_a_return_probe_that_goes_while_a_hit_is_on_its_way_may_count_that_as_missed(pool):
    """In 6.1 its instances have gone when the handler asks for one; the other probe keeps the
    breakpoint.
    """
    one = case(two_returns, image=asm_image(*G), profile=LINUX_6_1)
    segments = segments_from("c0*3,0*29,c0*7,0")
    violation, lines = replay_experiment(one, Schedule(fingerprint(one), segments), pool=pool)
    assert violation is None
    assert any("hit by breakpoint: runs the first handler" in line for line in lines[-3:])
