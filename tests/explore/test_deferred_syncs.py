"""Core syncs that leave out CPUs in user mode: safe for code behind the sync of a CPU's entry."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import optprobe
from engine.control.stepped_plane import MachineWait, WaitKind
from engine.patching.boundaries import Boundaries
from engine.patching.fetch_model import Store
from engine.patching.parked_task import Mode
from engine.patching.vcpu import VcpuState
from engine.patching.waits import Waits

LATE_MODELS = ("stale", "unit:8", "torn")
TEXT = """
g: add ebx, 100
 ret
.skip 70000, 0xcc
.p2align 6
f: push rbx
 mov ebx, edi
 .byte 0x0f, 0x1f, 0x44, 0, 0
 nop
 invlpg [rsp]
 nop
 .byte 0x0f, 0x1f, 0x44, 0, 0
 lea eax, [rbx + 1]
 pop rbx
 ret
"""
"""``invlpg`` synchronizes. A site is in front of it, ``f+0x3``, and one behind it, ``f+0xe``."""
IN_ENTRY, BEHIND = "f+0x3", "f+0xe"
SIGNAL, LATE_SIGNAL = "f..f+0x9", "f..f+0xe"
"""Where a CPU counts as in user mode: up to the instruction that synchronizes, or beyond it."""


def deferred(site, fetch, **options):
    return optprobe.patch(
        optprobe.load_asm(TEXT, "f.s"),
        call="f",
        arguments=[5],
        sites=[site],
        to=["call:g"],
        fetch=fetch,
        **{"protocol": "text_poke_bp_deferred", "calls": 1, **options},
    )


@pytest.mark.parametrize("fetch", ["coherent", "torn"])
def test_code_that_runs_behind_the_entrys_own_sync_is_safe(fetch):
    for user in (None, SIGNAL):
        assert deferred(BEHIND, fetch, user=user, preemptions=1).verdict == "safe", user


@pytest.mark.slow
@pytest.mark.parametrize("fetch", ["coherent", "stale", *(f"unit:{n}" for n in (64, 8)), "torn"])
def test_it_is_with_two_cpus_and_two_preemptions_in_every_fetch_model(fetch):
    for user in (None, SIGNAL):
        assert deferred(BEHIND, fetch, user=user, cpus=2).verdict == "safe", user


@pytest.mark.parametrize("fetch", LATE_MODELS)
def test_code_of_the_entry_in_front_of_its_sync_is_not(fetch):
    (report,) = deferred(IN_ENTRY, fetch).violations
    assert report.violation.kind in ("guest-fault", "torn-instruction")
    assert report.schedule.choices <= 4
    assert deferred(IN_ENTRY, fetch, protocol="text_poke_bp", preemptions=1).verdict == "safe"


def test_code_of_the_entry_is_safe_where_every_store_is_seen_at_once():
    assert deferred(IN_ENTRY, "coherent", user=SIGNAL, preemptions=1).verdict == "safe"


@pytest.mark.parametrize("fetch", LATE_MODELS)
def test_a_cpu_has_to_say_that_it_is_in_the_kernel_before_it_synchronizes(fetch):
    (report,) = deferred(BEHIND, fetch, user=LATE_SIGNAL, preemptions=1).violations
    assert report.violation.kind == "guest-fault"


def test_a_cpu_whose_other_task_is_in_the_middle_of_a_call_is_not_in_user_mode():
    options = {"preempt": True, "preemptions": 1, "resched": ["f+0xd"]}
    assert deferred(BEHIND, "torn", **options).verdict == "safe"


def test_places_in_user_mode_are_refused_where_the_protocol_defers_no_sync():
    for site in (IN_ENTRY, BEHIND):
        with pytest.raises(optprobe.InputError, match="interrupts CPUs in user mode, too"):
            deferred(site, "coherent", user=SIGNAL, protocol="text_poke_bp")


def test_a_cpu_in_an_nmi_is_not_in_user_mode():
    vcpu = VcpuState(0)
    port = SimpleNamespace(cpus=None, text=None)
    experiment = SimpleNamespace(lock=None, user=None)
    boundaries = Boundaries(
        SimpleNamespace(experiment=experiment, vcpus=[vcpu], port=port, patches=())
    )
    assert boundaries.in_user_mode(0)
    vcpu.nmi = True
    assert not boundaries.in_user_mode(0)


def test_a_cpu_in_user_mode_is_not_waited_for_and_keeps_what_it_has_not_seen():
    unseen = ((0, (Store(0, b"\x90", b"\xcc"),)),)
    for kind in (WaitKind.SYNC, WaitKind.DEFERRABLE_SYNC):
        vcpus = [VcpuState(index) for index in range(3)]
        for one in vcpus:
            one.view = unseen
        vcpus[1].mode = vcpus[2].mode = Mode.CALL
        takes = {0, 2}  # CPU 1 has interrupts disabled
        waits = Waits(
            vcpus,
            takes.__contains__,
            lambda _: frozenset(),
            lambda _: False,
            lambda _: False,
            lambda: False,
            lambda: False,
            lambda cpu: cpu == 0,
        )
        waits.entered({0: MachineWait(kind, "", 0)}, 0)
        assert [waits.syncs_with(cpu) for cpu in range(3)] == [False, True, False]
        deferred_one = kind is WaitKind.DEFERRABLE_SYNC
        assert [one.view == unseen for one in vcpus] == [deferred_one, True, False]
        takes.add(1)
        waits.ran(vcpus[1])
        assert (waits.over(0), vcpus[1].view) == (True, ())
