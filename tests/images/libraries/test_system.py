"""A machine's own libraries as they are: each call against the same function of this process.

Where this machine has no such library, the shipped workload beside it stands for the law.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import struct
import time
import zlib
from functools import cache

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.images import load_image
from arch_x86.lab.jobs import verify_image
from arch_x86.lab.run import ExecOptions, run_image
from arch_x86.lab.verify import Sweep
from engine.image import Image
from engine.syntax.arguments import BufferArgument, DoubleArgument, IntegerArgument, parse_argument
from engine.syntax.kprobe_events import parse_spec
from tests.conftest import Rig
from tests.images.elf_builder import ELF
from tests.images.libraries.places import find_library

TEXT = b"The quick brown fox jumps over the lazy dog"
DATA = bytes(i * i >> 3 & 255 for i in range(300)) + b"hello hello hello" * 9


@cache
def image_of(name: str, *libraries: str) -> Image | None:
    paths = [find_library(each) for each in (name, *libraries)]
    found = [path for path in paths if path is not None]
    return load_image(found[0], libraries=found[1:]) if len(found) == len(paths) else None


@cache
def host(name: str) -> ctypes.CDLL:
    path = find_library(name)
    assert path is not None
    return ctypes.CDLL(str(path))


def argument(value):
    if isinstance(value, bytes):
        return BufferArgument(value)
    return DoubleArgument(value) if isinstance(value, float) else IntegerArgument(value)


def call(pool, image, name, *values, **options):
    return run_image(
        image,
        name,
        [argument(value) for value in values],
        pool=pool,
        options=ExecOptions(**options),
    )


@pytest.fixture
def workload(pool):
    """A shipped call in a library's stead; the test has nothing more to do then."""

    def run(name: str, symbol: str, *arguments: str, result: int) -> None:
        found = run_image(
            load_image(ELF / name), symbol, [parse_argument(text) for text in arguments], pool=pool
        )
        assert (found.fault, found.calls[0].result) == (None, result)

    return run


class TestMathematics:
    ONE = (
        "sin",
        "cos",
        "tan",
        "exp",
        "log",
        "sqrt",
        "cbrt",
        "floor",
        "ceil",
        "rint",
        "atan",
        "tanh",
        "erf",
    )

    @pytest.mark.parametrize("name", ONE)
    def test_one_argument(self, pool, workload, name):
        image = image_of("libm.so.6")
        if image is None:
            workload("ifunc.so", "ifunc_sum", "buf:0102", "2", result=3)
            return
        function = getattr(host("libm.so.6"), name)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
        for value in (0.7, 12.5):
            result = call(pool, image, name, value)
            assert result.fault is None
            # The last bit may differ: here the resolver takes the version without fused
            # multiply-add.
            assert result.calls[0].result_f64 == pytest.approx(function(value), rel=4e-16)

    def test_two_arguments_and_errno(self, pool, workload):
        image = image_of("libm.so.6")
        if image is None:
            workload("tls.so", "tls_count", "7", result=(1 << 64) - 893)
            return
        assert call(pool, image, "pow", 2.0, 10.5).calls[0].result_f64 == pytest.approx(
            2**10.5, rel=4e-16
        )
        r = Rig(image, pool)
        r.executor.begin_call(0, image.by_name["fmod"].addr, (), (1.0, 0.0))
        assert r.executor.run_call(0, 10_000) is None
        # the only thread-local variable
        errno_at = r.machine.layout.fs_base(0) - len(image.thread_image)
        assert r.machine.ram.read(errno_at, 4) == struct.pack("<I", errno.EDOM)
        r.machine.close()


class TestCompression:
    @pytest.mark.parametrize("libraries", [(), ("libc.so.6",)])
    def test_deflate_gives_the_same_bytes_with_our_functions_and_with_the_c_library(
        self, pool, workload, libraries
    ):
        image = image_of("libz.so.1", *libraries)
        if image is None:
            workload("lz.so", "lz_decompress", "buf:00", "0", "buf:+8", "8", result=0)
            return
        function = host("libz.so.1").compress2
        room, size = ctypes.create_string_buffer(1000), ctypes.c_ulong(1000)
        assert function(room, ctypes.byref(size), DATA, len(DATA), 6) == 0
        packed = room.raw[: size.value]
        assert zlib.decompress(packed) == DATA

        result = call(
            pool, image, "compress2", bytes(1000), struct.pack("<Q", 1000), DATA, len(DATA), 6
        )
        assert (result.fault, result.calls[0].result) == (None, 0)
        assert result.calls[0].buffers[0][: len(packed)] == packed
        assert result.calls[0].buffers[1] == struct.pack("<Q", len(packed))
        result = call(
            pool, image, "uncompress", bytes(1000), struct.pack("<Q", 1000), packed, len(packed)
        )
        assert (result.calls[0].result, result.calls[0].buffers[0][: len(DATA)]) == (0, DATA)

    def test_checksums(self, pool, workload):
        image = image_of("libz.so.1")
        if image is None:
            workload("ifunc.so", "ifunc_sum", "buf:0102", "2", result=3)
            return
        assert call(pool, image, "crc32", 0, DATA, len(DATA)).calls[0].result == zlib.crc32(DATA)
        assert call(pool, image, "adler32", 1, DATA, len(DATA)).calls[0].result == zlib.adler32(
            DATA
        )

    def test_a_library_s_function_can_be_probed_and_its_fault_is_named(self, pool, workload):
        image = image_of("libz.so.1", "libc.so.6")
        if image is None:
            workload("ifunc.o", "ifunc_both", "buf:01", "1", result=2 | 0 << 63 | 1 << 63)
            return
        probes = [parse_spec(name) for name in ("compress", "malloc", "memcpy")]
        arguments = [argument(v) for v in (bytes(100), struct.pack("<Q", 100), TEXT, len(TEXT))]
        result = run_image(image, "compress", arguments, probes, pool=pool)
        assert result.fault is None
        assert [probe.hits > 0 for probe in result.probes] == [True] * 3
        fault = call(pool, image, "strlen", 0x10).fault
        assert fault is not None
        assert (fault.symbol, fault.kind) == ("strlen", FaultKind.UNMAPPED_ACCESS)


class TestCLibrary:
    CASES = (
        ("strlen", TEXT + b"\0"),
        ("memchr", TEXT, ord("j"), len(TEXT)),
        ("strchr", TEXT + b"\0", ord("q")),
        ("strstr", TEXT + b"\0", b"fox\0"),
        ("strspn", TEXT + b"\0", b"ehTqu \0"),
        ("memcpy", bytes(700), bytes(range(250)) * 3, 700),
        ("memmove", bytes(9000), bytes(range(250)) * 36, 9000),
        ("memset", bytes(500), 65, 499),
        ("strcpy", bytes(60), TEXT + b"\0"),
        ("strncasecmp", TEXT + b"\0", TEXT.upper() + b"\0", 40),
        ("strtol", b" -123456\0", 0, 10),
        ("strtoul", b"0xfFf\0", 0, 0),
        ("toupper", ord("q")),
        ("snprintf", bytes(64), 64, b"%d %s %x\0", 42, b"hi\0", 255),
        ("snprintf", bytes(64), 64, b"%.10g\0", 3.14159),
        ("rand_r", struct.pack("<I", 7)),
    )

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
    def test_calls(self, pool, workload, case):
        image = image_of("libc.so.6")
        if image is None:
            workload("tls.so", "tls_sum", "buf:0102", "2", result=9)
            return
        name, *values = case
        buffers = [ctypes.create_string_buffer(v, len(v)) for v in values if isinstance(v, bytes)]
        left = iter(buffers)
        function = getattr(host("libc.so.6"), name)
        function.restype = ctypes.c_uint64
        given = [
            (
                next(left)
                if isinstance(v, bytes)
                else ctypes.c_double(v)
                if isinstance(v, float)
                else ctypes.c_int64(v)
            )
            for v in values
        ]
        want = function(*given)
        result = call(pool, image, name, *values)
        assert result.fault is None
        assert result.calls[0].buffers == tuple(buffer.raw for buffer in buffers)
        places = [ctypes.addressof(buffer) for buffer in buffers]
        # a pointer into a buffer lies elsewhere in the guest
        if not any(place <= want <= place + 16384 for place in places):
            assert result.calls[0].result & 0xFFFFFFFF == want & 0xFFFFFFFF

    def test_what_it_asks_the_system_ends_the_call(self, pool, workload):
        image = image_of("libc.so.6")
        if image is None:
            workload("canary.so", "canary_add", "1", "2", result=3)
            return
        fault = call(pool, image, "getpid").fault
        assert fault is not None
        assert (fault.symbol, fault.kind) == ("getpid", FaultKind.SYSTEM_CALL)

    def test_it_allocates_from_the_guest_s_arena(self, pool, workload):
        image = image_of("libc.so.6")
        if image is None:
            workload("canary.so", "canary_add", "1", "2", result=3)
            return
        result = call(pool, image, "strdup", TEXT + b"\0")
        assert result.fault is None
        assert image.segment_at(result.calls[0].result) is not None

    def test_sites_that_only_the_unwind_table_knows_are_verified(self, pool, workload):
        image = image_of("libc.so.6")
        if image is None:
            workload("dyn.so", "dyn_step", "-5", result=985)
            return
        result = verify_image(
            image, "strlen", [argument(TEXT[:5] + b"\0")], sweep=Sweep("sample", 1, 2), pool=pool
        )
        assert (result.good, result.sites > 8) == (True, True)

    def test_starting_is_quick(self, pool, workload):
        path = find_library("libc.so.6")
        if path is None:
            workload("dyn.so", "dyn_step", "-5", result=985)
            return
        began = time.process_time()
        assert call(pool, load_image(path), "abs", -5).calls[0].result == 5
        assert time.process_time() - began < 4


def test_hashing_by_a_library_without_its_constructors(pool, workload):
    image = image_of("libcrypto.so.3")
    if image is None:
        workload("canary.so", "canary_add", "1", "2", result=3)
        return
    context = bytes(128)
    first = call(pool, image, "SHA256_Init", context)
    assert (first.fault, first.calls[0].result) == (None, 1)
    result = call(
        pool,
        image,
        "SHA256_Transform",
        first.calls[0].buffers[0],
        b"abc\x80".ljust(63, b"\0") + b"\x18",
    )
    assert result.fault is None
    words = struct.unpack_from("<8I", result.calls[0].buffers[0])
    assert struct.pack(">8I", *words) == hashlib.sha256(b"abc").digest()


def test_an_entry_of_the_linkage_table_has_the_name_of_the_function_that_it_jumps_to():
    image = image_of("libz.so.1")
    entries = [symbol for symbol in image.functions if symbol.name.endswith("@plt")]
    assert len(entries) > 20
    own = 0
    for entry in entries:
        code = image.read(entry.addr, 16)
        at = code.index(b"\xff\x25")
        word = entry.addr + at + 6 + int.from_bytes(code[at + 2 : at + 6], "little", signed=True)
        function = image.by_name.get(entry.name.removesuffix("@plt"))
        if function is not None and not function.indirect:
            own += int.from_bytes(image.read(word, 8), "little") == function.addr
    assert own > 5
