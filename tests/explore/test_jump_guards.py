"""Laws of jumps to themselves, by which a protocol keeps CPUs away from the bytes behind them."""

from __future__ import annotations

import pytest

import optprobe
from tests.explore.patched_functions import function, patched, verdict

SPIN = b"\xeb\xfe"


def spins(p, patches):
    for patch in patches:
        p.store(patch.addr, SPIN, "a jump to itself")
        p.sync("a jump to itself")
        p.copy(patch.addr + 2, patch.new[2:], "rest")
        p.sync("rest")
        p.store(patch.addr, patch.new[:2], "first bytes")
        p.sync("first bytes")


def waits_for_spinning_cpus(p, patches):
    (patch,) = patches
    p.store(patch.addr, SPIN, "a jump to itself")
    p.wait_for_cpus("a jump to itself")
    p.copy(patch.addr + 2, patch.new[2:], "rest")
    p.store(patch.addr, patch.new[:2], "first bytes")
    p.sync("first bytes")


declared = optprobe.protocol(guards=[SPIN])
undeclared = optprobe.protocol()


def test_a_jump_to_itself_is_torn_unless_the_protocol_declares_it():
    assert verdict(patched(0, undeclared(spins), "coherent")) == "torn"
    for fetch in ("coherent", "stale", "unit:8"):
        assert verdict(patched(0, declared(spins), fetch)) == "safe", fetch


def test_a_jump_to_itself_that_is_fetched_in_pieces_is_torn():
    found = [verdict(patched(at, declared(spins), "unit:8")) for at in (5, 6, 7)]
    assert found == ["safe", "safe", "torn"]
    assert verdict(patched(0, declared(spins), "torn")) == "torn"


def test_both_directions_are_safe_with_preempted_tasks_too():
    result = optprobe.patch(
        function(0),
        call="f",
        arguments=[5],
        sites=["f+0x3"],
        to=["call:g"],
        protocol=declared(spins),
        back=True,
        preempt=True,
        calls=1,
        preemptions=1,
    )
    assert verdict(result) == "safe"
    assert min(result.coverage.old_code, result.coverage.new_code) > 0


def test_a_wait_for_a_cpu_that_jumps_to_itself_is_a_deadlock():
    (report,) = patched(0, declared(waits_for_spinning_cpus), "coherent").violations
    assert report.violation.kind is optprobe.ViolationKind.DEADLOCK
    assert "CPU 0 jumps to itself" in report.violation.explain


def test_a_task_that_jumps_to_itself_loses_its_cpu_to_another_task():
    result = optprobe.patch(
        function(0),
        call="f",
        arguments=[5],
        sites=["f+0x3"],
        to=["call:g"],
        protocol=declared(waits_for_spinning_cpus),
        preempt=True,
        calls=1,
        preemptions=1,
    )
    # Only where no other task is left to take the CPU, nobody can go on.
    assert result.violations[0].schedule.choices > 2


def test_strict_excepts_a_breakpoint_and_neither_a_hlt_nor_a_jump_to_itself():
    def strict(protocol):
        return verdict(
            optprobe.patch(
                function(0),
                call="f",
                arguments=[5],
                sites=["f+0x3"],
                to=["call:g"],
                protocol=protocol,
                strict=True,
                calls=1,
                preemptions=1,
            )
        )

    found = [strict(one) for one in ("text_poke_bp", "hlt_first", declared(spins))]
    assert found == ["safe", "torn", "torn"]


@pytest.mark.parametrize(
    "guards", [[b"\xeb\xfd"], [b"\xcc"], [b"\xeb"], [b"\xeb\xfe\x90"], [b""], [5], "eb fe", 7]
)
def test_a_guard_that_is_no_jump_to_itself_is_refused(guards):
    with pytest.raises(optprobe.InputError, match="guards="):
        optprobe.protocol(guards=guards)
