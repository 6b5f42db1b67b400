"""Laws of the instruction slot caches: dirty slots, grace periods, pages given back, poison."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from arch_x86.emu.fault import FaultKind, GuestFaultError
from arch_x86.lab.bench import Workbench, build_arch
from engine.control.stepped_plane import SteppedPlane
from engine.core.ablation import without
from engine.core.kprobes import Kprobes
from engine.core.profiles import PROFILES
from engine.errors import InputError, KprobeError
from engine.image import Image, Segment, Symbol
from engine.kprobe import Kprobe, Method
from tests.conftest import BASE

COUNT = 700
"""The number of functions that can be optimized.

Their probes take more than two pages of slots and thirty of detour buffers. One more function,
``g``, can't be boosted.
"""


def image() -> Image:
    code, symbols = b"", []
    for i in range(COUNT):
        # mov eax, i; lea rcx, [rax + 1]; ret
        body = b"\xb8" + i.to_bytes(4, "little") + b"\x48\x8d\x48\x01\xc3"
        symbols.append(Symbol(f"f{i}", BASE + len(code), len(body)))
        code += body.ljust(16, b"\xcc")
    symbols.append(Symbol("g", BASE + len(code), 3))
    code += b"\xff\xc0\xc3"  # inc eax; ret
    return Image(name="many", segments=(Segment(BASE, code, len(code)),), symbols=tuple(symbols))


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def bench(request, pool):
    made = Workbench(image(), pool=pool, profile=request.param)
    yield made
    made.close()


def probes(bench, count: int, offset: int = 0) -> list[Kprobe]:
    ps = [Kprobe(symbol_name=f"f{i}", offset=offset) for i in range(count)]
    bench.kprobes.register_kprobes(ps)
    bench.kprobes.wait_for_kprobe_optimizer()
    return ps


def remove(bench, ps) -> None:
    bench.kprobes.unregister_kprobes(ps)
    bench.kprobes.wait_for_kprobe_optimizer()


def slot(bench, p: Kprobe) -> int:
    return bench.kprobes.get_kprobe(p.at).ainsn.slot


def test_a_dirty_slot_is_not_used_again_before_its_grace_period(bench):
    first = probes(bench, 2)
    dirty = {slot(bench, p) for p in first}
    remove(bench, first)
    assert bench.arch.slots.garbage == len(dirty)
    again = probes(bench, 5)
    assert not dirty & {slot(bench, p) for p in again}


def test_a_cpu_in_a_call_holds_the_slots_back_until_the_call_ends(bench):
    bench.machine.text.write(
        BASE + 16 * COUNT, b"\xff\xcf\x75\xfc\xc3", reason="dec edi; jne g; ret"
    )
    first = probes(bench, 1)
    dirty = slot(bench, first[0])
    remove(bench, first)
    bench.start_call(0, BASE + 16 * COUNT, (5_000,))
    bench.run_turn()
    order: list[str] = []
    bench.machine.call_ended.append(lambda _cpu: order.append("call"))
    bench.arch.slots.collect_garbage_slots()
    order.append("collected")
    assert order == ["call", "collected"]
    assert slot(bench, probes(bench, 1)[0]) == dirty


def test_a_slot_freed_again_while_another_task_waits_is_not_its_to_collect(bench):
    """Two tasks collect garbage, and one comes back first.

    It hands a slot out, which is freed again after the other task's wait began.
    """
    plane = SteppedPlane(bench)
    arch = build_arch(bench.machine, bench.machine.text, plane, bench.kprobes.profile)
    cache = arch.slots
    cache.free(cache.get(), dirty=True)

    def again() -> None:
        cache.collect_garbage_slots()
        cache.free(cache.get(), dirty=True)

    plane.spawn("one", cache.collect_garbage_slots)
    plane.spawn("other", again)
    for task in (0, 1, 1, 0):
        plane.step(task)
    assert all(task.done for task in plane.tasks)
    assert (cache.used, cache.garbage) == (0, 1)


def test_without_room_for_a_detour_buffer_the_probe_stays_a_breakpoint(bench):
    layout = bench.machine.layout
    bench.machine.layout = replace(layout, detours_size=4096)
    arch = build_arch(bench.machine, bench.machine.text, bench.plane, bench.kprobes.profile)
    bench.machine.trap_handler = arch.traps
    kprobes = Kprobes(arch, bench.plane, bench.machine.kallsyms, bench.kprobes.profile)
    ps = [Kprobe(symbol_name=f"f{i}") for i in range(arch.detours.slots_per_page + 3)]
    kprobes.register_kprobes(ps)
    kprobes.wait_for_kprobe_optimizer()
    methods = [arch.method_of(kprobes.kprobe_table[p.at]) for p in ps]
    assert methods == [Method.OPTIMIZED] * arch.detours.slots_per_page + [Method.BOOSTED] * 3
    kprobes.unregister_kprobes(ps)
    kprobes.wait_for_kprobe_optimizer()
    assert bench.machine.text.read(BASE, 16 * COUNT) == bench.image.read(BASE, 16 * COUNT)


def test_without_room_for_a_slot_nothing_is_registered(bench):
    layout = bench.machine.layout
    bench.machine.layout = replace(layout, slots_size=4096)
    arch = build_arch(bench.machine, bench.machine.text, bench.plane, bench.kprobes.profile)
    kprobes = Kprobes(arch, bench.plane, bench.machine.kallsyms, bench.kprobes.profile)
    ps = [Kprobe(symbol_name=f"f{i}") for i in range(arch.slots.slots_per_page)]
    kprobes.register_kprobes(ps)
    p = Kprobe(symbol_name="f500")
    with pytest.raises(KprobeError) as refused:
        kprobes.register_kprobe(p)
    assert refused.value.errno == errno.ENOMEM
    assert kprobes.get_kprobe(p.at) is None
    kprobes.unregister_kprobe(ps[0])
    kprobes.wait_for_kprobe_optimizer()
    p.addr = None
    kprobes.register_kprobe(p)  # garbage is collected for this slot


def test_collecting_garbage_takes_one_grace_period_and_makes_the_slots_free(bench):
    first = probes(bench, 2)
    dirty = {slot(bench, p) for p in first}
    remove(bench, first)
    before = bench.plane.stats.grace_periods
    bench.arch.slots.collect_garbage_slots()
    assert bench.plane.stats.grace_periods == before + 1
    assert bench.arch.slots.garbage == 0
    assert dirty == {slot(bench, p) for p in probes(bench, 2)}


def test_garbage_is_collected_rather_than_a_page_added(bench):
    per_page = bench.arch.detours.slots_per_page
    remove(bench, probes(bench, per_page))
    assert bench.arch.detours.garbage == per_page
    probes(bench, 1)
    assert (bench.arch.detours.pages, bench.arch.detours.garbage) == (1, 0)


def test_more_than_a_page_of_garbage_is_collected_at_once(bench):
    ps = probes(bench, bench.arch.detours.slots_per_page + 1)
    assert bench.arch.detours.pages == 2
    remove(bench, ps)
    assert bench.arch.detours.garbage == 0


def test_a_slot_without_a_jump_back_is_free_at_once(bench):
    ps = [Kprobe(symbol_name="g")]  # a trap ends its copy
    bench.kprobes.register_kprobes(ps)
    used = slot(bench, ps[0])
    remove(bench, ps)
    assert bench.arch.slots.garbage == 0
    assert not bench.arch.slots.owns(used)


def test_pages_are_given_back_when_empty_but_for_the_last(bench):
    ps = probes(bench, COUNT)
    caches = bench.arch.slots, bench.arch.detours
    assert [cache.pages for cache in caches] == [
        -(-COUNT // cache.slots_per_page) for cache in caches
    ]
    remove(bench, ps)
    for cache in caches:
        cache.collect_garbage_slots()
        assert (cache.pages, cache.used, cache.garbage) == (1, 0, 0)


def test_a_page_given_back_can_be_had_again(bench):
    for _ in range(2):
        ps = probes(bench, COUNT)
        assert bench.call("f5") == 5
        remove(bench, ps)
    highest = max(slot(bench, p) for p in probes(bench, 10))
    assert highest < bench.machine.layout.slots + 4096 * (COUNT // 256 + 1)


def test_a_freed_slot_is_poisoned_and_faults(bench):
    p = probes(bench, 1)[0]
    entry = bench.kprobes.get_kprobe(p.at)
    places = [
        (entry.ainsn.slot, bench.arch.slots.slot_size),
        (entry.optinsn.detour.addr, bench.arch.detours.slot_size),
    ]
    assert all(
        bench.arch.in_use(addr) and bench.arch.in_use(addr + size - 1) for addr, size in places
    )
    remove(bench, [p])
    for addr, size in places:
        assert bench.machine.text.read(addr, size) == b"\xcc" * size
        assert not bench.arch.in_use(addr)
        bench.start_call(0, addr)
        assert bench.finish_calls()[0].kind is FaultKind.BREAKPOINT


def test_a_page_given_back_is_not_there(bench):
    ps = probes(bench, COUNT)
    places = {slot(bench, p) for p in ps}
    remove(bench, ps)
    bench.arch.slots.collect_garbage_slots()
    gone = next(addr for addr in sorted(places) if not bench.machine.text.covers(addr, 1))
    bench.start_call(0, gone)
    assert bench.finish_calls()[0].kind is FaultKind.UNMAPPED_FETCH


def test_slots_lie_within_two_gib_of_the_text_that_they_serve(bench):
    ps = probes(bench, COUNT)
    for p in ps:
        entry = bench.kprobes.get_kprobe(p.at)
        assert all(
            abs(addr - p.at) < 1 << 31 for addr in (entry.ainsn.slot, entry.optinsn.detour.addr)
        )


def test_without_the_reuse_wait_a_dirty_slot_is_used_again_at_once(pool):
    for profile in PROFILES:
        bench = Workbench(
            image(), pool=pool, profile=without(profile, frozenset({"slot-reuse-wait"}))
        )
        first = probes(bench, 1)
        dirty = slot(bench, first[0])
        remove(bench, first)
        assert slot(bench, probes(bench, 1)[0]) == dirty
        bench.close()


class TestUnloadedText:
    """Removing an image: what the module loader does to text, and the core to its probes."""

    SIZE = 16

    def unload(self, bench) -> bytes:
        data = bench.image.read(BASE, self.SIZE)
        bench.kprobes.kprobes_module_going(BASE, self.SIZE)
        bench.machine.unload_text(BASE, self.SIZE)
        return data

    def test_faults_when_executed(self, bench):
        self.unload(bench)
        with pytest.raises(GuestFaultError):
            bench.call("f0")

    def test_whole_pages_of_it_are_not_there(self, bench):
        start = (BASE >> 12 << 12) + 4096
        bench.machine.unload_text(start, 4096)
        assert bench.machine.text.read(start, 1) == b""
        bench.start_call(0, start)
        assert bench.finish_calls()[0].kind is FaultKind.UNMAPPED_FETCH
        data = bench.image.read(start, 4096)
        bench.machine.load_text(start, data)
        assert bench.machine.text.read(start, 4096) == data

    def test_takes_no_probe(self, bench):
        self.unload(bench)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(Kprobe(symbol_name="f0"))
        assert refused.value.errno == (
            errno.ENOENT if bench.kprobes.profile.lookup_is_enoent else errno.EINVAL
        )

    def test_keeps_its_probes_as_gone_until_they_are_unregistered(self, bench):
        p = probes(bench, 1)[0]
        self.unload(bench)
        assert p.gone
        assert bench.arch.detours.used == 0
        with pytest.raises(KprobeError):
            bench.kprobes.enable_kprobe(p)
        remove(bench, [p])
        assert not bench.kprobes.kprobe_table

    def test_is_whole_when_it_is_loaded_again_whatever_stood_there(self, bench):
        probes(bench, 1)
        data = self.unload(bench)
        bench.machine.load_text(BASE, data)
        assert bench.machine.text.read(BASE, self.SIZE) == data
        assert bench.call("f0") == 0

    def test_gives_a_probe_registered_there_later_a_slot_of_its_own(self, bench):
        hits = []
        old = probes(bench, 1)[0]
        data = self.unload(bench)
        bench.machine.load_text(BASE, data)
        p = Kprobe(symbol_name="f0", pre_handler=lambda *_: hits.append(1))
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.call("f0") == 0
        assert (len(hits), old.gone, p.gone) == (1, True, False)
        remove(bench, [p, old])
        assert bench.machine.text.read(BASE, self.SIZE) == data

    @pytest.mark.parametrize(("start", "size"), [(0x1000, 16), (BASE, 0), (BASE, 1 << 30)])
    def test_has_to_be_text(self, bench, start, size):
        with pytest.raises(InputError):
            bench.machine.unload_text(start, size)

    def test_is_loaded_again_as_it_was_unloaded(self, bench):
        with pytest.raises(InputError):
            bench.machine.load_text(BASE, b"\x90")
