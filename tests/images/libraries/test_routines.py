"""The guest's own plain versions of common functions, against what the standard says they do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_x86.emu.fault import FaultKind
from arch_x86.images import load_elf
from arch_x86.images.routines import ARENA_SIZE, ENDINGS, INTERPOSED, ROUTINES
from arch_x86.isa.assemble import assemble
from arch_x86.lab.bench import Workbench
from engine.image import Range
from engine.kprobe import Kprobe
from tests.conftest import Rig
from tests.images.elf_builder import FUNC, Dynamic, Object

GONE = (1 << 64) - 1
strings = st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"a"))
small = st.sampled_from([0, 1, 2, 3, 5, 12, 40])


def importing(names) -> Object:
    """A function ``f`` and calls of every one of ``names``."""
    o = Object()
    text = o.text(b"\xc3".ljust(16, b"\xcc") + b"\xe8\0\0\0\0" * len(names))
    o.symbol("f", text, 0, 1, FUNC)
    for number, name in enumerate(names):
        o.rela(text, 17 + 5 * number, 4, o.symbol(name), -4)
    return o


@pytest.fixture(scope="module")
def lib(pool):
    """A machine that has them all."""
    r = Rig(load_elf(importing(list(ROUTINES)).build(), "all"), pool)
    r.start = r.machine.snapshot()
    yield r
    r.machine.close()


@pytest.fixture(scope="module")
def buffers(lib):
    """Two pages."""
    found = lib.machine.allocate(4096), lib.machine.allocate(4096)
    lib.start = lib.machine.snapshot()
    return found


def run(lib, name, *arguments) -> int:
    value = lib.call(*arguments, function=name, limit=3_000_000)
    assert isinstance(value, int), value
    return value


def signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def test_all_are_assembled_and_none_is_missing(lib):
    assert not lib.machine.image.imports
    assert {s.name for s in lib.machine.image.symbols} == {"f", *ROUTINES}
    assert not ENDINGS.keys() & ROUTINES.keys()
    assert ROUTINES.keys() >= INTERPOSED


class TestMemory:
    @given(data=st.binary(max_size=40), at=small, to=small)
    @settings(max_examples=60)
    def test_copies(self, lib, buffers, data, at, to):
        a, b = buffers
        n = max(0, min(len(data) - at, len(data)))
        for name, end in (("memcpy", 0), ("memmove", 0), ("mempcpy", n), ("__memcpy_chk", 0)):
            lib.machine.ram.write(a, bytes(200))
            lib.machine.ram.write(b, data)
            assert run(lib, name, a + to, b, n, 4096) == a + to + end
            assert lib.machine.ram.read(a, 200) == (bytes(to) + data[:n]).ljust(200, b"\0")
        lib.machine.ram.write(a, data.ljust(200, b"\0"))
        model = bytearray(data.ljust(200, b"\0"))
        model[to : to + n] = model[at : at + n]
        run(lib, "memmove", a + to, a + at, n)
        assert lib.machine.ram.read(a, 200) == model

    @given(byte=st.integers(0, 300), n=small)
    @settings(max_examples=20)
    def test_memset(self, lib, buffers, byte, n):
        a, _ = buffers
        lib.machine.ram.write(a, bytes(64))
        assert run(lib, "memset", a, byte, n) == a
        assert lib.machine.ram.read(a, 64) == (bytes([byte & 255]) * n).ljust(64, b"\0")

    @given(one=st.binary(max_size=6), two=st.binary(max_size=6), byte=st.integers(0, 255))
    @settings(max_examples=80)
    def test_comparison_and_search(self, lib, buffers, one, two, byte):
        a, b = buffers
        n = min(len(one), len(two))
        lib.machine.ram.write(a, one.ljust(8, b"\0"))
        lib.machine.ram.write(b, two.ljust(8, b"\0"))
        value = signed(run(lib, "memcmp", a, b, n))
        assert ((value > 0) - (value < 0)) == (one[:n] > two[:n]) - (one[:n] < two[:n])
        for name, at in (
            ("memchr", one.find(bytes([byte]))),
            ("memrchr", one.rfind(bytes([byte]))),
        ):
            assert run(lib, name, a, byte, len(one)) == (a + at if at >= 0 else 0)


class TestStrings:
    @given(one=strings, two=strings, n=small, byte=st.sampled_from(b"\0ab\xff"))
    @settings(max_examples=80)
    def test_length_comparison_and_search(self, lib, buffers, one, two, n, byte):
        a, b = buffers
        lib.machine.ram.write(a, one + bytes(2))
        lib.machine.ram.write(b, two + bytes(2))
        assert run(lib, "strlen", a) == len(one)
        assert run(lib, "strnlen", a, n) == min(len(one), n)
        for name, left, right in (("strcmp", one, two), ("strncmp", one[:n], two[:n])):
            value = signed(run(lib, name, a, b, n))
            assert ((value > 0) - (value < 0)) == (left > right) - (left < right), name
        whole = one + b"\0"
        for name, at, none in (
            ("strchr", whole.find(byte), 0),
            ("strrchr", whole.rfind(byte), 0),
            ("strchrnul", whole.find(byte), a + len(one)),
        ):
            assert run(lib, name, a, byte) == (a + at if at >= 0 else none), name

    @given(one=strings, two=strings, n=small)
    @settings(max_examples=60)
    def test_copies(self, lib, buffers, one, two, n):
        a, b = buffers
        cut = two[:n]
        for name, start, want, end in (
            ("strcpy", b"", two + b"\0", 0),
            ("stpcpy", b"", two + b"\0", len(two)),
            ("strncpy", b"", cut.ljust(n, b"\0"), 0),
            ("strcat", one, one + two + b"\0", 0),
            ("strncat", one, one + cut + b"\0", 0),
        ):
            lib.machine.ram.write(
                a, (start + b"\0").ljust(100, b"\xee") if start else b"\0" + b"\xee" * 99
            )
            lib.machine.ram.write(b, two + bytes(2))
            assert run(lib, name, a, b, n) == a + end, name
            assert lib.machine.ram.read(a, len(want)) == want, name
            if start or n:
                assert lib.machine.ram.read(a + max(len(want), len(start) + 1), 8) == b"\xee" * 8, (
                    name
                )


class TestAllocator:
    @pytest.fixture(autouse=True)
    def fresh(self, lib, buffers):
        lib.machine.restore(lib.start)

    def test_blocks_are_aligned_apart_and_zero(self, lib):
        found = [(run(lib, "malloc", size), size) for size in (0, 1, 16, 17, 100, 4000)]
        for at, size in found:
            assert at % 16 == 0
            assert lib.machine.ram.read(at, size + 1).strip(b"\0") == b""
            lib.machine.ram.write(at, b"\xff" * size)
            assert run(lib, "malloc_usable_size", at) == size
        ends = [at + size for at, size in found]
        assert all(end <= at - 8 for end, (at, _) in zip(ends, found[1:], strict=False))
        assert run(lib, "free", found[0][0]) is not None

    def test_realloc_keeps_the_content(self, lib):
        first = run(lib, "realloc", 0, 10)
        lib.machine.ram.write(first, b"0123456789")
        larger = run(lib, "realloc", first, 1000)
        assert lib.machine.ram.read(larger, 12) == b"0123456789\0\0"
        assert lib.machine.ram.read(run(lib, "realloc", larger, 4), 5) == b"0123\0"
        assert (
            lib.machine.ram.read(run(lib, "reallocarray", larger, 4, 300), 12) == b"0123456789\0\0"
        )

    @pytest.mark.parametrize("align", [8, 16, 64, 4096])
    def test_alignment(self, lib, buffers, align):
        for at in (run(lib, "memalign", align, 40), run(lib, "aligned_alloc", align, 64)):
            assert at % align == 0
            assert run(lib, "malloc_usable_size", at) in (40, 64)
        assert run(lib, "posix_memalign", buffers[0], align, 24) == 0
        assert lib.machine.ram.read_u64(buffers[0]) % align == 0
        assert lib.machine.ram.read(
            run(lib, "realloc", lib.machine.ram.read_u64(buffers[0]), 100), 24
        ) == bytes(24)

    def test_what_does_not_fit_is_a_null_pointer_and_takes_nothing(self, lib, buffers):
        for size in (ARENA_SIZE, GONE, GONE - 30, 1 << 63):
            assert run(lib, "malloc", size) == 0
            assert run(lib, "memalign", 64, size) == 0
            assert run(lib, "realloc", 0, size) == 0
        assert run(lib, "calloc", 1 << 33, 1 << 33) == 0
        assert run(lib, "reallocarray", 0, 1 << 33, 1 << 33) == 0
        assert run(lib, "posix_memalign", buffers[0], 16, ARENA_SIZE) == 12
        assert run(lib, "calloc", 1000, ARENA_SIZE // 1001)
        assert run(lib, "malloc", 100_000) == 0

    def test_the_whole_arena_can_be_had_and_not_more(self, lib):
        taken = 0
        while at := run(lib, "malloc", 60_000):
            lib.machine.ram.write(at, b"\xff" * 60_000)
            taken += 60_000
        assert ARENA_SIZE - 70_000 < taken < ARENA_SIZE

    def test_two_cpus_never_get_the_same_block(self, pool):
        r = Rig(load_elf(importing(["malloc"]).build(), "two"), pool, cpus=2)
        found: list[int] = []
        for turn in range(1, 12):
            for cpu in (0, 1):
                r.begin(24, cpu=cpu, function="malloc")
            while r.executor.running(0) or r.executor.running(1):
                for cpu in (0, 1):
                    r.executor.advance(cpu, turn)
            found += [r.rax(0), r.rax(1)]
        r.machine.close()
        assert len(set(found)) == len(found)


class TestKernelModules:
    def test_fentry_keeps_every_register(self, lib):
        code = "; ".join(f"mov {name}, {number}" for number, name in enumerate(REGISTERS))
        before = (*range(len(REGISTERS)),)
        o = Object()
        body = assemble(code)
        text = o.text(body + b"\xe8\0\0\0\0\xe8\0\0\0\0\xf4")
        o.symbol("f", text, 0, len(body) + 11, FUNC)
        for at, name in ((1, "__fentry__"), (6, "__x86_return_thunk")):
            o.rela(text, len(body) + at, 4, o.symbol(name), -4)
        r = Rig(load_elf(o.build(), "t.ko"), lib.machine._pool)
        assert r.call().kind is FaultKind.HALT
        values = r.machine.cpus[0].registers()
        assert tuple(values[number] for number in (0, 1, 2, 3, 5, 6, 7, *range(8, 16))) == before
        r.machine.close()

    def test_indirect_thunks_go_where_their_register_points_and_are_told_as_such(self, pool):
        o = Object()
        code = assemble("lea r11, [rip + 5]") + b"\xe9\0\0\0\0" + assemble("mov eax, 5; ret")
        text = o.text(code)
        o.symbol("f", text, 0, len(code), FUNC)
        o.rela(text, 8, 4, o.symbol("__x86_indirect_thunk_r11"), -4)
        image = load_elf(o.build(), "t.ko")
        thunk = image.by_name["__x86_indirect_thunk_r11"]
        assert image.indirect_thunks == Range(thunk.addr, thunk.size)
        r = Rig(image, pool)
        assert r.call() == 5
        r.machine.close()


REGISTERS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))


def test_they_can_be_probed(pool):
    bench = Workbench(load_elf(importing(["strlen"]).build(), "t.o"), pool=pool)
    hits: list[int] = []
    bench.kprobes.register_kprobe(
        Kprobe(symbol_name="strlen", pre_handler=lambda _p, regs: hits.append(regs.di))
    )
    at = bench.machine.allocate(8, b"abc\0")
    assert bench.call("strlen", at) == 3
    assert hits == [at]
    bench.close()


@pytest.mark.parametrize("name", ["__memcpy_chk", "__memset_chk"])
def test_a_copy_beyond_its_buffer_stops_by_name(lib, buffers, name):
    fault = lib.call(buffers[0], buffers[1], 9, 8, function=name)
    assert (fault.symbol, fault.kind) == (name, FaultKind.HALT)


def test_only_what_is_called_is_there():
    assert {s.name for s in load_elf(importing(["strlen", "calloc"]).build(), "t.o").symbols} == {
        "f",
        "strlen",
        "calloc",
        "malloc",
    }
    assert len(load_elf(Dynamic().build(), "t.so").segments) == 2
