"""The mends of kernel commit 6274de4984a6 in linux-2010, one by one.

Each is shown as it is by default, and as the commit has it (``--without``).
"""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from engine.core.ablation import without
from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.core.optimizer import OPTIMIZE_DELAY
from engine.core.profiles import LINUX_2010
from engine.core.safety_steps import MENDS, STEPS
from engine.errors import KprobeError
from engine.jprobe import Jprobe
from engine.kprobe import Queue
from engine.kretprobe import Kretprobe
from tests.conftest import BASE, asm_image
from tests.engine.states import (
    DISABLED,
    NONE,
    NOPS,
    OPTIMIZED,
    State,
    entry_at,
    put,
    state,
    text_at,
)

MENDED = pytest.mark.parametrize("mended", [True, False], ids=["mended", "as in the commit"])
OTHER = "mov eax, edi; add eax, 3; nop; nop; ret"


@pytest.fixture
def make(bench_of):
    """``make(name, mended)`` makes a workbench of linux-2010, with that mend or without it.

    f(5) is 11 and g(5) is 8.
    """

    def made(name: str, mended: bool):
        profile = LINUX_2010 if mended else without(LINUX_2010, frozenset({name}))
        return bench_of(profile, asm_image(NOPS, OTHER))

    return made


def test_names_are_told_apart_from_those_of_safety_steps_and_count_in_2010_only():
    assert not {mend.name for mend in MENDS} & {step.name for step in STEPS}
    assert all(mend.profiles == {LINUX_2010.name} for mend in MENDS)


@MENDED
def test_covering_search_a_probe_behind_a_disabled_one_forces_the_jump_over_it_back(make, mended):
    bench = make("covering-search", mended)
    put(bench, 2, flags=DISABLED)
    put(bench, 0, wait=True)
    assert text_at(bench) == "jump"
    put(bench, 4)
    assert text_at(bench) == ("int3" if mended else "jump")
    assert bench.machine.text.read(BASE + 4, 1) == b"\xcc"


@MENDED
def test_86b4ce3156c0_boundaries_behind_an_optimized_probe_are_the_original_ones(make, mended):
    bench = make("86b4ce3156c0", mended)
    # The probe at 0 replaces 7 bytes. The commit goes on behind the jump's 5 bytes, in the middle
    # of the add at 4.
    put(bench, 0, wait=True)
    assert text_at(bench) == "jump"
    with pytest.raises(KprobeError) as refused:
        put(bench, 5 if mended else 4)
    assert refused.value.errno == errno.EILSEQ
    put(bench, 4 if mended else 5)
    assert text_at(bench) == "int3"  # it lies within what the jump replaces
    assert bench.call("f", 1 << 32 | 5) == (1 << 32 | 11 if mended else 11)


@MENDED
def test_enabled_0_disarms_what_the_optimizer_undoes(make, mended):
    bench = make("enabled-0-disarms", mended)
    hits: list[int] = []
    put(bench, wait=True, pre_handler=lambda *_: hits.append(1))
    set_kprobes_enabled(bench.kprobes, on=False)
    assert text_at(bench) == ("original" if mended else "int3")
    assert (bench.call("f", 5), len(hits)) == (11, 0 if mended else 1)


@MENDED
def test_enabled_0_disarms_what_is_forced_back_before_the_optimizer_comes(bench_of, mended):
    # without ad72b3bea744 nothing waits for the optimizer
    left_out = {"ad72b3bea744"} | (set() if mended else {"enabled-0-disarms"})
    bench = bench_of(without(LINUX_2010, frozenset(left_out)), asm_image(NOPS, OTHER))
    hits: list[int] = []
    put(bench, wait=True, pre_handler=lambda *_: hits.append(1))
    set_kprobes_enabled(bench.kprobes, on=False)
    assert text_at(bench) == "jump"
    put(bench, post_handler=lambda *_: None)
    assert text_at(bench) == ("original" if mended else "int3")
    assert (bench.call("f", 5), len(hits)) == (11, 0 if mended else 1)


@MENDED
def test_enabled_1_optimizes_what_it_arms(make, mended):
    bench = make("enabled-1-optimizes", mended)
    put(bench, wait=True)
    set_kprobes_enabled(bench.kprobes, on=False)
    set_kprobes_enabled(bench.kprobes, on=True)
    assert state(bench) == (
        State("int3", OPTIMIZED, Queue.OPTIMIZING) if mended else State("int3", NONE, Queue.NONE)
    )


@MENDED
def test_reoptimize_blocked_optimizes_what_a_neighbour_kept_a_breakpoint(make, mended):
    bench = make("reoptimize-blocked", mended)
    neighbour = put(bench, 8, post_handler=lambda *_: None)  # a post_handler keeps it a breakpoint
    put(bench, 4, wait=True)
    assert text_at(bench, 4) == "int3"
    bench.kprobes.disable_kprobe(neighbour)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert text_at(bench, 4) == ("jump" if mended else "int3")


@MENDED
def test_disarm_armed_only_disabling_while_all_are_disarmed_writes_nothing(make, mended):
    bench = make("disarm-armed-only", mended)
    set_kprobes_enabled(bench.kprobes, on=False)
    p = put(bench, 8, post_handler=lambda *_: None)
    written: list[str] = []
    bench.machine.text.listeners.append(lambda write: written.append(write.reason))
    bench.kprobes.disable_kprobe(p)
    assert written == ([] if mended else [f"disarm {BASE + 8:#x}"])


@MENDED
@pytest.mark.parametrize("change", [set_kprobes_enabled, set_kprobes_optimization])
def test_ad72b3bea744_who_switches_off_waits_until_no_jump_is_left(make, mended, change):
    bench = make("ad72b3bea744", mended)
    put(bench, wait=True)  # behind the first pass the commit's completion is done for good
    change(bench.kprobes, on=False)
    assert (text_at(bench) == "jump") is not mended


def test_without_ad72b3bea744_the_completion_comes_with_the_last_pass(
    bench_of,
):
    bench = bench_of(
        replace(without(LINUX_2010, frozenset({"ad72b3bea744"})), batch=1), asm_image(NOPS, OTHER)
    )
    put(bench, symbol="g")
    put(bench)
    bench.plane.sleep(OPTIMIZE_DELAY)
    assert text_at(bench) == "jump"
    # The jump of g was still to come, and the completion with it.
    set_kprobes_enabled(bench.kprobes, on=False)
    assert text_at(bench) == "original"


@MENDED
def test_gone_unhashed_an_unused_probe_whose_code_was_removed_leaves_the_table(make, mended):
    bench = make("gone-unhashed", mended)
    bench.kprobes.unregister_kprobe(put(bench, wait=True))
    assert entry_at(bench).disabled
    bench.kprobes.kprobes_module_going(BASE, 64)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (bench.kprobes.get_kprobe(BASE) is None) is mended
    assert (bench.arch.slots.used, bench.arch.detours.used) == (0, 0)
    if not mended:
        with pytest.raises(KprobeError) as refused:
            put(bench)
        assert refused.value.errno == errno.EBUSY


@MENDED
@pytest.mark.parametrize("children", [1, 2])
def test_handled_hit_ends_when_a_pre_handler_has_set_ip_and_returned_1(make, mended, children):
    bench = make("handled-hit-ends", mended)
    hits: list[int] = []

    def to_g(_p, regs) -> int:
        hits.append(1)
        regs.ip = BASE + 256
        return 1

    # With a post_handler each stays a breakpoint, whose handler may change ip.
    for _ in range(children):
        p = put(bench, pre_handler=to_g, post_handler=lambda *_: None)
    first = bench.call("f", 5)
    assert (first, bench.call("f", 5)) == ((8, 8) if mended else (8, 11))
    assert (len(hits), p.nmissed) == ((2, 0) if mended else (1, 1))


@MENDED
@pytest.mark.parametrize("children", [1, 2])
def test_fault_in_step_asks_the_fault_handler_of_the_probe(bench_of, mended, children):
    profile = LINUX_2010 if mended else without(LINUX_2010, frozenset({"fault-in-step"}))
    bench = bench_of(profile, asm_image("mov rax, qword ptr [rdi]; ret"))
    asked: list[int] = []
    for _ in range(children):
        put(
            bench,
            post_handler=lambda *_: None,
            fault_handler=lambda _p, regs, _n: asked.append(regs.ip) or 0,
        )
    bench.start_call(0, BASE, (0,))
    (fault,) = bench.finish_calls()
    assert fault.place == "f+0x0"
    assert asked == ([BASE] * children if mended else [])


@MENDED
@pytest.mark.parametrize("kind", ["return", "jumper"])
def test_function_entry_is_the_only_place_for_return_and_jumper_probes(make, mended, kind):
    bench = make("function-entry", mended)

    def register() -> None:
        if kind == "return":
            bench.kprobes.register_kretprobe(Kretprobe(symbol_name="f", offset=2))
        else:
            bench.kprobes.register_jprobe(
                Jprobe(symbol_name="f", offset=2, entry=lambda _regs: None)
            )

    if mended:
        with pytest.raises(KprobeError) as refused:
            register()
        assert refused.value.errno == errno.EINVAL
    else:
        register()
        assert bench.kprobes.get_kprobe(BASE + 2) is not None
