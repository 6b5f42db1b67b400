"""Locks and waits, checked at run time: order, owner, text_mutex around every write to probed text, no sleep with preemption off."""

from __future__ import annotations

import pytest

from arch_x86.lab.bench import Workbench
from engine.errors import Deadlock, EngineBug
from engine.kprobe import Kprobe
from engine.profile import PROFILES
from engine.switches import set_kprobes_enabled
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


@pytest.mark.parametrize(
    "sleeps",
    [
        lambda core: core.register_kprobe(Kprobe(symbol_name="g")),
        lambda core: core.wait_for_kprobe_optimizer(),
        lambda core: core.plane.synchronize_sched("test"),
        lambda core: core.plane.text_poke_sync("test"),
        lambda core: core.plane.stop_machine(lambda: None, "test"),
        lambda core: core.plane.sleep(1),
        lambda core: set_kprobes_enabled(core, on=False),
    ],
)
def test_a_handler_may_not_sleep(bench, sleeps):
    p = Kprobe(symbol_name="f", pre_handler=lambda *_: sleeps(bench.kprobes))
    bench.kprobes.register_kprobe(p)
    with pytest.raises(EngineBug, match="preemption off"):
        bench.call("f", 1)
    bench.kprobes.unregister_kprobe(p)
    assert bench.call("f", 1) == 4


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
