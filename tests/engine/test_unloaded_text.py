"""Laws of code that is unloaded and loaded again, on the machine's side.

test_insn_slots.py has those of its probes.
"""

from __future__ import annotations

import errno

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.lab.bench import Workbench
from arch_x86.text.space import TextSpace
from engine.core.profiles import LINUX_6_1, LINUX_2010, PROFILES
from engine.errors import EngineBug, InputError, KprobeError
from engine.image import Image, Segment, Symbol
from engine.kprobe import Kprobe
from tests.conftest import BASE

PAGE = 4096
SPIN = BASE + 2 * PAGE
"""The address of ``spin``, which counts RDI down, on a page of its own.

In front of it are two pages of ``f0`` and so on, which return their number.
"""


def image() -> Image:
    code, symbols = b"", []
    for i in range(2 * PAGE // 16):
        # mov eax, i; lea rcx, [rax + 1]; ret
        body = b"\xb8" + i.to_bytes(4, "little") + b"\x48\x8d\x48\x01\xc3"
        symbols.append(Symbol(f"f{i}", BASE + len(code), len(body)))
        code += body.ljust(16, b"\xcc")
    symbols.append(Symbol("spin", SPIN, 8))
    # dec rdi; jne spin; xor eax, eax; ret
    code += b"\x48\xff\xcf\x75\xfb\x31\xc0\xc3".ljust(PAGE, b"\xcc")
    return Image(name="pages", segments=(Segment(BASE, code, len(code)),), symbols=tuple(symbols))


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def bench(request, pool):
    made = Workbench(image(), cpus=2, pool=pool, profile=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("size", [8, PAGE])
def test_a_cpu_inside_faults_at_its_next_instruction_on_every_vcpu(bench, size):
    for cpu in range(2):
        bench.start_call(cpu, SPIN, (1 << 30,))
    bench.run_turn()
    bench.machine.unload_text(SPIN, size)
    bench.machine.load_text(SPIN, bench.image.read(SPIN, size))
    bench.run_turn()
    assert all(bench.executor.running(cpu) for cpu in range(2)), "nobody executed while it was away"
    bench.machine.unload_text(SPIN, size)
    faults = bench.finish_calls()
    assert [fault.cpu for fault in faults] == [0, 1]
    assert all(SPIN <= fault.rip < SPIN + 8 for fault in faults)


@pytest.mark.parametrize(
    ("size", "kind"),
    [(PAGE, FaultKind.UNMAPPED_FETCH), (16, FaultKind.BREAKPOINT)],
    ids=["page", "part"],
)
def test_the_report_says_so_and_shows_no_code_that_is_not_there(bench, size, kind):
    bench.machine.unload_text(BASE, size)
    bench.start_call(0, BASE)
    fault = bench.finish_calls()[0]
    assert (fault.kind, fault.symbol, fault.offset) == (kind, "f0", 0)
    assert "unloaded" in fault.explain
    assert "mov" not in fault.explain


def test_it_cannot_be_read(bench):
    bench.machine.unload_text(BASE + PAGE, PAGE)
    assert bench.machine.read(BASE + PAGE, 1) is None
    assert bench.machine.read(BASE + PAGE - 4, 8) is None
    assert bench.machine.read(BASE + PAGE - 4, 4) == b"\xcc" * 4


@pytest.mark.parametrize("size", [16, PAGE])
@pytest.mark.parametrize(
    ("profile", "answer"),
    [(LINUX_2010, errno.EINVAL), (LINUX_6_1, errno.ENOENT)],
    ids=["linux-2010", "linux-6.1"],
)
def test_a_probe_there_is_refused_as_one_outside_of_all_text(pool, profile, answer, size):
    bench = Workbench(image(), pool=pool, profile=profile)
    bench.machine.unload_text(BASE, size)
    outside = Kprobe(addr=BASE - PAGE)
    for p in (Kprobe(symbol_name="f0"), outside):
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(p)
        assert refused.value.errno == answer
    assert bench.arch.slots.used == 0
    bench.kprobes.register_kprobe(Kprobe(symbol_name="f256"))
    bench.close()


def test_what_is_loaded_there_need_not_be_what_was(bench):
    hits = []
    p = Kprobe(symbol_name="f3")
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    bench.kprobes.kprobes_module_going(BASE, PAGE)
    bench.machine.unload_text(BASE, PAGE)
    code = bench.image.read(BASE, PAGE).replace(b"\xb8\x03\0\0\0", b"\xb8\x7b\0\0\0")
    bench.machine.load_text(BASE, code)
    fresh = Kprobe(symbol_name="f3", pre_handler=lambda _p, _regs: hits.append(1))
    bench.kprobes.register_kprobe(fresh)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (bench.call("f3"), hits) == (0x7B, [1]), "the copy is of the code that stands there now"
    bench.kprobes.unregister_kprobes([p, fresh])
    bench.kprobes.wait_for_kprobe_optimizer()
    assert bench.machine.text.read(BASE, PAGE) == code


def test_a_piece_of_what_is_unloaded_cannot_be_unloaded_again(bench):
    bench.machine.unload_text(BASE, 64)
    for start, size in ((BASE, 64), (BASE + 16, 16), (BASE + 48, 32), (BASE, 128)):
        with pytest.raises(InputError):
            bench.machine.unload_text(start, size)
    bench.machine.load_text(BASE, bench.image.read(BASE, 64))
    assert not any(bench.machine.text.is_unloaded(addr) for addr in range(BASE, BASE + 128))


@pytest.mark.parametrize(
    ("start", "size"), [(BASE + 4, 28), (BASE, 21)], ids=["at its start", "at its end"]
)
def test_it_holds_no_half_of_a_function(bench, start, size):
    """The other half of the function, and a jump that spans the two, would be left."""
    with pytest.raises(InputError):
        bench.machine.unload_text(start, size)


def test_a_function_without_a_size_lasts_until_the_next(pool):
    code = b"\x90" * (2 * PAGE)
    symbols = (Symbol("f", BASE, 0), Symbol("g", BASE + PAGE + 16, 0))
    bench = Workbench(
        Image(name="sizeless", segments=(Segment(BASE, code, len(code)),), symbols=symbols),
        pool=pool,
    )
    with pytest.raises(InputError):
        bench.machine.unload_text(BASE, PAGE)
    bench.machine.unload_text(BASE, PAGE + 16)
    bench.machine.unload_text(BASE + PAGE + 16, PAGE - 16)
    bench.close()


def test_a_snapshot_takes_along_what_was_unloaded(bench):
    before = bench.machine.snapshot()
    bench.machine.unload_text(BASE, PAGE)
    after = bench.machine.snapshot()
    bench.machine.restore(before)
    assert bench.call("f7") == 7
    # a page of slots, which is not in the snapshots
    bench.kprobes.register_kprobe(Kprobe(symbol_name="spin"))
    with pytest.raises(EngineBug):
        bench.machine.restore(after)


def test_a_snapshot_of_unloaded_code_goes_back_to_that(bench):
    bench.machine.unload_text(BASE, PAGE)
    snap = bench.machine.snapshot()
    bench.machine.load_text(BASE, bench.image.read(BASE, PAGE))
    assert bench.call("f7") == 7
    bench.machine.restore(snap)
    assert bench.machine.read(BASE, 1) is None
    with pytest.raises(KprobeError):
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f7"))
    bench.machine.load_text(BASE, bench.image.read(BASE, PAGE))
    assert bench.call("f7") == 7


def test_a_snapshot_does_not_go_back_over_pages_that_were_made_again(bench):
    """There are as many pages of text as then, but a page of slots in use would not be there."""
    ps = [Kprobe(symbol_name=f"f{i}") for i in range(300)]
    for _ in range(2):
        bench.kprobes.register_kprobes(ps)
        bench.kprobes.unregister_kprobes(ps)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.arch.slots.collect_garbage_slots()
        for p in ps:
            p.addr = None
    snap = bench.machine.snapshot()
    bench.machine.restore(snap)
    bench.kprobes.register_kprobes(ps)
    assert bench.machine.text.current.extent == snap.text.extent
    with pytest.raises(EngineBug):
        bench.machine.restore(snap)
    bench.machine.restore(snap, keep_text=True)
    assert bench.call("f299") == 299


def test_spaces_over_one_store_take_pages_in_any_order(bench):
    """Each space has the pages that it made, and only those.

    The same pages are one version, in whatever order they were made.
    """
    store, port = bench.machine.text.store, bench.machine
    one, other, third = (TextSpace(store, port) for _ in range(3))
    vpns = [bench.machine.layout.slots // PAGE + i for i in range(40)]
    for vpn in vpns:
        one.add_page(vpn, b"\xc3" * PAGE)
    other.add_page(vpns[-1], b"\xc3" * PAGE)
    assert [other.covers(vpn * PAGE, PAGE) for vpn in vpns] == [False] * 39 + [True]
    for vpn in vpns[:-1]:
        one.remove_page(vpn)
    assert one.current is other.current
    bench.start_call(0, vpns[-1] * PAGE)
    assert bench.finish_calls() == []
    for cpu, vpn in enumerate(vpns[:2]):
        bench.start_call(cpu, vpn * PAGE)
    assert [fault.kind for fault in bench.finish_calls()] == [FaultKind.UNMAPPED_FETCH] * 2
    assert third.current is store.initial
    assert not third.covers(vpns[-1] * PAGE, 1)
