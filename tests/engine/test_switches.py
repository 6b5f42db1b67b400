"""Laws of what concerns all probes at once.

These are the two switches, the list in debugfs, code that goes away, and a kernel without jump
optimization.
"""

from __future__ import annotations

import errno

import pytest

from arch_x86.lab.bench import Workbench
from engine.core.debugfs import kprobes_list
from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.core.optimizer import OPTIMIZE_DELAY
from engine.core.profiles import LINUX_6_1, PROFILES
from engine.errors import KprobeError
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag, Method, Queue
from tests.conftest import BASE, asm_image

CODE = "mov eax, 1; add rax, rdi; xor rdx, rdx; lea rax, [rax + 7]; ret"
OTHER = "mov eax, edi; add eax, 1; ret"
JMP, INT3 = 0xE9, 0xCC


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def bench(request, pool):
    made = Workbench(asm_image(CODE, OTHER), pool=pool, profile=request.param)
    yield made
    made.close()


def first(bench, at: int = BASE) -> int:
    return bench.machine.text.read(at, 1)[0]


def put(bench, symbol: str = "f", **fields) -> tuple[Kprobe, list[int]]:
    hits: list[int] = []
    p = Kprobe(symbol_name=symbol, pre_handler=lambda _p, regs: hits.append(regs.ip), **fields)
    bench.kprobes.register_kprobe(p)
    return p, hits


class TestSwitches:
    def test_optimization_off_undoes_every_jump_before_it_returns_and_on_brings_them(self, bench):
        (_, hits), _ = put(bench), put(bench, "g")
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (first(bench), first(bench, BASE + 256)) == (JMP, JMP)
        set_kprobes_optimization(bench.kprobes, on=False)
        assert (first(bench), first(bench, BASE + 256)) == (INT3, INT3)
        assert bench.call("f", 5) == 13
        set_kprobes_optimization(bench.kprobes, on=True)
        bench.plane.sleep(OPTIMIZE_DELAY - 1)
        assert first(bench) == INT3
        bench.plane.sleep(1)
        assert (first(bench), first(bench, BASE + 256)) == (JMP, JMP)
        assert bench.call("f", 5) == 13
        assert len(hits) == 2

    @pytest.mark.parametrize("change", [set_kprobes_optimization, set_kprobes_enabled])
    def test_off_does_not_wait_for_the_breakpoint_of_what_a_neighbour_forced_back_in_6_1(
        self, bench, change
    ):
        """It is on the freeing list, and 6.1 waits until the other two lists are empty.

        No handler is called for it.
        """
        p, hits = put(bench, offset=5)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(p)
        put(bench, offset=8)
        change(bench.kprobes, on=False)
        disarmed_late = bench.kprobes.profile is LINUX_6_1
        assert (first(bench, BASE + 5) == INT3) is disarmed_late
        assert (bench.call("f", 5), hits) == (13, [])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert first(bench, BASE + 5) != INT3

    def test_disabled_probes_are_left_alone_by_both_switches(self, bench):
        put(bench, flags=KprobeFlag.DISABLED)
        for change in (set_kprobes_optimization, set_kprobes_enabled):
            for on in (False, True):
                change(bench.kprobes, on=on)
                bench.kprobes.wait_for_kprobe_optimizer()
                assert bench.machine.text.read(BASE, 16) == bench.image.read(BASE, 16)

    def test_enabled_0_restores_all_text_before_it_returns_and_1_arms_all(self, bench):
        (_, hits), _ = put(bench), put(bench, "g", post_handler=lambda *_: None)
        bench.kprobes.wait_for_kprobe_optimizer()
        set_kprobes_enabled(bench.kprobes, on=False)
        original = bench.image.segments[0].data
        assert bench.machine.text.read(BASE, len(original)) == original
        assert bench.call("f", 5) == 13
        assert hits == []
        put(bench, offset=5)
        assert first(bench, BASE + 5) == bench.image.read(BASE + 5, 1)[0]
        set_kprobes_enabled(bench.kprobes, on=True)
        assert (first(bench), first(bench, BASE + 5), first(bench, BASE + 256)) == (
            INT3,
            INT3,
            INT3,
        )
        bench.kprobes.wait_for_kprobe_optimizer()
        assert first(bench) == JMP
        assert bench.call("f", 5) == 13
        assert hits == [BASE + 1]

    def test_while_all_are_disarmed_enabling_and_registering_touch_no_text_until_1(self, bench):
        slept, slept_hits = put(bench, flags=KprobeFlag.DISABLED)
        awake, _ = put(bench, "g")
        bench.kprobes.wait_for_kprobe_optimizer()
        set_kprobes_enabled(bench.kprobes, on=False)
        writes = bench.machine.text.writes
        bench.kprobes.enable_kprobe(slept)
        bench.kprobes.disable_kprobe(awake)
        assert bench.machine.text.writes == writes
        assert bench.call("f", 5) == 13
        set_kprobes_enabled(bench.kprobes, on=True)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert first(bench, BASE + 256) == bench.image.read(BASE + 256, 1)[0]
        # In the kernels the entry stays disabled: enable_kprobe() looks at it only while probes are
        # armed.
        sleeps = not bench.kprobes.profile.enables_while_disarmed
        assert (first(bench), slept_hits) == (bench.image.read(BASE, 1)[0] if sleeps else JMP, [])
        bench.kprobes.enable_kprobe(slept)
        assert (bench.call("f", 5), len(slept_hits)) == (13, 1)

    def test_what_is_taken_away_while_all_are_disarmed_leaves_no_trace(self, bench):
        p, _ = put(bench)
        q, _ = put(bench, "g", post_handler=lambda *_: None)
        bench.kprobes.wait_for_kprobe_optimizer()
        set_kprobes_enabled(bench.kprobes, on=False)
        assert bench.kprobes.unregister_kprobes([p, q]) == 2
        bench.kprobes.wait_for_kprobe_optimizer()
        set_kprobes_enabled(bench.kprobes, on=True)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.kprobes.kprobe_table
        original = bench.image.segments[0].data
        assert bench.machine.text.read(BASE, len(original)) == original
        assert (bench.arch.slots.used, bench.arch.detours.used) == (0, 0)

    def test_optimization_off_leaves_what_waits_for_its_jump_a_breakpoint(self, bench):
        put(bench)
        set_kprobes_optimization(bench.kprobes, on=False)
        bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert (first(bench), bench.kprobes.optimizer.waiting) == (INT3, False)
        put(bench, "g")
        bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert first(bench, BASE + 256) == INT3

    def test_setting_what_is_set_changes_nothing(self, bench):
        put(bench)
        bench.kprobes.wait_for_kprobe_optimizer()
        before = bench.machine.text.writes, bench.kprobes.optimizer.passes
        set_kprobes_optimization(bench.kprobes, on=True)
        set_kprobes_enabled(bench.kprobes, on=True)
        bench.plane.sleep(2 * OPTIMIZE_DELAY)
        assert (bench.machine.text.writes, bench.kprobes.optimizer.passes) == before


def test_the_list_has_a_line_a_probe_in_the_kernels_form(bench):
    p, _ = put(bench)
    put(bench, flags=KprobeFlag.DISABLED)
    put(bench, "g", post_handler=lambda *_: None)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (
        kprobes_list(bench.kprobes) == "0000000010000000  k  f+0x0  [DISABLED][OPTIMIZED]\n"
        "0000000010000000  k  f+0x0  [OPTIMIZED]\n"
        "0000000010000100  k  g+0x0  \n"
    )
    bench.kprobes.kprobes_module_going(BASE + 256, 256)
    bench.kprobes.disable_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (
        kprobes_list(bench.kprobes) == "0000000010000000  k  f+0x0  [DISABLED]\n"
        "0000000010000000  k  f+0x0  [DISABLED]\n"
        "0000000010000100  k  g+0x0  [GONE]\n"
    )


class TestCodeThatGoesAway:
    def test_its_probes_leave_the_lists_and_buffers_and_the_text_is_not_touched(self, bench):
        p, _ = put(bench)
        q, _ = put(bench, "g")
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(p)  # it waits to be undone
        before = bench.machine.text.read(BASE, 300)
        used = bench.arch.slots.used, bench.arch.detours.used
        assert bench.kprobes.kprobes_module_going(BASE, 256) == 1
        entry = bench.kprobes.get_kprobe(BASE)
        assert isinstance(entry, AggrKprobe)
        assert entry.queue is Queue.NONE
        assert not entry.optimized
        assert (p.gone, q.gone) == (True, False)
        assert (bench.arch.slots.used, bench.arch.detours.used) == (used[0] - 1, used[1] - 1)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.machine.text.read(BASE, 300) == before

    def test_a_gone_probe_is_not_enabled_again_and_can_be_unregistered(self, bench):
        p, _ = put(bench)
        bench.kprobes.kprobes_module_going(BASE, 256)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.enable_kprobe(p)
        assert refused.value.errno == errno.EINVAL
        assert bench.kprobes.unregister_kprobe(p)
        assert not bench.kprobes.kprobe_table

    def test_what_registers_there_once_the_code_is_back_gets_a_slot_of_its_own_and_works(
        self, bench
    ):
        old, old_hits = put(bench)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.kprobes_module_going(BASE, 256)
        bench.machine.text.write(
            BASE, bench.image.read(BASE, 16), reason="the code is loaded again"
        )
        new, hits = put(bench)
        assert first(bench) == INT3
        bench.kprobes.wait_for_kprobe_optimizer()
        assert first(bench) == JMP
        assert bench.call("f", 5) == 13
        assert (len(old_hits), len(hits)) == (0, 1)
        bench.kprobes.unregister_kprobes([old, new])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.arch.slots.used, bench.arch.detours.used) == (0, 0)


class TestWithoutOptprobes:
    @pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
    def plain(self, request, pool):
        made = Workbench(
            asm_image(CODE, OTHER), pool=pool, profile=request.param.without_optprobes()
        )
        yield made
        made.close()

    def test_every_probe_stays_a_breakpoint_and_aggregates_and_leaves_no_trace(self, plain):
        p, hits = put(plain)
        q, more = put(plain)
        plain.kprobes.wait_for_kprobe_optimizer()
        plain.plane.sleep(2 * OPTIMIZE_DELAY)
        assert plain.method(p) is not Method.OPTIMIZED
        assert plain.kprobes.optimizer.passes == 0
        assert plain.call("f", 5) == 13
        assert (len(hits), len(more)) == (1, 1)
        assert plain.kprobes.unregister_kprobes([p, q]) == 2
        assert plain.machine.text.read(BASE, 16) == plain.image.read(BASE, 16)
        assert not plain.kprobes.kprobe_table

    def test_there_is_no_switch_for_it(self, plain):
        with pytest.raises(KprobeError) as refused:
            set_kprobes_optimization(plain.kprobes, on=True)
        assert refused.value.errno == errno.ENOENT
