"""Laws of registering and unregistering: refusals, the order of events, and what is left.

They are of linux-2010, but where another profile is named.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace

import pytest

from arch_x86.probes.inspect import inspect_json
from engine.core.optimizer import OPTIMIZE_DELAY
from engine.errors import KprobeError
from engine.image import Range, Reserved, ReservedKind, Segment
from engine.kprobe import Kprobe, KprobeFlag, Method, Queue
from tests.conftest import BASE, asm_image
from tests.engine.states import (
    DISABLED,
    NONE,
    NOPS,
    State,
    aggr_at,
    put,
    recorded,
    state,
    text_at,
    whole,
)

DATA = BASE + 0x10_0000
RET = 12
UNDONE_SOON = State("jump", DISABLED, Queue.UNOPTIMIZING)
BREAKPOINT = State("int3", NONE, Queue.NONE)


def none(*_) -> int:
    return 0


@pytest.fixture
def bench(workbench):
    return workbench(NOPS, "mov eax, edi; nop; nop; nop; ret")


def refused(bench, p: Kprobe) -> int:
    """The errno with which ``p`` is refused, which must change nothing."""
    before = dict(bench.kprobes.kprobe_table), bench.machine.text.writes, bench.arch.slots.used
    with pytest.raises(KprobeError) as raised:
        bench.kprobes.register_kprobe(p)
    assert (bench.kprobes.kprobe_table, bench.machine.text.writes, bench.arch.slots.used) == before
    return raised.value.errno


class TestRefusals:
    @pytest.mark.parametrize(
        "where",
        [
            {},
            {"symbol_name": "f", "addr": BASE},
            {"addr": 0},
            {"offset": 4},
            {"symbol_name": "nosuch"},
        ],
        ids=["neither", "both", "address 0", "an offset of nothing", "no such symbol"],
    )
    def test_a_place_is_a_symbol_or_an_address_else_einval(self, bench, where):
        assert refused(bench, Kprobe(**where)) == errno.EINVAL

    @pytest.mark.parametrize("addr", [1, BASE - 1, BASE + 0x10_0000, (1 << 64) - 1])
    def test_outside_text_it_is_einval_in_2010(self, bench, addr):
        assert refused(bench, Kprobe(addr=addr)) == errno.EINVAL

    @pytest.mark.parametrize("offset", [3, 5, 6, 9, 10, 11])
    def test_off_an_instruction_boundary_it_is_eilseq(self, bench, offset):
        assert refused(bench, Kprobe(symbol_name="f", offset=offset)) == errno.EILSEQ

    def test_what_is_out_of_reach_of_slots_is_as_inspect_says(self, bench_of, profile):
        """The kernel's slots lie within 2 GiB of all text; an image here may be larger."""
        near = asm_image("mov rax, qword ptr [rip]; mov rax, rdi; add rax, 3; ret")
        image = replace(near, segments=(*near.segments, Segment(BASE + (3 << 30), b"\xc3", 1)))
        for site in inspect_json(image, "f")["functions"][0]["sites"]:
            if site["length"] is None:
                continue
            bench = bench_of(profile, image)
            p = Kprobe(symbol_name="f", offset=site["offset"])
            if site["offset"] == 0:
                assert (site["probe"], site["probe_reason"], refused(bench, p)) == (
                    -errno.EINVAL,
                    "out-of-reach",
                    errno.EINVAL,
                )
                continue
            bench.kprobes.register_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert (site["probe"], site["boostable"]) == (0, False)
            assert bench.method(p) in (Method.INT3, Method.EMULATED)
            assert site["reason"] == ("no-room" if site["length"] == 1 else "out-of-reach")
            assert bench.call("f", 5) == 8

    @pytest.mark.parametrize(
        "fields",
        [
            {"blacklist": (Range(BASE, 13),)},
            *(
                {"reserved": (Reserved(BASE, 2, kind),)}
                for kind in ReservedKind
                if kind not in (ReservedKind.FTRACE, ReservedKind.FTRACE_SITE)
            ),
        ],
        ids=["blacklist", "jump_label", "static_call", "alternatives", "bug"],
    )
    def test_in_text_of_others_it_is_einval(self, bench_of, profile, fields):
        bench = bench_of(profile, replace(asm_image(NOPS, "nop; nop; ret"), **fields))
        assert [refused(bench, Kprobe(symbol_name="f", offset=offset)) for offset in (0, 1)] == [
            errno.EINVAL
        ] * 2
        put(bench, symbol="g")

    def test_in_data_it_is_einval(self, bench_of, profile):
        image = asm_image(NOPS)
        bench = bench_of(
            profile,
            replace(
                image,
                segments=(
                    *image.segments,
                    Segment(DATA, bytes(16), 16, writable=True, executable=False),
                ),
            ),
        )
        assert refused(bench, Kprobe(addr=DATA)) == errno.EINVAL

    @pytest.mark.parametrize("by", ["address", "symbol"])
    @pytest.mark.parametrize("role", ["alone", "aggregated", "a child", "disabled"])
    def test_what_is_registered_is_not_registered_again(self, bench, role, by):
        p = put(
            bench, RET if role == "alone" else 0, flags=DISABLED if role == "disabled" else NONE
        )
        if role == "a child":
            put(bench)
        before = state(bench, p.at - BASE)
        where = {
            "address": {"addr": p.at, "symbol_name": None, "offset": 0},
            "symbol": {"addr": None},
        }[by]
        for name, value in where.items():
            setattr(p, name, value)
        assert refused(bench, p) == errno.EINVAL
        assert state(bench, p.at - BASE) == before
        assert bench.kprobes.unregister_kprobe(p)
        assert not bench.kprobes.is_registered(p)

    def test_where_an_unused_one_waits_to_be_reclaimed_it_is_ebusy_until_that_is_done(self, bench):
        bench.kprobes.unregister_kprobe(put(bench, wait=True))
        for _ in range(OPTIMIZE_DELAY):
            assert refused(bench, Kprobe(symbol_name="f")) == errno.EBUSY
            bench.plane.sleep(1)
        put(bench)
        assert state(bench).text == "int3"

    @pytest.mark.parametrize(
        "passed", [NONE, DISABLED, ~NONE, KprobeFlag.GONE, KprobeFlag.OPTIMIZED]
    )
    def test_disabled_is_the_one_flag_that_a_caller_may_pass(self, bench, passed):
        p = put(bench, RET, flags=passed)
        assert p.flags == passed & DISABLED
        assert state(bench, RET) == State(
            "original" if passed & DISABLED else "int3", passed & DISABLED, Queue.NONE
        )

    def test_an_instruction_is_looked_at_with_the_text_locked_and_an_address_before(
        self, bench_of, profile, monkeypatch
    ):
        """Without the lock, registering would see half of a jump that goes in beside it."""
        bench = bench_of(profile, asm_image(NOPS))
        held: list[bool] = []
        read = bench.arch.code.read

        def reads(addr: int, size: int) -> bytes:
            held.append(bench.kprobes.text_mutex.owner is not None)
            return read(addr, size)

        monkeypatch.setattr(bench.arch.code, "read", reads)
        for offset in (0, 3, 4):
            bench.arch.code.invalidate(BASE, 16)
            with suppress(KprobeError):
                put(bench, offset)
        assert held
        assert all(held)


class TestLists:
    @pytest.mark.parametrize("bad", [0, 1, 2])
    def test_are_registered_whole_or_not_at_all(self, bench, bad):
        stays = put(bench, 2)
        bench.kprobes.wait_for_kprobe_optimizer()
        probes = [Kprobe(symbol_name="f", offset=offset) for offset in (0, 2, 8)]
        probes.insert(bad, Kprobe(symbol_name="f", offset=3))
        with pytest.raises(KprobeError) as raised:
            bench.kprobes.register_kprobes(probes)
        assert raised.value.errno == errno.EILSEQ
        assert not any(bench.kprobes.is_registered(p) for p in probes)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert list(bench.kprobes.kprobe_table) == [stays.at]
        assert (text_at(bench, 0), text_at(bench, 8)) == ("original", "original")
        assert aggr_at(bench, 2).children == [stays]

    def test_that_are_empty_are_einval(self, bench):
        with pytest.raises(KprobeError) as raised:
            bench.kprobes.register_kprobes([])
        assert raised.value.errno == errno.EINVAL

    def test_are_unregistered_with_one_grace_period(self, bench):
        probes = [put(bench, offset, post_handler=none) for offset in (0, 1, 2, 4, RET)]
        before = bench.plane.stats.grace_periods
        assert bench.kprobes.unregister_kprobes(probes) == 5
        assert bench.plane.stats.grace_periods - before == 1
        assert whole(bench)


class TestUnregistering:
    def test_disarms_then_waits_then_frees(self, bench, monkeypatch):
        p = put(bench, RET)
        log = recorded(bench, monkeypatch)
        assert bench.kprobes.unregister_kprobe(p)
        assert log == [f"disarm {p.at:#x}", "grace period", f"freed slot of {p.at:#x}"]
        assert (whole(bench), p.ainsn, p.parent) == (True, None, None)

    def test_takes_it_out_of_the_table_before_the_wait_and_holds_no_lock_in_it(
        self, bench, monkeypatch
    ):
        p = put(bench, RET)
        seen: list[tuple[object, object, bool]] = []
        core = bench.kprobes
        monkeypatch.setattr(
            bench.plane,
            "synchronize_sched",
            lambda _why: seen.append(
                (core.get_kprobe(p.at), core.kprobe_mutex.owner, p.ainsn is None)
            ),
        )
        core.unregister_kprobe(p)
        assert seen == [(None, None, False)]

    @pytest.mark.parametrize("wait", [False, True])
    def test_the_last_child_of_a_disarmed_aggregator_takes_it_along(self, bench, wait):
        p = put(bench, wait=wait)
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        ap = aggr_at(bench)
        assert ap.disarmed
        passes = bench.kprobes.optimizer.passes
        bench.kprobes.unregister_kprobe(p)
        assert (
            bench.kprobes.kprobe_table,
            ap.children,
            bench.arch.slots.used,
            bench.arch.detours.used,
        ) == ({}, [], 0, 0)
        assert bench.kprobes.optimizer.passes == passes

    def test_one_that_never_became_a_jump_goes_at_once(self, bench):
        bench.kprobes.unregister_kprobe(put(bench))
        assert (bench.kprobes.kprobe_table, bench.arch.slots.used, bench.arch.detours.used) == (
            {},
            0,
            0,
        )
        assert whole(bench)

    def test_the_last_child_of_one_that_is_being_undone_leaves_it_to_the_optimizer(self, bench):
        p = put(bench, wait=True)
        ap = aggr_at(bench)
        bench.kprobes.unregister_kprobe(p)
        assert (state(bench), ap.unused, bench.arch.slots.used, bench.arch.detours.used) == (
            UNDONE_SOON,
            True,
            1,
            1,
        )
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.kprobes.kprobe_table, bench.arch.slots.used, bench.arch.detours.used) == (
            {},
            0,
            0,
        )
        assert whole(bench)

    def test_one_of_several_leaves_text_and_jump_alone(self, bench):
        p, q = put(bench), put(bench, wait=True)
        before = state(bench), bench.machine.text.writes
        bench.kprobes.unregister_kprobe(q)
        assert (state(bench), bench.machine.text.writes) == before
        assert aggr_at(bench).children == [p]

    @pytest.mark.parametrize("handler", ["post_handler", "break_handler"])
    def test_the_last_user_of_a_special_handler_takes_it_along_and_the_rest_is_optimized(
        self, bench, handler
    ):
        put(bench)
        users = [put(bench, **{handler: none})]
        if handler == "post_handler":  # there can be only one break_handler
            users.append(put(bench, post_handler=none))
        for left, p in enumerate(reversed(users), start=1):
            assert getattr(aggr_at(bench), handler) is not None
            assert state(bench) == BREAKPOINT
            bench.kprobes.unregister_kprobe(p)
            if left < len(users):
                bench.kprobes.wait_for_kprobe_optimizer()
        assert getattr(aggr_at(bench), handler) is None
        assert state(bench).queue is Queue.OPTIMIZING
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench).text == "jump"

    @pytest.mark.parametrize("wait", [False, True])
    def test_twice_or_of_what_never_was_changes_nothing_and_says_so(self, bench, wait):
        p, never = put(bench, wait=wait), Kprobe(symbol_name="f")
        other = put(bench, 7, wait=wait)
        assert bench.kprobes.unregister_kprobe(p)
        before = (
            dict(bench.kprobes.kprobe_table),
            bench.machine.text.writes,
            bench.plane.stats.grace_periods,
        )
        assert not bench.kprobes.unregister_kprobe(p)
        assert not bench.kprobes.unregister_kprobe(never)
        assert bench.kprobes.unregister_kprobes([p, never, p]) == 0
        assert (
            bench.kprobes.kprobe_table,
            bench.machine.text.writes,
            bench.plane.stats.grace_periods,
        ) == before
        assert bench.kprobes.unregister_kprobes([p, other, never, other]) == 1

    def test_with_a_stranger_at_the_same_address_takes_nobody_away(self, bench):
        p, stranger = put(bench, wait=True), Kprobe(addr=BASE)
        assert not bench.kprobes.unregister_kprobe(stranger)
        assert (aggr_at(bench).children, state(bench).text) == ([p], "jump")


class TestEnabling:
    def test_one_child_among_several_sleeps_and_the_others_go_on_behind_the_same_jump(self, bench):
        hits: list[int] = []
        probes = [put(bench, pre_handler=lambda *_, n=n: hits.append(n)) for n in range(3)]
        bench.kprobes.wait_for_kprobe_optimizer()
        before = state(bench), bench.machine.text.writes
        bench.kprobes.disable_kprobe(probes[1])
        assert (state(bench), bench.machine.text.writes, probes[1].flags) == (*before, DISABLED)
        assert (bench.call("f", 5), hits) == (11, [2, 0])
        bench.kprobes.enable_kprobe(probes[1])
        assert (state(bench), bench.machine.text.writes, probes[1].flags) == (*before, NONE)
        assert (bench.call("f", 5), hits) == (11, [2, 0, 2, 1, 0])

    @pytest.mark.parametrize("offset", [0, RET])
    def test_the_last_child_puts_the_entry_to_sleep_and_any_wakes_it(self, bench, offset):
        p, q = put(bench, offset), put(bench, offset, wait=True)
        awake = state(bench, offset)
        for one in (p, q):
            assert state(bench, offset) == awake
            bench.kprobes.disable_kprobe(one)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench, offset) == State("original", DISABLED, Queue.NONE)
        bench.kprobes.enable_kprobe(q)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (state(bench, offset), p.flags, q.flags) == (awake, DISABLED, NONE)

    def test_twice_changes_nothing(self, bench):
        p = put(bench, wait=True)
        for change, after in (
            (bench.kprobes.enable_kprobe, "jump"),
            (bench.kprobes.disable_kprobe, "original"),
        ):
            change(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            before = state(bench), bench.machine.text.writes
            assert before[0].text == after
            change(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert (state(bench), bench.machine.text.writes) == before

    @pytest.mark.parametrize("change", ["enable_kprobe", "disable_kprobe"])
    def test_of_what_is_not_registered_is_einval(self, bench, change):
        p = put(bench)
        bench.kprobes.unregister_kprobe(p)
        for one in (p, Kprobe(symbol_name="f"), Kprobe(addr=BASE)):
            with pytest.raises(KprobeError) as raised:
                getattr(bench.kprobes, change)(one)
            assert raised.value.errno == errno.EINVAL
        assert whole(bench)

    def test_a_disabled_child_that_joins_wakes_nobody_and_an_enabled_one_does(self, bench):
        put(bench, flags=DISABLED)
        put(bench, flags=DISABLED)
        assert state(bench) == State("original", DISABLED, Queue.NONE)
        put(bench)
        assert (state(bench).text, state(bench).queue) == ("int3", Queue.OPTIMIZING)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert state(bench).text == "jump"
