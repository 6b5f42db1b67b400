"""Locks and waits are checked at run time.

Locks have an order and an owner, every write to probed text needs text_mutex, and code does not
sleep with preemption off.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from arch_x86.lab.bench import Workbench
from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.core.module_going import kill_kprobe
from engine.core.profiles import PROFILES
from engine.errors import Deadlock, EngineBug
from engine.kprobe import Kprobe, KprobeFlag, Method
from engine.kretprobe import Kretprobe
from tests.conftest import BASE, asm_image

CODE = "mov eax, edi; add eax, 3; nop; nop; ret"


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def bench(request, pool):
    made = Workbench(asm_image(CODE, CODE), pool=pool, profile=request.param, cpus=2)
    yield made
    made.close()


def test_locks_are_taken_in_one_order_only(bench):
    core = bench.kprobes
    order = [core.module_mutex, core.kprobe_mutex, core.online_cpus, core.text_mutex]
    for low in range(4):
        for high in range(low, 4):
            with order[high], pytest.raises(EngineBug, match=r"order|twice"), order[low]:
                pass
    with order[0], order[1], order[2], order[3]:
        pass


def test_a_lock_is_dropped_by_its_owner_only(bench):
    core = bench.kprobes
    core.text_mutex.acquire("test")
    dropped: list[str] = []

    def other() -> None:
        with pytest.raises(EngineBug, match="holds"):
            core.text_mutex.release()
        dropped.append("refused")

    bench.plane.schedule_delayed_work(other, 0, "other")
    bench.plane.sleep(1)
    core.text_mutex.release()
    assert dropped == ["refused"]


@pytest.mark.parametrize("operation", ["arm_kprobe", "disarm_kprobe"])
def test_probed_text_is_written_under_text_mutex_only(bench, operation):
    p = Kprobe(symbol_name="f")
    bench.kprobes.register_kprobe(p)
    entry = bench.kprobes.get_kprobe(p.at)
    before = bench.machine.text.read(BASE, 16)
    with pytest.raises(EngineBug, match="text_mutex"):
        getattr(bench.kprobes.optprobes, operation)(entry)
    assert bench.machine.text.read(BASE, 16) == before


def test_a_jump_goes_back_under_text_mutex_only(bench):
    p = Kprobe(symbol_name="f")
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    with pytest.raises(EngineBug, match="text_mutex"):
        bench.kprobes.optimizer.force_unoptimize(bench.kprobes.get_kprobe(p.at))


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_pass_moves_jumps_under_text_mutex_only(bench, monkeypatch, direction):
    p = Kprobe(symbol_name="f")
    bench.kprobes.register_kprobe(p)
    if direction == "out":
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(p)
    before = bench.machine.text.read(BASE, 16)
    locked_text = bench.kprobes.locked_text
    # The lock around the step that writes here is left out: the first one where jumps go out, or
    # where one lock is for both steps, else the second.
    forgets = direction == "out" or bench.kprobes.profile.pass_holds_text_lock
    kept = iter([nullcontext] if forgets else [locked_text, nullcontext])
    monkeypatch.setattr(bench.kprobes, "locked_text", lambda why: next(kept)(why))
    with pytest.raises(EngineBug, match="text_mutex"):
        bench.kprobes.wait_for_kprobe_optimizer()
    assert bench.machine.text.read(BASE, 16) == before


def test_a_breakpoint_of_a_forced_back_probe_goes_under_text_mutex_only(bench):
    p = Kprobe(symbol_name="f")
    bench.kprobes.register_kprobe(p)
    with pytest.raises(EngineBug, match="text_mutex"):
        bench.kprobes.optimizer.disarm(bench.kprobes.get_kprobe(p.at))
    assert bench.machine.text.read(BASE, 1) == b"\xcc"


def test_text_mutex_of_another_task_is_none_of_mine(bench):
    p = Kprobe(symbol_name="f", flags=KprobeFlag.DISABLED)
    bench.kprobes.register_kprobe(p)
    refused: list[str] = []

    def other() -> None:
        with pytest.raises(EngineBug, match="text_mutex"):
            bench.kprobes.optprobes.arm_kprobe(bench.kprobes.get_kprobe(p.at))
        refused.append("arm")

    with bench.kprobes.text_mutex:
        bench.plane.schedule_delayed_work(other, 0, "other")
        bench.plane.sleep(1)
    assert refused == ["arm"]
    assert bench.machine.text.read(BASE, 16) == bench.image.read(BASE, 16)


def test_code_is_marked_gone_under_kprobe_mutex_only(bench):
    p = Kprobe(symbol_name="f")
    bench.kprobes.register_kprobe(p)
    with pytest.raises(EngineBug, match="kprobe_mutex"):
        kill_kprobe(bench.kprobes, bench.kprobes.get_kprobe(p.at))
    assert not p.gone


SLEEPS = {
    "register": lambda core: core.register_kprobe(Kprobe(symbol_name="g")),
    "unregister": lambda core: core.unregister_kprobe(core.get_kprobe(BASE)),
    "disable": lambda core: core.disable_kprobe(core.get_kprobe(BASE)),
    "enable": lambda core: core.enable_kprobe(core.get_kprobe(BASE)),
    "register a return probe": lambda core: core.register_kretprobe(Kretprobe(symbol_name="g")),
    "module going": lambda core: core.kprobes_module_going(BASE, 256),
    "enabled": lambda core: set_kprobes_enabled(core, on=False),
    "kprobes-optimization": lambda core: set_kprobes_optimization(core, on=False),
    "wait for the optimizer": lambda core: core.wait_for_kprobe_optimizer(),
    "synchronize_sched": lambda core: core.plane.synchronize_sched("test"),
    "synchronize_rcu_tasks": lambda core: core.plane.synchronize_rcu_tasks("test"),
    "text_poke_sync": lambda core: core.plane.text_poke_sync("test"),
    "stop_machine": lambda core: core.plane.stop_machine(lambda: None, "test"),
    "sleep": lambda core: core.plane.sleep(1),
}


@pytest.mark.parametrize("what", SLEEPS)
def test_a_handler_may_not_sleep(bench, what):
    p = Kprobe(symbol_name="f", pre_handler=lambda *_: SLEEPS[what](bench.kprobes))
    bench.kprobes.register_kprobe(p)
    before = bench.machine.text.read(BASE, 512)
    with pytest.raises(EngineBug, match="preemption off"):
        bench.call("f", 1)
    assert bench.machine.text.read(BASE, 512) == before
    bench.kprobes.unregister_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert bench.call("f", 1) == 4


@pytest.mark.parametrize("what", SLEEPS)
def test_what_runs_under_stop_machine_may_not_sleep(bench, what):
    bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
    with pytest.raises(EngineBug, match="under stop_machine"):
        bench.plane.stop_machine(lambda: SLEEPS[what](bench.kprobes), "test")
    bench.plane.sleep(1)


def _slept(bench) -> None:
    with pytest.raises(EngineBug, match="preemption off"):
        bench.plane.sleep(1)


@pytest.mark.parametrize("method", [Method.INT3, Method.BOOSTED, Method.OPTIMIZED])
def test_no_handler_of_a_probe_may_sleep_however_it_was_reached(bench, method):
    slept: list[str] = []

    def handler(*_) -> None:
        _slept(bench)
        slept.append("refused")

    post = handler if method is Method.INT3 else None
    bench.kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
    p = Kprobe(symbol_name="f", pre_handler=handler, post_handler=post)
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (bench.method(p) is Method.OPTIMIZED) == (method is Method.OPTIMIZED)
    assert bench.call("f", 1) == 4
    assert len(slept) == (2 if post else 1)


def test_no_handler_of_a_return_probe_may_sleep(bench):
    slept: list[str] = []

    def handler(*_) -> None:
        _slept(bench)
        slept.append("refused")

    bench.kprobes.register_kretprobe(
        Kretprobe(symbol_name="f", entry_handler=handler, handler=handler)
    )
    for _ in range(2):
        assert bench.call("f", 1) == 4
        bench.kprobes.wait_for_kprobe_optimizer()
    assert len(slept) == 4


def test_locks_are_dropped_in_the_reverse_order_only(bench):
    core = bench.kprobes
    core.kprobe_mutex.acquire("test")
    core.text_mutex.acquire("test")
    with pytest.raises(EngineBug, match="last lock"):
        core.kprobe_mutex.release()
    core.text_mutex.release()
    core.kprobe_mutex.release()
    with core.module_mutex:
        pass


def test_a_task_may_not_end_with_a_lock_held(bench):
    bench.plane.schedule_delayed_work(
        lambda: bench.kprobes.text_mutex.acquire("test"), 1, "careless"
    )
    with pytest.raises(EngineBug, match="careless ends with text_mutex held"):
        bench.plane.sleep(3)


def test_a_lock_that_could_not_be_had_is_not_held(bench):
    def keep() -> None:
        with bench.kprobes.kprobe_mutex:
            bench.plane.wait_until(lambda: bool(over), "the end")

    over: list[str] = []
    bench.plane.schedule_delayed_work(keep, 1, "keeper")
    bench.plane.sleep(2)
    for _ in range(2):
        with pytest.raises(Deadlock, match=r"kprobe_mutex.*keeper waits: the end"):
            bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
    with bench.kprobes.module_mutex:
        pass
    over.append("now")
    bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))


def test_a_wait_that_nothing_can_end_is_a_deadlock_that_names_who_waits(bench):
    with bench.kprobes.kprobe_mutex, pytest.raises(Deadlock, match=r"optimizer|waits"):
        bench.plane.wait_until(lambda: False, "nothing")


def test_control_tasks_that_want_one_lock_take_turns(bench):
    log: list[str] = []

    def work(name: str) -> None:
        with bench.kprobes.kprobe_mutex:
            log.append(f"{name} in")
            bench.plane.sleep(3)
            log.append(f"{name} out")

    for name in ("a", "b"):
        bench.plane.schedule_delayed_work(lambda name=name: work(name), 1, name)
    bench.plane.sleep(20)
    assert log == ["a in", "a out", "b in", "b out"]
