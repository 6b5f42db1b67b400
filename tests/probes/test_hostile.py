"""Images that nobody compiled: an answer or a refusal, never an exception."""

from __future__ import annotations

import json
import random
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_x86.probes.code import CodeCache
from arch_x86.probes.eligibility import can_probe
from arch_x86.probes.inspect import inspect_json
from arch_x86.probes.optimize import can_optimize
from engine.image import ExceptionEntry, Image, Range, Reserved, ReservedKind, Segment, Symbol
from tests.probes.images import image_of

ADDRESSES = st.one_of(
    st.integers(0, 64), st.integers(0x1000, 0x1040), st.integers((1 << 64) - 64, (1 << 64) - 1)
)
BASE = 0x1000
SIZES = st.one_of(st.integers(0, 40), st.just(1 << 40))


@st.composite
def images(draw: st.DrawFn) -> Image:
    segments = [
        Segment(
            draw(ADDRESSES),
            data,
            len(data) + draw(st.integers(0, 8)),
            executable=draw(st.booleans()),
        )
        for data in draw(st.lists(st.binary(max_size=40), max_size=3))
    ]
    symbols = [
        Symbol(f"f{number}", draw(ADDRESSES), draw(SIZES), draw(st.booleans()))
        for number in range(draw(st.integers(0, 4)))
    ]
    return Image(
        name="hostile",
        segments=tuple(segments),
        symbols=tuple(symbols),
        exception_table=tuple(
            ExceptionEntry(addr) for addr in draw(st.lists(ADDRESSES, max_size=2))
        ),
        reserved=tuple(
            Reserved(draw(ADDRESSES), draw(SIZES), kind)
            for kind in draw(st.lists(st.sampled_from(ReservedKind), max_size=2))
        ),
        blacklist=tuple(Range(addr, draw(SIZES)) for addr in draw(st.lists(ADDRESSES, max_size=1))),
        indirect_thunks=draw(st.none() | st.builds(Range, ADDRESSES, SIZES)),
        preemption=draw(st.booleans()),
        red_zone=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None)
@given(images(), st.lists(ADDRESSES, max_size=8))
def test_any_image_gets_answers(image: Image, addresses: list[int]) -> None:
    json.dumps(inspect_json(image, buffers=True))
    cache = CodeCache(image)
    for addr in addresses:
        assert can_probe(cache, addr).errno >= 0
        can_optimize(cache, addr, lambda _addr: True)
        cache.invalidate(addr, 16)


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_functions_of_random_bytes_get_an_answer_for_each_byte(seed: int) -> None:
    draw = random.Random(seed)
    sizes = [draw.randrange(1, 40) for _ in range(2_500)]
    text = draw.randbytes(sum(sizes))
    starts = [0, *accumulate(sizes)]
    symbols = tuple(
        Symbol(f"f{n}", BASE + start, size)
        for n, (start, size) in enumerate(zip(starts, sizes, strict=False))
    )
    image = Image(
        name="random",
        segments=(Segment(BASE, text, len(text)),),
        symbols=symbols,
        red_zone=bool(seed & 1),
    )
    document = inspect_json(image, buffers=True)
    assert [len(function["sites"]) for function in document["functions"]] == sizes


@pytest.mark.parametrize("seed", range(2))
def test_a_long_function_of_random_bytes_gets_an_answer_for_each(seed: int) -> None:
    text = random.Random(seed).randbytes(5_000)
    document = inspect_json(image_of(text), buffers=True)
    assert len(document["functions"][0]["sites"]) == len(text)


@pytest.mark.parametrize(
    "text",
    [
        b"\x66" * 4096,
        b"\xf0\xf2\xf3\x2e\x36" * 50,
        b"\x00" * 333,
        b"\xff" * 333,
        b"\xc4" * 64,
        b"\x62" * 64,
        b"\x0f" * 64,
        b"\xe9",
    ],
)
def test_runs_of_one_byte(text: bytes) -> None:
    for size in (0, 1, len(text), len(text) + 1, 1 << 62):
        inspect_json(image_of(text, size=size), buffers=True)


@pytest.mark.parametrize("cut", range(1, 12))
def test_truncated_ends(cut: int) -> None:
    """mov dword ptr [rip+..], imm32 without its last bytes."""
    text = bytes.fromhex("90" + "6667c7840544332211 8877")[:cut]
    cache = CodeCache(image_of(text))
    document = inspect_json(cache.image)
    assert len(document["functions"][0]["sites"]) == len(text)
