"""Laws of ``optprobe litmus``: its native loops, its measurement, and where it refuses."""

from __future__ import annotations

import json
import os
import platform

import pytest

from arch_x86.isa.assemble import assemble
from arch_x86.isa.decode import decode
from arch_x86.lab import litmus, litmus_memory, litmus_threads
from arch_x86.lab.litmus import cpu_pair, run_litmus
from arch_x86.lab.litmus_code import (
    FIELDS,
    LINE,
    OPCODE_SIZE,
    WIDTHS,
    Counters,
    caller_code,
    repeated,
    site_at,
    site_code,
)
from arch_x86.lab.litmus_threads import Loops, Run, Turns, TwoThreads
from arch_x86.lab.litmus_verdict import MODELS, Cell
from engine.commands.cli import main
from engine.errors import InputError
from tests.lab.litmus_cells import loops, refusal

CALLS = 100
EITHER = pytest.mark.parametrize("serialized", [False, True])
WIDTH = pytest.mark.parametrize("width", WIDTHS)


def called(
    native: Loops,
    width: int,
    code: bytes,
    *,
    published: int,
    serialized: bool = False,
    site: int = 0,
    calls: int = CALLS,
) -> Run:
    """What the caller's loop makes of a turn at a site with this code."""
    turns = Turns(calls, overlapped=calls + 1)
    native.prepare(width, turns, last=(site - 1) % LINE, published=published, calls=1, code=code)
    native.acknowledge(site)
    native.run_caller(width, serialized=serialized)
    return native.outcome()


def whole(store: int, width: int) -> bytes:
    """The code of a site that holds this store."""
    return site_code(repeated(store, width))


@WIDTH
def test_every_mixture_of_old_and_new_bytes_is_the_same_instruction(width):
    for mixture in range(1 << width):
        stored = bytes(0xCC if mixture >> at & 1 else 0x05 for at in range(width))
        code = site_code(stored)
        insn = decode(code[: OPCODE_SIZE + 8], 0)
        assert (insn.length, code[:OPCODE_SIZE]) == (10, b"\x48\xb8")
        assert code[10:11] == b"\xc3"


def test_the_immediate_of_site_k_begins_at_offset_k_of_a_line_and_sites_share_none():
    lines = [
        {at // LINE for at in range(site_at(site) - OPCODE_SIZE, site_at(site) + 9)}
        for site in range(LINE)
    ]
    assert [site_at(site) % LINE for site in range(LINE)] == list(range(LINE))
    assert len(set().union(*lines)) == sum(map(len, lines))


@EITHER
@WIDTH
def test_calls_to_code_that_nobody_stores_to_are_plain(width, serialized):
    with loops() as native:
        run = called(native, width, whole(515, width), published=515, serialized=serialized)
    assert run.counters[0] == Counters(CALLS, CALLS, 0, 0)
    assert run.events == [[]] * LINE
    assert run.counters[1:] == [Counters(0, 0, 0, 0)] * (LINE - 1)


@WIDTH
def test_a_store_that_is_not_published_yet_is_current(width):
    with loops() as native:
        run = called(native, width, whole(516, width), published=515)
    assert run.counters[0].plain == CALLS


@EITHER
@WIDTH
@pytest.mark.parametrize("age", [1, 2, 200])
def test_a_call_that_fetches_an_older_store_is_stale(width, serialized, age):
    with loops() as native:
        run = called(
            native, width, whole(900 - age, width), published=900, serialized=serialized, site=63
        )
    cell = Cell(width, 63, serialized)
    cell.add(run.counters[63], run.events[63])
    assert (cell.calls, cell.stale, cell.current, cell.torn) == (CALLS, CALLS, 0, 0)


@EITHER
@pytest.mark.parametrize("width", WIDTHS[1:])
def test_a_call_that_fetches_a_mixture_is_torn_where_the_mixture_changes(width, serialized):
    with loops() as native:
        for at in range(1, width):
            mixed = repeated(901, at) + repeated(900, width - at)
            run = called(
                native, width, site_code(mixed), published=900, serialized=serialized, site=60
            )
            cell = Cell(width, 60, serialized)
            cell.add(run.counters[60], run.events[60])
            assert (cell.calls, cell.torn, cell.torn_stale) == (CALLS, CALLS, 0)
            assert dict(cell.borders) == {(60 + at) % LINE: CALLS}


def test_a_call_that_fetches_an_older_store_than_the_last_one_went_back():
    # RSI is the number of calls before this one in the turn.
    goes_back = assemble("mov eax, 201; sub eax, esi; ret")
    with loops() as native:
        run = called(native, 1, goes_back, published=200, calls=2)
    cell = Cell(1, 0, serialized=False)
    cell.add(run.counters[0], run.events[0])
    assert (cell.calls, cell.current, cell.backward) == (2, 2, 1)


@pytest.mark.parametrize(("stores", "undecided"), [(1, 0), (254, 0), (255, 1), (256, 1)])
def test_a_call_with_more_stores_than_a_byte_tells_apart_is_undecided(stores, undecided):
    publishes = assemble(
        f"mov eax, {900 % 256}; add qword ptr [rdi + {FIELDS.published}], {stores}; ret"
    )
    with loops() as native:
        run = called(native, 1, publishes, published=900, calls=1)
    cell = Cell(1, 0, serialized=False)
    cell.add(run.counters[0], run.events[0])
    assert (cell.undecided, cell.current) == (undecided, 1 - undecided)
    assert (cell.overlapped, cell.stores) == (1, stores)


@EITHER
@WIDTH
def test_the_caller_serializes_between_the_publication_and_the_call_or_does_not(width, serialized):
    code = caller_code(width, serialized=serialized)
    reads, calls = assemble(f"mov r8, [rdi + {FIELDS.published}]"), assemble("call r12")
    between = code.partition(reads)[2].partition(calls)[0]
    assert between == (assemble("xor eax, eax; cpuid") if serialized else b"")


@WIDTH
def test_the_writer_stores_to_its_bytes_alone_and_acknowledges_the_turn(width):
    with loops() as native:
        before = bytes(range(0x11, 0x19))
        native.prepare(
            width, Turns(1, 1), last=7, published=250, stores=9, code=site_code(before), delays=3
        )
        native.run_writer(width)
        assert native.immediate(7) == repeated(259, width) + before[width:]
        assert native.immediate(6) == native.immediate(8) == before
        run = native.outcome()
        assert run.last == 7
        native.run_caller(width, serialized=False)  # the turn of site 8 is not acknowledged
        assert native.outcome().counters == [Counters(0, 0, 0, 0)] * LINE


@WIDTH
def test_the_writer_publishes_the_number_of_its_last_store(width):
    with loops() as native:
        older = whole(0, width)
        native.prepare(width, Turns(1, 9), last=7, published=250, stores=9, calls=1, code=older)
        native.run_writer(width)
        native.acknowledge(8)
        native.run_caller(width, serialized=False)
        assert [event.before for event in native.outcome().events[8]] == [259]


def test_two_mappings_of_one_memory_do_what_one_mapping_does(monkeypatch):
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(litmus_memory, "_map_one", refused)
    with loops() as native:
        assert native.mappings == 2
        run = called(native, 8, whole(7, 8), published=7)
    assert run.counters[0].plain == CALLS


@pytest.fixture(scope="module")
def _measurable():
    """Skips where this machine can't be measured, and says why."""
    why = refusal()
    if why is not None:
        pytest.skip(why)


@pytest.mark.usefixtures("_measurable")
def test_a_measurement_of_this_machine_has_what_holds_on_any_processor(capsys):
    status = main(["litmus", "--seconds", "1", "--json"])
    out, err = capsys.readouterr()
    assert status != 2, err
    document = json.loads(out)
    assert (document["schema"], document["interrupted"], err) == (1, False, "")
    cells = document["cells"]
    assert {(one["width"], one["offset"], one["serialized"]) for one in cells} == {
        (width, offset, serialized)
        for width in WIDTHS
        for offset in range(LINE)
        for serialized in (False, True)
    }
    for one in (document, *cells):
        kinds = ("current", "torn", "stale", "undecided")
        assert one["calls"] == sum(one[kind] for kind in kinds)
        assert one["torn_stale"] <= one["torn"]
        assert one["overlapped"] <= one["calls"]
    for count in ("calls", "stores", "overlapped", "torn", "stale", "backward", "undecided"):
        assert document[count] == sum(one[count] for one in cells)
    for one in cells:
        inside = {(one["offset"] + at) % LINE for at in range(1, one["width"])}
        assert {border["border"] for border in one["borders"]} <= inside
        assert one["width"] > 1 or one["torn"] == 0
        assert not one["serialized"] or one["stale"] == one["torn_stale"] == 0
    assert document["not_overlapped"] == sum(not one["overlapped"] for one in cells)
    assert [one["name"] for one in document["models"]] == [model.name for model in MODELS]
    best = next((one["name"] for one in document["models"] if one["allows"]), None)
    assert (document["strongest"], status) == (best, best is None)


@pytest.mark.usefixtures("_measurable")
def test_a_measurement_runs_each_width_serialized_and_not_and_counts_it_there(monkeypatch):
    def run(self: TwoThreads, width: int, _: Turns, *, serialized: bool, **__: object) -> Run:
        mark = 10 * width + serialized
        return Run([Counters(mark, mark, 1, 1)] * LINE, [[]] * LINE, 0)

    monkeypatch.setattr(litmus_threads.TwoThreads, "run", run)
    for one in run_litmus(1).cells:
        assert one.calls == one.current > 0
        assert one.calls == one.overlapped * (10 * one.width + one.serialized)


@pytest.mark.usefixtures("_measurable")
def test_ctrl_c_in_a_measurement_leaves_what_was_counted():
    def interrupted(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    try:
        result = run_litmus(20, interrupted)
    except KeyboardInterrupt:
        pytest.fail("nothing was counted")
    document = result.to_json()
    assert document["interrupted"] is True
    assert result.seconds < 20
    assert sum(one.calls for one in result.cells) > 0


@pytest.mark.usefixtures("_measurable")
def test_the_text_names_each_model_and_the_strongest(capsys, monkeypatch):
    monkeypatch.setattr(litmus, "_RUN_SECONDS", 0.01)
    assert main(["litmus", "--seconds", "1"]) != 2
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert all(any(line.startswith(f"{model.name} ") for line in lines) for model in MODELS)
    assert "The strongest model that allows what was seen is " in out


def refused(capsys) -> str:
    """The one line in which ``optprobe litmus`` refuses."""
    assert main(["litmus", "--seconds", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("optprobe: litmus: ")
    assert err.count("\n") == 1
    return err


def test_another_processor_architecture_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "this processor is aarch64" in refused(capsys)


def test_a_process_with_one_cpu_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert "one CPU only" in refused(capsys)


def test_a_system_without_executable_memory_is_refused(capsys, monkeypatch):
    def no_memory(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(litmus_memory, "_map", no_memory)
    assert "no memory that it can write and execute (Permission denied)" in refused(capsys)


@pytest.mark.usefixtures("_measurable")
def test_threads_that_never_ran_at_the_same_time_are_refused(capsys, monkeypatch):
    nothing = Run([Counters(5, 5, 0, 0)] * LINE, [[]] * LINE, 0)
    monkeypatch.setattr(litmus_threads.TwoThreads, "run", lambda *_, **__: nothing)
    assert "never ran at the same time" in refused(capsys)


def test_the_two_cpus_are_the_first_and_the_last_that_may_be_used():
    assert cpu_pair({5, 2, 9}) == (2, 9)
    for few in (set(), {4}):
        with pytest.raises(InputError):
            cpu_pair(few)
