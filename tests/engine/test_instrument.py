"""Laws of the events that a core tells its instruments: they agree with the text and the table.

They do so in each profile, whatever the order of the operations.
"""

from __future__ import annotations

import pytest

from arch_x86.lab.bench import Workbench
from engine.errors import KprobeError
from engine.instrument import Instrument
from engine.kprobe import AggrKprobe, Kprobe
from engine.kretprobe import Kretprobe
from tests.conftest import BASE

INT3, JMP = 0xCC, 0xE9


class TextAsTold(Instrument):
    """Compares, at each event, the text with what the event says of a probe's first byte."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._original: dict[int, int] = {}
        self.told: list[str] = []
        self.wrong: list[str] = []

    def _expect(self, event: str, p: Kprobe, byte: int | None) -> None:
        self.told.append(event)
        there = self._bench.machine.text.read(p.at, 1)[0]
        if byte is None:
            byte = self._bench.image.segments[0].data[p.at - self._bench.image.segments[0].addr]
        if there != byte:
            self.wrong.append(f"{event}: {there:#x} at {p.at:#x}, not {byte:#x}")

    def armed(self, p: Kprobe) -> None:
        self._expect("armed", p, INT3)

    def disarmed(self, p: Kprobe) -> None:
        self._expect("disarmed", p, None)

    def optimized(self, op: AggrKprobe) -> None:
        self._expect("optimized", op, JMP)

    def unoptimized(self, op: AggrKprobe) -> None:
        self._expect("unoptimized", op, INT3)

    def aggregator_freed(self, op: AggrKprobe) -> None:
        self.told.append("freed")
        if self._bench.kprobes.get_kprobe(op.at) is op:
            self.wrong.append("an aggregator that is freed is still in the table")

    def registered(self, p: Kprobe) -> None:
        self.told.append("registered")
        if not self._bench.kprobes.is_registered(p):
            self.wrong.append("a probe that is told as registered is not")

    def unregistered(self, p: Kprobe) -> None:
        self.told.append("unregistered")
        if self._bench.kprobes.is_registered(p):
            self.wrong.append("a probe that is told as unregistered is registered")


@pytest.fixture
def watched(bench_of, profile):
    bench = bench_of(profile)
    watch = TextAsTold(bench)
    bench.kprobes.instruments.append(watch)
    return bench, watch


def test_a_life_is_told_event_by_event_and_each_is_what_the_text_holds(watched):
    bench, watch = watched
    p = Kprobe(addr=BASE, pre_handler=lambda *_: 0)
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    bench.kprobes.unregister_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert watch.wrong == []
    assert sorted(watch.told[:2]) == ["armed", "registered"]
    assert watch.told[2] == "optimized"
    assert sorted(watch.told[3:]) == ["disarmed", "freed", "unoptimized", "unregistered"]
    assert watch.told.index("unoptimized") < watch.told.index("disarmed")
    assert watch.told.index("disarmed") < watch.told.index("freed")


def test_what_is_forced_back_switched_off_or_disarmed_with_all_is_told_too(watched):
    bench, watch = watched
    core = bench.kprobes
    p, post = (Kprobe(addr=BASE, pre_handler=lambda *_: 0) for _ in range(2))
    post.post_handler = lambda *_: None
    core.register_kprobe(p)
    core.wait_for_kprobe_optimizer()
    core.register_kprobe(post)
    assert watch.told.count("unoptimized") == 1
    core.unregister_kprobe(post)
    core.wait_for_kprobe_optimizer()
    assert watch.told.count("optimized") == 2
    core.disable_kprobe(p)
    core.wait_for_kprobe_optimizer()
    core.enable_kprobe(p)
    core.wait_for_kprobe_optimizer()
    assert watch.told.count("optimized") == 3
    assert watch.wrong == []


def test_a_probe_that_is_refused_and_one_that_is_not_there_are_not_told(watched):
    bench, watch = watched
    p = Kprobe(addr=BASE + 1, pre_handler=lambda *_: 0)
    with pytest.raises(KprobeError, match="not-boundary"):
        bench.kprobes.register_kprobe(p)
    assert bench.kprobes.unregister_kprobe(p) is False
    assert watch.told == []


def test_probes_that_are_registered_together_are_each_told_with_their_text(watched):
    bench, watch = watched
    ps = [Kprobe(addr=BASE + offset, pre_handler=lambda *_: 0) for offset in (0, 5)]
    bench.kprobes.register_kprobes(ps)
    assert watch.told.count("registered") == watch.told.count("armed") == 2
    assert watch.wrong == []


def test_a_return_probe_and_a_set_that_fails_are_told_as_what_was_in_the_table(watched):
    bench, watch = watched
    core = bench.kprobes
    good, bad = Kprobe(addr=BASE), Kprobe(addr=BASE + 1)
    with pytest.raises(KprobeError):
        core.register_kprobes([good, bad])
    assert (watch.told.count("registered"), watch.told.count("unregistered")) == (1, 1)
    rp = Kretprobe(addr=BASE, handler=lambda *_: 0)
    core.register_kretprobe(rp)
    core.unregister_kretprobe(rp)
    assert (watch.told.count("registered"), watch.told.count("unregistered")) == (2, 2)
    assert watch.wrong == []
