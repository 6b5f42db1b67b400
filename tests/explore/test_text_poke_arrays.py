"""The kernel's array of text pokes: what its handler finds, and what its steps are for."""

from __future__ import annotations

import pytest

from arch_x86.explore.x86_setup import X86Setup
from arch_x86.isa.onward import Onward
from arch_x86.protocols.poke_array import PokeArray
from arch_x86.protocols.protocol import Patch, Patcher
from arch_x86.protocols.protocol_names import PROTOCOLS, protocol_named
from arch_x86.protocols.text_poke_arrays import CAPACITY, smp_text_poke_batch
from arch_x86.text.poke import HandlerCrashError, TextPokeParam
from engine.patching.make_experiment import experiment_of_patch
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.patching.search_options import Search
from engine.patching.verdict import check

ARRAYS = ("text_poke_bp_5_4", "text_poke_bp_5_6", "smp_text_poke_batch", "smp_text_poke_single")
TEXT = """
g: add ebx, 100
 ret
h: add ebx, 1000
 ret
.skip 70000, 0xcc
f: push rbx
 mov ebx, edi
 .byte 0x0f,0x1f,0x44,0,0
 call h
 .byte 0x0f,0x1f,0x44,0,0
 lea eax, [rbx+1]
 pop rbx
 ret
"""
NOP = bytes.fromhex("0f1f440000")
SITES = ("f+0x3", "f+0x8", "f+0xd")


def judged(protocol, *without, sites=SITES, **options):
    port = X86Setup()
    request = Request(
        image=port.scenario_image(TEXT), call="f", arguments=("5",), calls=1, cpus=1, **options
    )
    spec = PatchSpec(sites=sites, codes=("call:g",), protocol=protocol, without=without)
    return check(experiment_of_patch(request, spec, port), Search(preemptions=1), port)


def poke(addr, target=1):
    goes_on = None if target is None else Onward(target, None)
    return TextPokeParam(addr, b"\xe8", "a poke", goes_on)


def test_the_handler_finds_each_poke_of_a_sorted_array_and_no_other():
    array = PokeArray()
    for addr in (10, 20, 30, 40):
        array.add(poke(addr))
    assert [addr for addr in range(50) if array.find(addr)] == [10, 20, 30, 40]


def test_the_handler_misses_a_poke_of_an_array_that_is_not_sorted():
    array = PokeArray()
    array.add(poke(20))
    array.add(poke(10))
    assert array.find(20) is None


def test_a_poke_that_another_handler_takes_is_not_found():
    array = PokeArray()
    array.add(poke(10, target=None))
    assert array.find(10) is None


def test_a_handler_without_entries_or_descriptor_crashes():
    array = PokeArray()
    array.entries = None
    with pytest.raises(HandlerCrashError, match="NULL"):
        array.find(10)
    array = PokeArray()
    array.on_stack = True
    with pytest.raises(HandlerCrashError, match="stack"):
        array.find(10)


@pytest.mark.parametrize("protocol", ARRAYS)
def test_three_patches_by_an_array_are_safe(protocol):
    assert judged(protocol).verdict == "safe"


@pytest.mark.parametrize("protocol", ARRAYS)
def test_a_patch_by_an_array_is_safe_with_late_fetches(protocol):
    assert judged(protocol, sites=SITES[:1], fetch="stale").verdict == "safe"


def test_an_array_that_is_not_flushed_out_of_order_loses_a_breakpoint():
    result = judged("smp_text_poke_single", "flush-out-of-order", sites=SITES[:2])
    (report,) = result.violations
    assert "the protocol's breakpoint, cc, and no handler takes that" in report.violation.explain


@pytest.mark.parametrize("protocol", ARRAYS)
def test_leaving_out_the_last_core_sync_of_an_array_breaks_with_late_fetches(protocol):
    assert judged(protocol, "sync-3", sites=SITES[:1], fetch="stale").violations


class Plane:
    """Counts the core syncs, and takes every store."""

    def __init__(self):
        self.syncs = 0

    def text_poke_sync(self, why):
        self.syncs += 1

    def traps_over(self, why):
        pass

    def write(self, addr, data, reason):
        pass

    store_once = write


@pytest.mark.parametrize(("patches", "batches"), [(1, 1), (CAPACITY, 1), (CAPACITY + 1, 2), (5, 3)])
def test_a_batch_has_no_more_pokes_than_the_array_has_room_for(patches, batches):
    plane = Plane()
    some = [
        Patch(10 * one, NOP, NOP, b"", "a patch", new_goes_on=Onward(1, None))
        for one in range(patches)
    ]
    patcher = Patcher(plane, plane, steps=smp_text_poke_batch.steps, without=frozenset())
    smp_text_poke_batch.run(patcher, some)
    assert plane.syncs == 3 * batches


def test_the_protocols_have_names_of_their_own_and_a_line_that_says_what_each_is():
    assert len({one.name for one in PROTOCOLS}) == len(PROTOCOLS)
    for one in PROTOCOLS:
        assert protocol_named(one.name) is one
        assert one.what.endswith((".", ")."))
