"""Laws of what ``optprobe litmus`` says of a fetch, and of which models allow what was seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arch_x86.lab.litmus_code import LINE, WIDTHS, Counters, Event
from arch_x86.lab.litmus_verdict import MODELS, Cell, fetched, strongest, sums
from tests.lab.litmus_cells import cell

NAMES = [model.name for model in MODELS]
UNITS = (64, 32, 16, 8)


def allowing(*cells: Cell) -> list[str]:
    """The names of the models that allow what is in the cells."""
    return [model.name for model in MODELS if model.objection(cells) is None]


@st.composite
def fetches(draw):
    """The width and offset of a store, and the stores that a fetch took its bytes from."""
    width = draw(st.sampled_from(WIDTHS))
    offset = draw(st.integers(0, LINE - 1))
    before = draw(st.integers(1, 1 << 40))
    published = draw(st.integers(0, 100))
    stores = draw(
        st.lists(
            st.integers(max(0, before - 100), before + published + 1),
            min_size=width,
            max_size=width,
        )
    )
    return width, offset, before, published, stores


def event(before: int, published: int, stores: list[int], newest: int = 0) -> Event:
    value = int.from_bytes(bytes(one % 256 for one in stores), "little")
    return Event(before, published, value, newest, 0)


@given(fetches())
def test_a_fetch_is_torn_exactly_between_bytes_of_different_stores(fetch):
    width, offset, before, published, stores = fetch
    seen = fetched(event(before, published, stores), width, offset)
    assert seen.borders == tuple(
        (offset + at) % LINE for at in range(1, width) if stores[at] != stores[at - 1]
    )


@given(fetches())
def test_a_fetch_is_stale_if_a_byte_is_older_than_the_publication(fetch):
    width, offset, before, published, stores = fetch
    seen = fetched(event(before, published, stores), width, offset)
    assert seen.stale == (min(stores) < before)
    assert not seen.undecided


@given(fetches(), st.integers(0, 300))
def test_a_fetch_went_back_if_a_byte_is_older_than_one_fetched_before(fetch, back):
    width, offset, before, published, stores = fetch
    newest = max(0, before + published + 1 - back)
    seen = fetched(event(before, published, stores, newest), width, offset)
    assert seen.backward == (min(stores) < newest)


@given(fetches(), st.integers(255, 1 << 40))
def test_a_fetch_in_which_a_byte_can_be_any_store_is_undecided(fetch, published):
    width, offset, before, _, stores = fetch
    seen = fetched(event(before, published, stores, newest=before + 1), width, offset)
    assert (seen.undecided, seen.stale, seen.backward) == (True, False, False)


@given(fetches())
def test_a_fetch_of_the_254_stores_that_a_byte_tells_apart_is_decided(fetch):
    width, offset, before, _, _ = fetch
    last = [before + 255] * width
    assert fetched(event(before, 254, last), width, offset).stale is False
    assert fetched(event(before, 253, last), width, offset).stale is True


@given(st.lists(fetches(), max_size=20), st.integers(0, 1_000), st.data())
def test_each_call_of_a_cell_is_one_of_current_torn_stale_and_undecided(made, plain, data):
    one = cell(8, 20)
    events = [
        event(before, published, (stores * 8)[:8], data.draw(st.integers(0, before)))
        for _, _, before, published, stores in made
    ]
    one.add(Counters(plain + len(events), plain, 7, 9), events)
    assert one.calls == one.current + one.torn + one.stale + one.undecided == plain + len(made)
    assert one.torn_stale <= one.torn <= sum(one.borders.values())
    assert (one.overlapped, one.stores) == (7, 9)
    one.add(Counters(1, 1, 0, 0), [])
    assert one.current + one.torn + one.stale + one.undecided == plain + len(made) + 1


def test_nothing_seen_is_allowed_by_every_model():
    assert allowing(cell(calls=10, current=10)) == NAMES


@pytest.mark.parametrize("border", range(LINE))
def test_a_tear_is_allowed_by_the_units_that_its_border_divides(border):
    allowed = [f"unit:{unit}" for unit in UNITS if border % unit == 0]
    assert allowing(cell(torn=1, borders={border: 1})) == [*allowed, "torn"]


@pytest.mark.parametrize(("border", "best"), [(0, "unit:64"), (32, "unit:32"), (16, "unit:16")])
def test_the_strongest_model_is_that_of_the_unit_which_was_torn_around(border, best):
    model = strongest([cell(torn=1, borders={0: 5, border: 1})])
    assert model is not None
    assert model.name == best


@pytest.mark.parametrize("how", ["stale", "torn_stale"])
def test_a_stale_fetch_is_allowed_by_every_model_but_the_coherent_one(how):
    assert allowing(cell(**{how: 1})) == NAMES[1:]


@pytest.mark.parametrize("how", ["stale", "torn_stale"])
def test_a_stale_fetch_behind_a_serializing_instruction_is_allowed_by_no_model(how):
    cells = [cell(calls=1, current=1), cell(serialized=True, **{how: 1})]
    assert allowing(*cells) == []
    assert strongest(cells) is None


def test_a_tear_behind_a_serializing_instruction_is_a_tear_like_any_other():
    assert allowing(cell(serialized=True, torn=1, borders={32: 1})) == allowing(
        cell(torn=1, borders={32: 1})
    )


def test_a_fetch_that_went_back_is_allowed_by_no_model():
    assert allowing(cell(backward=1, current=1)) == []


def test_undecided_fetches_are_held_against_no_model():
    assert allowing(cell(undecided=100), cell(serialized=True, undecided=1)) == NAMES


@given(
    st.lists(
        st.builds(
            cell,
            serialized=st.booleans(),
            stale=st.integers(0, 1),
            torn_stale=st.integers(0, 1),
            backward=st.sampled_from((0, 0, 0, 1)),
            borders=st.dictionaries(st.integers(0, LINE - 1), st.integers(1, 3), max_size=3),
        ),
        max_size=4,
    )
)
def test_what_a_model_allows_every_weaker_model_allows(cells):
    allowed = allowing(*cells)
    assert allowed == NAMES[len(NAMES) - len(allowed) :]
    best = strongest(cells)
    assert (best.name if best else None) == (allowed[0] if allowed else None)


def test_the_sums_of_cells_are_the_sums_of_each_count():
    both = sums([cell(calls=3, torn=1, borders={1: 1}), cell(calls=4, stale=2, overlapped=5)])
    assert (both.calls, both.torn, both.stale, both.overlapped) == (7, 1, 2, 5)
    assert sums([]).calls == 0
