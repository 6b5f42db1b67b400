"""Breakpoints of other users than kprobes: their hits, the order of the users, and who is refused.

The faults of users that come in a wrong order, or do not ask, are found as well.
"""

from __future__ import annotations

import json

import pytest

from arch_x86.explore.scenario import Control, Setup, scenario
from arch_x86.explore.scenarios.foreign import FOREIGN, foreign_asks, foreign_unasked
from arch_x86.explore.scenarios.history import dec8784c9088
from arch_x86.explore.scenarios.images import NOPS, STEPPED
from arch_x86.explore.x86_setup import X86Setup
from arch_x86.probes.die_chain import DieChain
from engine.kprobe import KprobeStatus
from engine.patching.hit_in_progress import NO_HIT
from engine.patching.search_options import Search
from engine.patching.vcpu import VcpuState
from engine.patching.verdict import check

ALL = ("linux-2010", "linux-6.1", "next")
NEW = ("linux-6.1", "next")
FEW = 150
"""Most schedules of a search in `make test`; `make slow` searches to the end."""


def explored(pool, one, profile="linux-6.1", *, bound=0, most=None, **changes):
    port = X86Setup(pool)
    experiment = one.experiment(one.asked({"profile": profile, **changes}), port)
    return check(experiment, Search(preemptions=bound, max_schedules=most), port)


def broken(pool, one, profile="linux-6.1", **changes):
    (report,) = explored(pool, one, profile, **changes).violations
    return report.violation


def of_one_task(*operations, image=NOPS, **options):
    """A scenario whose only task makes ``operations``, with a probe or a breakpoint for each name.

    A name is a letter and an offset in ``work``, as in ``register p2``.
    """

    @scenario(image=image, call="work", arguments=("5",), calls=options.pop("calls", 1), **options)
    def built(setup: Setup) -> None:
        @setup.control
        def main(k: Control) -> None:
            made = {}
            for operation in operations:
                word, _, name = operation.partition(" ")
                if name and name not in made:
                    offset = int(name[1:])
                    made[name] = (
                        k.kprobe("work", offset)
                        if name[0] == "p"
                        else k.breakpoint("work", offset, before_probes=name[0] == "d")
                    )
                if word == "set_unasked":
                    k.set_breakpoint(made[name], asks=False)
                else:
                    getattr(k, word)(*([made[name]] if name else []))

    return built


def in_and_out(name, *, inside=()):
    return (
        f"register_die_notifier {name}",
        f"set_breakpoint {name}",
        *inside,
        f"remove_breakpoint {name}",
        "synchronize_sched",
        f"unregister_die_notifier {name}",
    )


CASES = [(one, profile) for one in FOREIGN for profile in one.profiles]
both_sizes = pytest.mark.parametrize(
    "most", [pytest.param(FEW, id="few"), pytest.param(None, id="all", marks=pytest.mark.slow)]
)


@both_sizes
@pytest.mark.parametrize(("one", "profile"), CASES, ids=lambda value: getattr(value, "name", value))
def test_users_of_breakpoints_beside_each_other_lose_no_hit(pool, one, profile, most):
    result = explored(pool, one, profile, bound=1, most=most)
    assert result.violations == []
    assert result.outcome.exhaustive or result.outcome.schedules == most


@pytest.mark.parametrize("profile", NEW)
def test_without_dec8784c9088_a_foreign_breakpoint_behind_a_step_stops_the_kernel(pool, profile):
    found = broken(pool, dec8784c9088, profile, without=("dec8784c9088",))
    assert found.kind == "guest-fault"
    assert "current_kprobe is NULL" in found.explain
    assert explored(pool, dec8784c9088, profile).verdict == "safe"


ONE_CALL_BEFORE = of_one_task(
    "register p2", "unregister p2", "settle", *in_and_out("b4"), profiles=NEW, calls=2
)


def test_the_status_that_a_step_leaves_outlives_the_call(pool):
    """The probe is gone when the CPU comes to the foreign breakpoint in its next call."""
    found = broken(pool, ONE_CALL_BEFORE, without=("dec8784c9088",))
    assert "current_kprobe is NULL" in found.explain
    assert explored(pool, ONE_CALL_BEFORE).verdict == "safe"


def test_a_status_that_counts_tells_states_of_a_cpu_between_calls_apart():
    plain, left = VcpuState(0), VcpuState(0)
    left.block = (0, KprobeStatus.HIT_SS.value, *NO_HIT[2:])
    assert (plain.leaves_status, left.leaves_status) == (False, True)
    assert plain.key(()) != left.key(())


BOOSTED = """
.globl work
work:
 mov eax, edi
 inc eax
 lea ecx, [rax + rax*2]
 add eax, ecx
 .byte 0x0f,0x1f,0x44,0,0
 ret
"""
"""The instruction at +4 is boosted, and a jump there ends in front of the no-op at +9."""


@pytest.mark.parametrize(("between", "verdict"), [(True, "safe"), (False, "violation")])
def test_a_boosted_hit_in_between_ends_what_a_step_has_left(pool, between, verdict):
    """Its status is HIT_ACTIVE, as kprobe_int3_handler() sets it."""
    comes, goes = (["register p4"], ["unregister p4"]) if between else ([], [])
    one = of_one_task(
        "register p2", *comes, *in_and_out("b9"), *goes, "unregister p2", "settle", image=BOOSTED
    )
    assert explored(pool, one, without=("dec8784c9088",)).verdict == verdict


# Two users at one place ---------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ALL)
def test_a_probe_writes_over_the_breakpoint_of_a_user_that_does_not_ask(pool, profile):
    found = broken(pool, foreign_unasked, profile)
    assert found.kind == "lost-hit"
    assert "the breakpoint of user 0 is set at work+0x4" in found.explain


@pytest.mark.parametrize("profile", ALL)
def test_a_user_that_does_not_ask_loses_its_hits_to_a_probe(pool, profile):
    """The probe is on a call, which takes no jump."""
    one = of_one_task("register p1", "register_die_notifier b1", "set_unasked b1", image=STEPPED)
    found = broken(pool, one, profile)
    assert found.kind == "lost-hit"
    assert "0 hits of the breakpoint of user 0, 1 expected" in found.explain


def test_a_user_that_asks_is_refused_where_a_probe_is(pool):
    (line,) = explored(pool, foreign_asks, most=1).refused
    assert "EBUSY: a probe uses the bytes" in line


def test_a_user_that_asks_is_refused_where_a_jump_may_go(pool):
    one = of_one_task("register p9", *in_and_out("b12"), "settle", "unregister p9", "settle")
    (line,) = explored(pool, one, most=1).refused
    assert "EBUSY: a probe uses the bytes" in line


def test_a_user_that_asks_is_refused_where_a_probe_is_that_takes_no_jump(pool):
    one = of_one_task("register p1", *in_and_out("b1"), "unregister p1", image=STEPPED)
    (line,) = explored(pool, one, most=1).refused
    assert "EBUSY: a probe uses the bytes" in line


def test_a_probe_is_refused_where_a_foreign_breakpoint_stands(pool):
    one = of_one_task(*in_and_out("b12", inside=("register p12",)))
    (line,) = explored(pool, one, most=1).refused
    assert "EINVAL" in line


@pytest.mark.parametrize("profile", ALL)
def test_a_jump_goes_over_a_breakpoint_that_was_set_unasked_before_it(pool, profile):
    one = of_one_task(
        "register p9", "register_die_notifier b12", "set_unasked b12", "settle"
    )  # The kernel looks at the bytes when it prepares the jump, and not again.
    found = broken(pool, one, profile)
    assert found.kind == "lost-hit"
    assert "is set at work+0xc" in found.explain


def test_a_debugger_at_a_probes_place_takes_the_probes_hits(pool):
    one = of_one_task("register p1", "register_die_notifier d1", "set_unasked d1", image=STEPPED)
    found = broken(pool, one)
    assert found.kind == "lost-hit"
    assert "0 hits and 0 misses, 1 and 0 expected" in found.explain


# The order of a user's operations -----------------------------------------------------------------

HANDLER_FIRST = of_one_task(
    "register_die_notifier b4", "set_breakpoint b4", "unregister_die_notifier b4",
    "remove_breakpoint b4",
)  # fmt: skip
BREAKPOINT_FIRST = of_one_task(
    "set_breakpoint b4", "register_die_notifier b4", "remove_breakpoint b4", "synchronize_sched",
    "unregister_die_notifier b4",
)  # fmt: skip
NO_WAIT = of_one_task(
    "register_die_notifier b4", "set_breakpoint b4", "remove_breakpoint b4",
    "unregister_die_notifier b4",
)  # fmt: skip


@pytest.mark.parametrize("profile", ALL)
@pytest.mark.parametrize("one", [HANDLER_FIRST, BREAKPOINT_FIRST], ids=["goes", "comes"])
def test_a_breakpoint_without_its_handler_is_nobodys(pool, one, profile):
    assert broken(pool, one, profile).kind == "guest-fault"


def test_removing_a_breakpoint_waits_for_cpus_in_its_handler_since_text_poke_sync(pool):
    assert broken(pool, NO_WAIT, "linux-2010", bound=1).kind == "guest-fault"
    for profile in NEW:
        assert explored(pool, NO_WAIT, profile, bound=1).verdict == "safe"


# What kprobe_fault_handler() leaves ---------------------------------------------------------------


@pytest.fixture
def faulting(tmp_path):
    """``work`` divides by zero at +2, which the exception table takes to the no-op at +4."""
    code = "31c9f7f10f1f440000c3"  # xor ecx, ecx; div ecx; nop; ret
    image = {
        "format": "code-image",
        "version": 1,
        "segments": [{"addr": 0x400000, "hex": code}],
        "symbols": [{"name": "work", "addr": 0x400000, "size": len(code) // 2}],
        "exception_table": [{"insn": 0x400002, "fixup": 0x400004}],
    }
    path = tmp_path / "faulting.json"
    path.write_text(json.dumps(image), encoding="utf-8")
    return str(path)


def test_a_fault_in_a_step_leaves_the_status_of_6_1_though_the_commit_is_there(pool, faulting):
    one = of_one_task("register p2", *in_and_out("b4"), "unregister p2", "settle", image=faulting)
    found = broken(pool, one, "linux-6.1")
    assert "current_kprobe is NULL" in found.explain
    for profile in ("linux-2010", "next"):
        assert explored(pool, one, profile).verdict == "safe"


# The oracle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "kind"), [(0, "lost-hit"), (2, "extra-hit")])
def test_a_hit_that_its_user_is_told_of_not_once_is_found(pool, monkeypatch, times, kind):
    notify = DieChain.notify

    def wrong(self, regs):
        found = next(one for one in self._registered if one.addr == regs.ip - 1)
        handler, found.handler = found.handler, lambda regs: [handler(regs) for _ in range(times)]
        try:
            return notify(self, regs)
        finally:
            found.handler = handler

    monkeypatch.setattr(DieChain, "notify", wrong)
    one = of_one_task(*in_and_out("b4"))
    found = broken(pool, one)
    assert found.kind == kind
    assert f"{times} hits of the breakpoint of user 0, 1 expected" in found.explain


def test_a_removed_breakpoint_that_is_still_hit_is_found(pool, monkeypatch):
    def forgets(self, one):
        one.saved = None

    monkeypatch.setattr(DieChain, "remove", forgets)
    one = of_one_task(
        "register_die_notifier b4", "set_breakpoint b4", "remove_breakpoint b4", "settle"
    )
    found = broken(pool, one)
    assert found.kind == "extra-hit"
    assert "it was not set throughout" in found.explain


def test_an_instruction_that_no_user_emulates_ends_the_task_in_one_line(pool):
    found = broken(pool, of_one_task("set_breakpoint b0"))
    assert found.kind == "invariant"
    assert "its user emulates no-ops, branches, calls" in found.explain


def test_a_function_that_is_not_there_ends_the_task_in_one_line(pool):
    @scenario(image=NOPS, call="work", arguments=("5",), calls=1)
    def nowhere(setup: Setup) -> None:
        @setup.control
        def main(k: Control) -> None:
            k.set_breakpoint(k.breakpoint("nowhere"))

    assert "no function nowhere" in broken(pool, nowhere).explain
