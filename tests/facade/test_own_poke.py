"""A poke protocol of a user's own: a class that is given as ``poke=``. Nothing of the project is
touched.
"""

from __future__ import annotations

import pytest

import optprobe

OPTIONS = {"call": "f", "arguments": [5], "probes": ["f"], "calls": 1, "preemptions": 1}


class Backwards(optprobe.StopMachinePoke):
    """A jump is written from its last byte to its first one, a byte at a time, with a breakpoint in
    front all along. A CPU that comes back from the copy of the first instruction meets the rest.
    """

    def __init__(self, text, plane, without):
        super().__init__(text, plane, without)
        self.text, self.plane = text, plane

    def text_poke_jumps(self, params):
        for param in params:
            for at in range(len(param.data) - 1, -1, -1):
                self.text.write(param.addr + at, param.data[at : at + 1], reason="a byte")


class Parked(Backwards):
    """The same while every CPU is parked between calls."""

    def text_poke_jumps(self, params):
        write = super().text_poke_jumps
        self.plane.stop_machine(lambda: write(params), "a byte at a time")


@pytest.fixture
def image():
    return optprobe.load_asm("f: lea eax, [rdi + rdi*2]\n add eax, edi\n ret", "f.s")


def test_a_poke_protocol_of_ones_own_is_judged_by_what_its_order_of_stores_does(image):
    result = optprobe.check(image, **OPTIONS, poke=Backwards)
    (report,) = result.violations
    assert report.violation.kind == optprobe.ViolationKind.TORN
    assert optprobe.check(image, **OPTIONS, poke=Parked).verdict == "safe"


def test_a_poke_protocol_of_ones_own_writes_the_jump_of_a_machine(image):
    with optprobe.Machine(image, poke=Parked) as machine:
        probe = optprobe.Kprobe(symbol_name="f")
        machine.kprobes.register_kprobe(probe)
        machine.wait_for_kprobe_optimizer()
        assert machine.method(probe) is optprobe.Method.OPTIMIZED
        assert machine.call("f", 5).result == 20
