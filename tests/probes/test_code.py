"""Functions found by address, decoded once, forgotten when their text changes."""

from __future__ import annotations

import random

from arch_x86.probes.code import FUNCTION_SIZE_MAX, CodeCache, RangeIndex
from engine.image import Image, Range, Segment, Symbol
from tests.probes.images import BASE, cache_of


def _image(*symbols: Symbol, text: bytes = b"\x90" * 64) -> Image:
    return Image(name="test", segments=(Segment(BASE, text, len(text)),), symbols=symbols)


def _names(cache: CodeCache, offsets: range) -> list[str | None]:
    return [
        None if (function := cache.function_at(BASE + offset)) is None else function.symbol.name
        for offset in offsets
    ]


def test_lookup_by_address() -> None:
    cache = CodeCache(
        _image(Symbol("a", BASE, 2), Symbol("b", BASE + 3, 1), Symbol("far", BASE + 64, 4))
    )
    assert _names(cache, range(-1, 6)) == [None, "a", "a", None, "b", None, None]
    assert cache.function_at(BASE + 64) is None  # behind the segment: not text
    assert cache.function_at(BASE) is cache.function_at(BASE + 1)


def test_symbols_end_where_the_next_starts() -> None:
    cache = CodeCache(_image(Symbol("outer", BASE, 6), Symbol("inner", BASE + 2, 2)))
    assert _names(cache, range(7)) == ["outer", "outer", "inner", "inner", None, None, None]


def test_symbols_without_a_size_last_until_the_next() -> None:
    cache = CodeCache(_image(Symbol("a", BASE, 0), Symbol("b", BASE + 2, 0)))
    assert _names(cache, range(3)) == ["a", "a", "b"]
    last = cache.function_at(BASE + 63)
    assert last is not None
    assert (last.symbol.name, last.size) == ("b", 62)


def test_the_longest_of_several_names_counts() -> None:
    cache = CodeCache(
        _image(Symbol("short", BASE, 2), Symbol("long", BASE, 4), Symbol("also", BASE, 4))
    )
    assert _names(cache, range(5)) == ["also", "also", "also", "also", None]
    assert [symbol.name for symbol in cache.functions] == ["also"]


def test_symbols_past_the_segment_are_cut() -> None:
    function = cache_of(b"\x90\x90", size=1 << 40).function_at(BASE)
    assert function is not None
    assert function.size == 2
    assert function.decodable


def test_the_size_has_a_limit() -> None:
    image = Image(
        name="test", segments=(Segment(BASE, b"", 1 << 30),), symbols=(Symbol("f", BASE, 0),)
    )
    function = CodeCache(image).function_at(BASE)
    assert function is not None
    assert function.size == FUNCTION_SIZE_MAX


def test_the_sweep() -> None:
    # push rbp; mov rbp, rsp; jne .; call .; jmp [rax]; ret
    function = cache_of(bytes.fromhex("55 4889e5 75fe e8fbffffff ff20 c3")).function_at(BASE)
    assert function is not None
    assert list(function.insns) == [0, 1, 4, 6, 11, 13]
    assert function.boundaries == {BASE + offset for offset in function.insns}
    assert function.jump_targets == (BASE + 4,)
    assert function.has_indirect_jump
    assert function.jumps_into(BASE + 4, BASE + 4)
    assert not function.jumps_into(BASE + 5, BASE + 100)
    assert function.insn_at(BASE + 2) is None


def test_the_sweep_stops_where_nothing_decodes() -> None:
    function = cache_of(bytes.fromhex("90 c5f80fc0 90")).function_at(BASE)
    assert function is not None
    assert (function.decoded_size, function.decodable) == (1, False)


def test_a_last_instruction_may_reach_behind_the_function() -> None:
    function = CodeCache(
        _image(Symbol("a", BASE, 2), text=bytes.fromhex("90e80000000090"))
    ).function_at(BASE)
    assert function is not None
    assert (function.decoded_size, function.decodable) == (6, True)


def test_reads_and_decodes_once_until_invalidated() -> None:
    text = bytearray(b"\x90" * 32)
    reads: list[int] = []

    def read(addr: int, size: int) -> bytes:
        reads.append(addr)
        return bytes(text[addr - BASE : addr - BASE + size])

    image = _image(Symbol("a", BASE, 16), Symbol("b", BASE + 16, 16))
    cache = CodeCache(image, read)
    for _ in range(3):
        assert len(cache.function_at(BASE).insns) == 16  # type: ignore[union-attr]
        assert cache.function_at(BASE + 20) is not None
    assert reads == [BASE, BASE + 16]
    text[0:2] = b"\xeb\x00"
    cache.invalidate(BASE + 1, 1)
    assert len(cache.function_at(BASE).insns) == 15  # type: ignore[union-attr]
    assert cache.function_at(BASE + 20) is not None
    assert reads == [BASE, BASE + 16, BASE]
    text[16:18] = b"\xeb\x00"  # the last instruction of a may reach here
    cache.invalidate(BASE + 16, 2)
    assert cache.function_at(BASE) is not None
    assert len(cache.function_at(BASE + 16).insns) == 15  # type: ignore[union-attr]
    assert sorted(reads[3:]) == [BASE, BASE + 16]


def test_range_index_is_the_plain_search() -> None:
    draw = random.Random(1)
    for _ in range(50):
        ranges = [Range(draw.randrange(100), draw.randrange(6)) for _ in range(draw.randrange(12))]
        index = RangeIndex(ranges)
        for _ in range(100):
            addr, size = draw.randrange(110), draw.randrange(1, 8)
            assert index.overlaps(addr, size) == any(
                r.size and r.overlaps(addr, size) for r in ranges
            )
            assert (addr in index) == any(addr in r for r in ranges)
