"""Laws of non-maskable interrupts, and of the shadow behind STI and MOV SS."""

from __future__ import annotations

import struct

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.emu.stubs import GS_NMIS
from arch_x86.emu.uc import RSP
from arch_x86.isa.constants import FLAG_IF, FLAG_TF
from engine.kprobe import Kprobe, Method
from engine.syntax.interrupts import EveryPlan
from tests.conftest import BASE

SUM = "l: add rax, rdi; push rax; pop rbx; dec rsi; jnz l; ret"
MOV_SS = "mov ecx, 0x10; mov ss, ecx; mov rsp, rsp; nop; ret"
STI = "cli; nop; sti; nop; nop; ret"


def boundaries(r, deliver, function="f"):
    """Offset of each boundary of a call at which ``deliver`` succeeds, which is undone then."""
    r.begin(1, 3, function=function)
    found, seen = set(), set()
    while r.executor.running(0):
        offset = r.machine.cpus[0].rip - BASE
        snap = r.machine.snapshot()
        seen.add(offset)
        if deliver(0):
            found.add(offset)
        r.machine.restore(snap)
        r.machine.release(snap)
        r.executor.advance(0, 1)
    return found, seen


class TestShadow:
    def test_behind_mov_ss_no_interrupt_or_nmi_comes_before_the_next_one_is_done(self, rig):
        r = rig(MOV_SS)
        for deliver in (r.executor.interrupt, r.executor.deliver_nmi):
            found, seen = boundaries(r, deliver)
            assert seen - found == {7}

    def test_a_load_whose_displacement_looks_like_sti_blocks_nmis_too(self, rig):
        r = rig(
            "mov dword ptr [rsp - 5], 0x10; lea rbp, [rsp]; mov ss, word ptr [rbp - 5]; "
            "nop; nop; ret"
        )
        found, seen = boundaries(r, r.executor.deliver_nmi)
        assert r.machine.image.read(BASE + 14, 1) == b"\xfb"
        assert seen - found == {15}

    def test_behind_sti_interrupts_wait_and_nmis_do_not(self, rig):
        r = rig(STI)
        found, seen = boundaries(r, r.executor.interrupt)
        assert seen - found == {1, 2, 3}
        assert boundaries(r, r.executor.deliver_nmi)[0] == seen

    def test_sti_just_before_where_a_jump_leads_casts_no_shadow(self, rig):
        r = rig("jmp l; sti; l: nop; ret")
        found, seen = boundaries(r, r.executor.interrupt)
        assert found == seen

    @pytest.mark.parametrize("text", [MOV_SS, STI])
    def test_a_plan_that_wants_one_in_the_shadow_gets_it_one_instruction_later(self, rig, text):
        r = rig(text)
        assert isinstance(r.call(plan=EveryPlan(1)), int)
        cpu = r.machine.cpus[0]
        assert cpu.interrupts == {MOV_SS: 4, STI: 3}[text]

    def test_behind_mov_ss_there_is_no_single_step_trap_either(self, rig):
        r = rig("mov ecx, 0x10; mov ss, ecx; nop; nop; nop; ret")
        steps = []

        class Debugger:
            def debug(self, cpu, regs) -> bool:
                steps.append(regs.ip - BASE)
                if len(steps) == 4:
                    regs.flags &= ~FLAG_TF
                return True

            def original_ip(self, ip: int) -> int:
                return ip

        r.machine.trap_handler = Debugger()
        r.begin()
        uc = r.machine.cpus[0].uc
        uc.load()
        uc.set_stack_and_flags(uc.gpr[RSP], uc.gpr[16] | FLAG_TF)
        assert r.executor.run_call(0, 1000) is None
        assert steps == [5, 8, 9, 10]


class TestNmi:
    def test_one_at_any_boundary_changes_nothing_whatever_if_says(self, rig):
        for text in (SUM, SUM.replace("l:", "cli; l:").replace("ret", "sti; ret")):
            r = rig(text)
            assert r.call(3, 4) == 12
            plain = r.machine.cpus[0].registers()
            count = 0
            while True:
                r.begin(3, 4)
                r.executor.advance(0, count)
                if not r.executor.running(0):
                    break
                assert r.executor.deliver_nmi(0)
                assert r.executor.run_call(0, 1000) is None
                assert r.machine.cpus[0].registers() == plain
                count += 1
            assert count > 20
            assert r.machine.ram.read_u64(r.machine.layout.gs_base(0) + GS_NMIS) == count
            assert r.machine.cpus[0].interrupts == 0

    def test_the_frame_is_real_and_interrupts_are_off_in_the_handler(self, rig):
        r = rig("sub rsp, 24; std; nop; ret")
        r.begin()
        r.executor.advance(0, 2)
        cpu = r.machine.cpus[0]
        rsp, rip, flags = cpu.registers()[RSP], cpu.rip, cpu.rflags
        assert r.executor.deliver_nmi(0)
        at = cpu.registers()[RSP]
        assert struct.unpack("<5Q", r.machine.ram.read(at, 40)) == (rip, 0x08, flags, rsp, 0x10)
        assert not cpu.rflags & FLAG_IF
        assert not r.executor.interrupt(0)

    def test_another_is_blocked_until_the_iretq_of_the_first_and_not_longer(self, rig):
        r = rig(SUM)
        r.begin(3, 4)
        r.executor.advance(0, 3)
        stubs, cpu = r.machine.stubs, r.machine.cpus[0]
        for _ in range(3):  # each right behind the last
            here = cpu.rip
            assert r.executor.deliver_nmi(0)
            steps = 0
            while cpu.rip in stubs.frames:
                assert not r.executor.deliver_nmi(0)
                r.executor.advance(0, 1)
                steps += 1
            assert steps > 60
            assert cpu.rip == here
        r.executor.run_call(0, 1000)
        assert r.rax() == 12

    def test_one_comes_into_an_interrupt_handler_and_not_the_other_way_round(self, rig):
        r = rig(SUM)
        r.begin(3, 4)
        assert r.executor.interrupt(0)
        r.executor.advance(0, 5)
        assert r.executor.deliver_nmi(0)
        assert not r.executor.interrupt(0)
        assert r.executor.run_call(0, 1000) is None
        assert r.rax() == 12

    def test_the_handler_sees_the_interrupted_registers_and_may_change_them(self, rig):
        r = rig("mov eax, 1; nop; ret", cpus=2)
        seen = []

        def handler(cpu, regs) -> None:
            seen.append((cpu, regs.ip - BASE, regs.ax))
            regs.ax = 77

        r.machine.nmi_handler = handler
        r.begin(cpu=1)
        r.executor.advance(1, 1)
        assert r.executor.deliver_nmi(1)
        assert r.executor.run_call(1, 1000) is None
        assert seen == [(1, 5, 1)]
        assert r.rax(1) == 77

    def test_a_snapshot_in_an_nmi_and_a_call_that_dies_there(self, rig):
        r = rig(SUM)
        r.begin(3, 4)
        assert r.executor.deliver_nmi(0)
        snap = r.machine.snapshot()
        for _ in range(2):
            r.machine.restore(snap)
            assert not r.executor.deliver_nmi(0)
            assert r.executor.run_call(0, 1000) is None
            assert r.rax() == 12
        r.machine.restore(snap)
        fault = r.executor.run_call(0, 20)
        assert (fault.kind, fault.place) == (FaultKind.INSTRUCTION_LIMIT, "f+0x0")
        r.begin(3, 4)
        assert r.executor.deliver_nmi(0)

    def test_without_a_stack_it_is_a_double_fault(self, rig):
        r = rig("xor esp, esp; nop; ret")
        r.begin()
        r.executor.advance(0, 1)
        assert r.executor.deliver_nmi(0)
        assert r.machine.tasks[0].fault.kind is FaultKind.DOUBLE_FAULT

    @pytest.mark.parametrize("method", [Method.INT3, Method.BOOSTED, Method.OPTIMIZED])
    def test_a_probed_call_takes_one_at_any_boundary_of_stubs_slots_and_detours(
        self, workbench, method
    ):
        bench = workbench("xor eax, eax; add eax, 1; add eax, 1; add eax, 1; add eax, 1; ret")
        hits = []
        post = (lambda p, regs, flags: None) if method is Method.INT3 else None
        bench.kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
        probe = Kprobe(
            symbol_name="f",
            offset=2,
            pre_handler=lambda p, regs: hits.append(p.at) and 0,
            post_handler=post,
        )
        bench.kprobes.register_kprobe(probe)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.method(probe) is method
        executor, machine = bench.executor, bench.machine
        assert bench.call("f") == 4
        length = machine.cpus[0].retired
        for count in range(length):
            hits.clear()
            bench.start_call(0, BASE)
            executor.advance(0, count)
            assert executor.deliver_nmi(0)
            assert executor.run_call(0, 1000) is None
            assert (machine.cpus[0].registers()[0], len(hits)) == (4, 1), count
        assert probe.nmissed == 0
