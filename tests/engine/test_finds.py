"""Faults of the kernels that the state machine finds, each as the shortest sequence that shows it.

Where a profile mends a fault, that is shown, too.
"""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from arch_x86.emu.fault import GuestFaultError
from arch_x86.lab.bench import Workbench
from engine.core.ablation import without
from engine.core.global_switches import set_kprobes_optimization
from engine.core.optimizer import OPTIMIZE_DELAY
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, PROFILES
from engine.errors import KprobeError
from engine.kprobe import Kprobe, KprobeFlag
from tests.conftest import BASE, asm_image

INT3, JMP = 0xCC, 0xE9
NONE = KprobeFlag(0)
NOPS = "nop; nop; mov eax, edi; add rax, rdi; nop; lea rax, [rax + 1]; ret"


@pytest.fixture
def bench_of(pool):
    made: list[Workbench] = []

    def make(profile):
        made.append(Workbench(asm_image(NOPS, NOPS), pool=pool, profile=profile))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def probe(bench, offset: int, flags: KprobeFlag = NONE) -> Kprobe:
    p = Kprobe(symbol_name="f", offset=offset, flags=flags)
    bench.kprobes.register_kprobe(p)
    return p


def text(bench, size: int = 8) -> bytes:
    return bench.machine.text.read(BASE, size)


class TestAProbeBehindADisabledOneInsideAJump:
    """get_optimized_kprobe() stops at the nearest probe in front, even if that is disabled.

    So it does not see the jump that starts before that probe.
    """

    def test_is_written_into_the_jump_by_6_1(self, bench_of):
        bench = bench_of(LINUX_6_1)
        probe(bench, 0)
        bench.kprobes.wait_for_kprobe_optimizer()
        probe(bench, 1, KprobeFlag.DISABLED)
        probe(bench, 2)
        assert (text(bench)[0], text(bench)[2]) == (JMP, INT3)

    @pytest.mark.parametrize("profile", [LINUX_2010, NEXT], ids=lambda profile: profile.name)
    def test_forces_the_jump_back_where_all_are_asked(self, bench_of, profile):
        bench = bench_of(profile)
        probe(bench, 0)
        bench.kprobes.wait_for_kprobe_optimizer()
        probe(bench, 1, KprobeFlag.DISABLED)
        probe(bench, 2)
        assert text(bench)[:3] == bytes((INT3, 0x90, INT3))
        assert bench.call("f", 5) == 11


class TestDisableEnableDisableBeforeTheOptimizerCame:
    """Arming writes a breakpoint over a jump that still stands, and leaves the jump's tail."""

    @staticmethod
    def provoke(bench) -> None:
        p = probe(bench, 0)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.enable_kprobe(p)
        bench.kprobes.disable_kprobe(p)

    def test_lets_a_hit_run_into_the_tail_in_2010_as_it_was(self, bench_of):
        bench = bench_of(without(LINUX_2010, frozenset({"f66c0447cca1"})))
        self.provoke(bench)
        assert text(bench)[0] == INT3
        with pytest.raises(GuestFaultError):
            bench.call("f", 5)

    @pytest.mark.parametrize("profile", [LINUX_2010, NEXT], ids=lambda profile: profile.name)
    def test_keeps_the_whole_jump_in_2010_as_mended(self, bench_of, profile):
        bench = bench_of(profile)
        self.provoke(bench)
        assert text(bench)[0] == JMP
        assert bench.call("f", 5) == 11

    def test_is_safe_in_6_1_which_keeps_the_flag_until_the_bytes_are_back(self, bench_of):
        bench = bench_of(LINUX_6_1)
        self.provoke(bench)
        assert text(bench)[0] == INT3
        assert bench.call("f", 5) == 11


class TestADyingProbeThatANeighbourForcesBack:
    """The aggregator leaves the unoptimizing list without being reclaimed."""

    @staticmethod
    def provoke(bench) -> None:
        a = probe(bench, 0)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.unregister_kprobe(a)
        b = probe(bench, 1)
        bench.kprobes.unregister_kprobe(b)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert text(bench) == bench.image.read(BASE, 8)

    def test_answers_ebusy_for_good_in_2010(self, bench_of):
        bench = bench_of(LINUX_2010)
        self.provoke(bench)
        with pytest.raises(KprobeError) as refused:
            probe(bench, 0)
        assert refused.value.errno == errno.EBUSY

    @pytest.mark.parametrize("profile", [LINUX_6_1, NEXT], ids=lambda profile: profile.name)
    def test_is_reclaimed_by_6_1(self, bench_of, profile):
        bench = bench_of(profile)
        self.provoke(bench)
        assert not bench.kprobes.kprobe_table
        probe(bench, 0)


class TestAProbeArmedAroundADisabledOneWhoseJumpStillStands:
    """arch_check_optimized_kprobe() asked only whether the other probe is disabled (f1c97a1b4ef7).

    So the first one is optimized at once.
    """

    @staticmethod
    def provoke(bench) -> None:
        a, b = probe(bench, 0), probe(bench, 4)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (text(bench)[0], text(bench)[4]) == (INT3, JMP)
        bench.kprobes.disable_kprobe(a)
        bench.kprobes.disable_kprobe(b)
        bench.kprobes.enable_kprobe(a)
        assert (text(bench)[0], text(bench)[4]) == (INT3, JMP)

    def test_leads_back_into_the_middle_of_that_jump_as_the_commit_of_2010_has_it(self, bench_of):
        bench = bench_of(without(LINUX_2010, frozenset({"f1c97a1b4ef7"})))
        self.provoke(bench)
        with pytest.raises(GuestFaultError):
            bench.call("f", 5)

    @pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
    def test_stays_a_breakpoint_while_the_other_waits_on_a_list(self, bench_of, profile):
        bench = bench_of(profile)
        self.provoke(bench)
        assert bench.call("f", 5) == 11

    @pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
    def test_stays_one_when_it_comes_while_the_other_waits(self, bench_of, profile):
        bench = bench_of(profile)
        other = probe(bench, 4)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(other)
        probe(bench, 0)
        assert bench.call("f", 5) == 11

    @pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
    def test_stays_one_when_a_whole_batch_of_others_is_undone_first(self, bench_of, profile):
        """The neighbour was listed first, so it is the last to be undone, in a pass of its own."""
        bench = bench_of(replace(profile, batch=1))
        a, b = probe(bench, 0, KprobeFlag.DISABLED), probe(bench, 4)
        bench.kprobes.wait_for_kprobe_optimizer()
        other = Kprobe(symbol_name="g")
        bench.kprobes.register_kprobe(other)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(b)
        bench.kprobes.disable_kprobe(other)
        bench.kprobes.enable_kprobe(a)
        for _ in range(3):
            bench.plane.sleep(OPTIMIZE_DELAY + 1)
            assert bench.call("f", 5) == 11


def test_a_disabled_probe_that_takes_over_a_dying_one_leaves_its_jump_in_6_1(bench_of):
    bench = bench_of(LINUX_6_1)
    a = probe(bench, 0)
    bench.kprobes.wait_for_kprobe_optimizer()
    bench.kprobes.unregister_kprobe(a)
    b = probe(bench, 0, KprobeFlag.DISABLED)
    bench.kprobes.unregister_kprobe(b)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert text(bench)[0] == JMP
    assert bench.kprobes.kprobe_table[BASE].flags == KprobeFlag.OPTIMIZED | KprobeFlag.ON_FUNC_ENTRY


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_switching_optimization_off_waits_without_what_the_optimizer_needs(bench_of, profile):
    """The commit of 2010 holds kprobe_mutex while it waits for a pass, which takes it."""
    bench = bench_of(profile)
    probe(bench, 0)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert text(bench)[0] == JMP
    set_kprobes_optimization(bench.kprobes, on=False)
    assert text(bench)[0] == INT3
    set_kprobes_optimization(bench.kprobes, on=True)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert text(bench)[0] == JMP
