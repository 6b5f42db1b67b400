"""What a vCPU may fetch in each fetch model, against the definition taken literally.

The definition (docs/fetch-models.md): the stores w1 .. wn; a class of addresses for each address;
for each class k a view v(k); a fetch picks j(k) with v(k) <= j(k) <= n for each class k of the
instruction's bytes, fetches what the first j(k) stores leave there, and v(k) becomes j(k).
"""

from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
from hypothesis import given, settings

from arch_x86.isa.decode import decode_length
from engine.patching.fetch_model import (
    FETCH_MODELS,
    NOTHING_LEFT,
    Store,
    fetch_model,
    left_after,
    ways_to_fetch,
)

BASE, SIZE, WINDOW = 0x1000, 24, 15
UNITS = [model.unit for model in FETCH_MODELS if model.unit is not None]


def sized(data: bytes, _ip: int) -> int:
    """Sizes of a toy instruction set: the low two bits of the first byte, and one."""
    return (data[0] & 3) + 1


class Plain:
    """The definition, without a thought about what can be left out."""

    def __init__(self, text: bytes, unit: int) -> None:
        self.contents = [text]
        self.unit = unit
        self.views = {frozenset[tuple[int, int]]()}

    def store(self, addr: int, data: bytes) -> None:
        text = bytearray(self.contents[-1])
        text[addr - BASE : addr - BASE + len(data)] = data
        self.contents.append(bytes(text))

    def class_of(self, addr: int) -> int:
        return addr // self.unit if self.unit else 0

    def fetches(self, ip: int) -> dict[bytes, set[frozenset[tuple[int, int]]]]:
        """By the bytes that may be fetched at ``ip``: the views behind such a fetch."""
        last, found = len(self.contents), dict[bytes, set[frozenset[tuple[int, int]]]]()
        for view in self.views:
            seen = dict(view)
            classes = sorted({self.class_of(ip + i) for i in range(4)})
            for picked in product(*(range(seen.get(k, 0), last) for k in classes)):
                at = dict(zip(classes, picked, strict=True))
                data = bytes(
                    self.contents[at[self.class_of(ip + i)]][ip - BASE + i] for i in range(4)
                )
                insn = data[: sized(data, ip)]
                own = {self.class_of(ip + i) for i in range(len(insn))}
                after = frozenset({**seen, **{k: at[k] for k in own}}.items())
                found.setdefault(insn, set()).add(after)
        return found


TEXTS = st.binary(min_size=SIZE, max_size=SIZE)
STORES = st.lists(
    st.tuples(st.integers(0, 5), st.binary(min_size=1, max_size=3)), min_size=0, max_size=4
)


@given(text=TEXTS, stores=STORES, ips=st.lists(st.integers(0, 5), max_size=3), data=st.data())
@settings(max_examples=300)
def test_a_vcpu_fetches_what_the_definition_says_in_each_model(text, stores, ips, data):
    unit = data.draw(st.sampled_from([0, 1, 2, 4, 8]))
    split = data.draw(st.integers(0, len(stores)))
    plain, view, now = Plain(text, unit), NOTHING_LEFT, bytearray(text)

    def store(offset, new):
        nonlocal view
        addr = BASE + offset
        plain.store(addr, new)
        view = left_after(view, [Store(addr, bytes(now[offset : offset + len(new)]), new)], unit)
        now[offset : offset + len(new)] = new

    for one in stores[:split]:
        store(*one)
    for offset in ips:
        ways = ways_to_fetch(BASE + offset, bytes(now[offset : offset + WINDOW]), view, sized)
        expected = plain.fetches(BASE + offset)
        assert {way.insn for way in ways} == set(expected)
        assert len({way.insn for way in ways}) == len(ways)
        assert ways[0].insn == bytes(now[offset : offset + len(ways[0].insn)])
        taken = data.draw(st.sampled_from(ways))
        view, plain.views = taken.view, expected[taken.insn]
        if stores[split:]:
            store(*stores[split])
            split += 1


@given(text=TEXTS, stores=STORES, offset=st.integers(0, 5))
def test_each_model_may_fetch_all_that_the_model_before_it_may(text, stores, offset):
    before: set[bytes] = set()
    for unit in UNITS:
        now, view = bytearray(text), NOTHING_LEFT
        for at, new in stores:
            old = bytes(now[at : at + len(new)])
            view = left_after(view, [Store(BASE + at, old, new)], unit)
            now[at : at + len(new)] = new
        window = bytes(now[offset : offset + WINDOW])
        found = {way.insn for way in ways_to_fetch(BASE + offset, window, view, sized)}
        assert before <= found
        before = found


def test_an_eight_byte_store_tears_at_the_borders_of_units_only():
    old, new = bytes.fromhex("e800000000909090"), bytes.fromhex("e811111111909090")
    for model in FETCH_MODELS[1:]:
        assert model.unit is not None
        for offset in range(64):
            addr = BASE + offset
            view = left_after(NOTHING_LEFT, [Store(addr, old, new)], model.unit)
            ways = ways_to_fetch(
                addr, new + bytes(7), view, lambda data, _ip: decode_length(data) or 1
            )
            torn = {way.insn for way in ways} - {old[:5], new[:5]}
            # Only the displacement changes, which is the four bytes behind the first one.
            first, last = offset + 1, offset + 4
            splits = model.unit > 0 and first // model.unit != last // model.unit
            assert bool(torn) is splits, (model.name, offset)


def test_the_models_are_called_as_the_design_says():
    assert [model.name for model in FETCH_MODELS] == [
        "coherent",
        "stale",
        "unit:64",
        "unit:32",
        "unit:16",
        "unit:8",
        "torn",
    ]
    assert fetch_model("unit:8").unit == 8
