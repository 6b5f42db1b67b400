"""The laws of ``next``: what it mends of 6.1, each beside what 6.1 does.

test_poke_batch.py has how it pokes.
"""

from __future__ import annotations

import errno

import pytest

from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.core.profiles import LINUX_6_1, NEXT
from engine.errors import KprobeError
from engine.kprobe import Kprobe, Method, Queue
from engine.kretprobe import Kretprobe
from tests.conftest import BASE, asm_image
from tests.engine.states import (
    DISABLED,
    NONE,
    NOPS,
    OPTIMIZED,
    State,
    aggr_at,
    put,
    state,
    text_at,
    whole,
)

BREAKPOINT = State("int3", NONE, Queue.NONE)
JUMP = State("jump", OPTIMIZED, Queue.NONE)
BOTH = pytest.mark.parametrize("profile", [LINUX_6_1, NEXT], ids=lambda profile: profile.name)


@pytest.fixture
def bench(bench_of):
    return bench_of(NEXT, asm_image(NOPS))


def counted(bench, **fields) -> tuple[Kprobe, list[Kprobe]]:
    hits: list[Kprobe] = []
    return put(bench, pre_handler=lambda p, _regs: hits.append(p), **fields), hits


def mends(profile) -> bool:
    return profile is NEXT


class TestDisabledAndEnabledBeforeTheOptimizerCame:
    """6.1 leaves a breakpoint over the first byte of the jump, and lists nothing.

    The probe is shown as optimized.
    """

    @BOTH
    def test_a_probe_keeps_its_whole_jump(self, bench_of, profile):
        bench = bench_of(profile, asm_image(NOPS))
        p, hits = counted(bench, wait=True)
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.enable_kprobe(p)
        assert state(bench) == (JUMP if mends(profile) else State("int3", OPTIMIZED, Queue.NONE))
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench).text == ("jump" if mends(profile) else "int3")
        assert (bench.call("f", 5), hits) == (11, [p])

    @BOTH
    def test_so_does_the_address_where_a_new_one_comes_after_the_old_one_was_disabled(
        self, bench_of, profile
    ):
        bench = bench_of(profile, asm_image(NOPS))
        old = put(bench, wait=True)
        bench.kprobes.disable_kprobe(old)
        new, hits = counted(bench)
        assert state(bench) == (JUMP if mends(profile) else State("int3", OPTIMIZED, Queue.NONE))
        assert (bench.call("f", 5), hits) == (11, [new])

    @pytest.mark.parametrize("hindrance", ["not allowed", "post_handler"])
    def test_what_may_not_be_optimized_then_becomes_a_breakpoint_that_says_so(
        self, bench, hindrance
    ):
        old = put(bench, wait=True)
        bench.kprobes.disable_kprobe(old)
        if hindrance == "not allowed":
            bench.kprobes.kprobes_allow_optimization = False
            bench.kprobes.enable_kprobe(old)
        else:
            put(bench, post_handler=lambda *_: None)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench) == BREAKPOINT
        assert bench.call("f", 5) == 11


class TestAProbeThatANeighbourKeptFromItsJump:
    """6.1 leaves the probe a breakpoint when the neighbour has gone."""

    @BOTH
    @pytest.mark.parametrize("goes", ["disable_kprobe", "unregister_kprobe"])
    @pytest.mark.parametrize(
        "inner", [1, 4, 8], ids=["own jump", "another own jump", "no room for one"]
    )
    def test_is_optimized_when_that_goes_or_the_jump_of_that_is_undone(
        self, bench_of, profile, goes, inner
    ):
        bench = bench_of(profile, asm_image(NOPS))
        outer = 4 if inner == 8 else 0
        put(bench, outer, wait=True)
        other = put(bench, inner, wait=True)
        assert state(bench, outer) == BREAKPOINT
        getattr(bench.kprobes, goes)(other)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench, outer) == (JUMP if mends(profile) else BREAKPOINT)
        assert bench.call("f", 5) == 11

    def test_waits_while_another_neighbour_stays(self, bench):
        put(bench, wait=True)
        inner = [put(bench, offset) for offset in (1, 4)]
        bench.kprobes.wait_for_kprobe_optimizer()
        for p, after in zip(inner, (BREAKPOINT, JUMP), strict=True):
            bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert state(bench) == after

    def test_is_optimized_also_when_forced_back_while_undone_and_in_use_again(self, bench):
        old = put(bench, wait=True)
        bench.kprobes.unregister_kprobe(old)
        inner = put(bench, 4)
        assert state(bench).queue is Queue.FREEING
        put(bench)
        bench.kprobes.unregister_kprobe(inner)
        assert state(bench) == State("int3", OPTIMIZED, Queue.OPTIMIZING)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench) == JUMP


class TestWhileAllAreDisarmed:
    """6.1 leaves the aggregator of a probe disabled that is enabled while all are disarmed."""

    @BOTH
    @pytest.mark.parametrize("offset", [0, 12], ids=["aggregated", "alone"])
    def test_a_probe_that_is_disabled_and_enabled_is_armed_when_all_are(
        self, bench_of, profile, offset
    ):
        bench = bench_of(profile, asm_image(NOPS))
        p, hits = counted(bench, offset=offset, wait=True)
        set_kprobes_enabled(bench.kprobes, on=False)
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.enable_kprobe(p)
        assert whole(bench)
        set_kprobes_enabled(bench.kprobes, on=True)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.call("f", 5), hits) == (11, [p] if mends(profile) else [])

    def test_a_probe_that_is_disabled_then_stays_so_when_all_are_armed(self, bench):
        p, hits = counted(bench, wait=True)
        set_kprobes_enabled(bench.kprobes, on=False)
        bench.kprobes.disable_kprobe(p)
        set_kprobes_enabled(bench.kprobes, on=True)
        assert (bench.call("f", 5), hits, text_at(bench)) == (11, [], "original")

    def test_arming_all_before_the_optimizer_came_keeps_the_jumps(self, bench):
        put(bench, wait=True)
        bench.kprobes.kprobes_all_disarmed = True
        with bench.kprobes.locked("test"):
            bench.kprobes.optprobes.disarm_kprobe(aggr_at(bench))
        set_kprobes_enabled(bench.kprobes, on=True)
        assert state(bench) == JUMP


class TestAnUnregisteredProbe:
    """6.1 leaves DISABLED set, so the probe comes back disabled.

    In ``next`` it has the flags that it was registered with.
    """

    @BOTH
    @pytest.mark.parametrize("wait", [False, True], ids=["int3", "jump"])
    def test_is_enabled_when_it_is_registered_again(self, bench_of, profile, wait):
        bench = bench_of(profile, asm_image(NOPS))
        p, hits = counted(bench, wait=wait)
        bench.kprobes.unregister_kprobe(p)
        assert p.flags == (NONE if mends(profile) else p.flags | DISABLED)
        p.addr = None
        bench.kprobes.register_kprobe(p)
        assert (bench.call("f", 5), hits) == (11, [p] if mends(profile) else [])

    def test_is_so_too_when_it_was_disabled_in_between(self, bench):
        p, hits = counted(bench)
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.unregister_kprobe(p)
        p.addr = None
        bench.kprobes.register_kprobe(p)
        assert (bench.call("f", 5), hits) == (11, [p])

    def test_that_was_registered_as_disabled_is_disabled_again_whatever_came_between(self, bench):
        p, hits = counted(bench, flags=DISABLED)
        bench.kprobes.enable_kprobe(p)
        bench.kprobes.unregister_kprobe(p)
        assert p.flags == DISABLED
        p.addr = None
        bench.kprobes.register_kprobe(p)
        assert (bench.call("f", 5), hits) == (11, [])

    def test_of_a_functions_returns_is_enabled_again(self, bench):
        returned: list[int] = []
        rp = Kretprobe(symbol_name="f", handler=lambda _ri, regs: returned.append(regs.ax))
        for _ in range(2):
            rp.kp.addr = None
            bench.kprobes.register_kretprobes([rp])
            bench.call("f", 5)
            bench.kprobes.unregister_kretprobe(rp)
        assert returned == [11, 11]


@BOTH
def test_an_offset_of_4_gib_is_refused(bench_of, profile):
    """6.1 cuts the offset to 0."""
    bench = bench_of(profile, asm_image(NOPS))
    p = Kprobe(symbol_name="f", offset=1 << 32)
    if not mends(profile):
        bench.kprobes.register_kprobe(p)
        return
    with pytest.raises(KprobeError) as refused:
        bench.kprobes.register_kprobe(p)
    assert (refused.value.errno, bench.kprobes.kprobe_table) == (errno.ENOENT, {})


class TestAPostHandlerThatJoinsABoostedProbe:
    """6.1 never calls the post_handler, since the one copy in the slot ends in a jump back."""

    @BOTH
    @pytest.mark.parametrize("wait", [False, True], ids=["at once", "behind a jump"])
    def test_is_called_and_the_address_is_boosted_again_when_it_has_gone(
        self, bench_of, profile, wait
    ):
        bench = bench_of(profile, asm_image(NOPS))
        bench.kprobes.kprobes_allow_optimization = wait
        first = put(bench, 4, wait=wait)
        posts: list[int] = []
        second = put(bench, 4, post_handler=lambda _p, regs, _flags: posts.append(regs.ip - BASE))
        assert bench.method(first) is (Method.INT3 if mends(profile) else Method.BOOSTED)
        assert (bench.call("f", 5), posts) == (11, [7] if mends(profile) else [])
        bench.kprobes.unregister_kprobe(second)
        bench.kprobes.kprobes_allow_optimization = False
        bench.kprobes.wait_for_kprobe_optimizer()
        if not wait:
            assert bench.method(first) is Method.BOOSTED
        assert bench.call("f", 5) == 11

    def test_one_that_came_first_does_not_keep_the_address_from_being_boosted_later(self, bench):
        first = put(bench, 12, post_handler=lambda *_: None)
        second = put(bench, 12)
        assert bench.method(first) is Method.EMULATED  # the instruction is a ret
        boosted, plain = put(bench, 8, post_handler=lambda *_: None), put(bench, 8)
        bench.kprobes.kprobes_allow_optimization = False
        assert bench.method(boosted) is Method.INT3
        bench.kprobes.unregister_kprobe(boosted)
        assert bench.method(plain) is Method.BOOSTED
        bench.kprobes.unregister_kprobes([first, second, plain])
        assert (whole(bench), bench.arch.slots.used) == (True, 0)


@BOTH
def test_loop_and_ret_imm16_do_under_a_probe_what_they_do(bench_of, profile):
    """6.1 takes one round too many, and leaves the arguments on the stack."""
    loop = "mov eax, 0; mov ecx, 3; again: add eax, edi; loop again; ret"
    callee = "lea rax, [rdi + 1]; ret 16"
    caller = (
        f"mov rdx, rsp; push 1; push 2; call {BASE + 256:#x}; sub rdx, rsp; add rsp, rdx; "
        "mov rax, rdx; ret"
    )
    bench = bench_of(profile, asm_image(loop, callee, caller))
    put(bench, 12)
    put(bench, 4, symbol="g", post_handler=lambda *_: None)  # without a post_handler it is boosted
    assert bench.call("f", 5) == (15 if mends(profile) else 20)
    assert bench.call("h", 5) == (0 if mends(profile) else 16)


class TestADisabledProbeThatTakesOverADyingOne:
    """6.1 enables the aggregator for the disabled probe.

    When that probe goes, the jump and the aggregator stay for good.
    """

    def test_leaves_it_disabled_and_all_goes_with_it(self, bench):
        first = put(bench, wait=True)
        bench.kprobes.unregister_kprobe(first)
        second = put(bench, flags=DISABLED)
        assert state(bench) == State("jump", DISABLED | OPTIMIZED, Queue.UNOPTIMIZING)
        bench.kprobes.unregister_kprobe(second)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (whole(bench), bench.kprobes.kprobe_table) == (True, {})
        assert (bench.arch.slots.used, bench.arch.detours.used) == (0, 0)

    def test_is_hit_by_jump_when_it_is_enabled_before_the_optimizer_came_and_later(self, bench):
        first = put(bench, wait=True)
        bench.kprobes.unregister_kprobe(first)
        second, hits = counted(bench, flags=DISABLED)
        assert (bench.call("f", 5), hits) == (11, [])
        bench.kprobes.enable_kprobe(second)
        assert state(bench) == JUMP
        bench.kprobes.disable_kprobe(second)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench) == State("original", DISABLED, Queue.NONE)
        bench.kprobes.enable_kprobe(second)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.call("f", 5), hits, state(bench)) == (11, [second], JUMP)


def test_optimization_off_and_on_brings_back_each_jump(bench):
    put(bench, wait=True)
    for on, after in ((False, BREAKPOINT), (True, JUMP)):
        set_kprobes_optimization(bench.kprobes, on=on)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench) == after
