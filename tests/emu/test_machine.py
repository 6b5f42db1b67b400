"""Laws of the machine: calls, traps as frames, interrupts, faults as results, snapshots."""

from __future__ import annotations

import gc
import struct
from weakref import ref

import pytest

from arch_x86.emu import uc as uc_module
from arch_x86.emu.calibration import calibrate
from arch_x86.emu.cpu import ExitReason
from arch_x86.emu.fault import FaultKind, GuestFault
from arch_x86.emu.machine import Machine, MachineConfig, new_pool
from arch_x86.emu.stubs import GS_INTERRUPTS
from arch_x86.emu.uc import RSP, PrivateOffsets, UcPool
from arch_x86.isa.constants import FLAG_DF, FLAG_IF
from arch_x86.lab.bench import Workbench
from engine.errors import EngineBug, InputError
from engine.image import ExceptionEntry, Image, Import, Segment
from engine.syntax.interrupts import EveryPlan, parse_interrupts
from tests.conftest import BASE, Rig, asm_image

pytestmark = pytest.mark.smoke

SUM = "l: add rax, rdi; push rax; pop rbx; dec rsi; jnz l; ret"


class TestCalls:
    def test_a_call_returns_rax_and_counts_what_retired(self, rig):
        r = rig(SUM)
        assert r.call(3, 10) == 30
        # loop, ret, and the hlt that the call returns to
        assert r.machine.cpus[0].retired == 10 * 5 + 1 + 1

    def test_integer_arguments_arrive_in_system_v_order(self, rig):
        r = rig(
            "shl rdi, 8; or rdi, rsi; shl rdi, 8; or rdi, rdx; shl rdi, 8; or rdi, rcx; "
            "shl rdi, 8; or rdi, r8; shl rdi, 8; or rdi, r9; mov rax, rdi; ret"
        )
        assert r.call(1, 2, 3, 4, 5, 6) == 0x010203040506

    def test_the_stack_is_aligned_and_df_is_clear_at_entry(self, rig):
        r = rig(
            "lea rax, [rsp + 8]; and rax, 15; pushfq; pop rcx; and rcx, 0x400; or rax, rcx; ret"
        )
        assert r.call() == 0

    def test_each_cpu_has_its_own_registers_stack_and_per_cpu_areas(self, rig):
        r = rig("mov rax, rsp; ret", "mov rcx, 0; mov rax, qword ptr fs:[rcx]; ret", cpus=2)
        assert r.call(cpu=0) != r.call(cpu=1)
        assert r.call(cpu=0, function="g") != r.call(cpu=1, function="g")

    def test_ram_is_shared_between_cpus(self, rig):
        r = rig("mov rax, [rdi]; mov [rdi], rsi; ret", cpus=2)
        where = r.machine.allocate(8)
        assert r.call(where, 77, cpu=0) == 0
        assert r.call(where, 78, cpu=1) == 77

    def test_a_stack_protector_canary_is_at_fs_0x28(self, rig):
        r = rig("mov rcx, 0x28; mov rax, qword ptr fs:[rcx]; ret")
        assert r.call() & 0xFF == 0
        assert r.call() != 0

    def test_eight_cpus_are_the_most_and_one_the_least(self, pool):
        for cpus in (0, 9):
            with pytest.raises(InputError, match="1 to 8"):
                Machine(asm_image("ret"), cpus=cpus, pool=pool)

    @pytest.mark.parametrize(
        "base", [0x1000, 0x7FFF_EFE0_0000, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_EFE0_0000]
    )
    def test_code_runs_at_both_ends_of_both_halves_of_the_address_space(self, rig, base):
        r = rig("push rdi; lea rax, [rip - 8]; mov [rdx], rsi; pop rcx; ret", base=base)
        buffer = r.machine.allocate(4096 * 2048)
        assert r.call(1, 2, buffer) == base
        assert r.machine.ram.read_u64(buffer) == 2

    @pytest.mark.parametrize(
        "base",
        [
            0x7FFF_F000_0000,
            0x7FFF_FFFF_E000,
            0x7FFF_FFFF_F000,
            (1 << 64) - (256 << 20),
            (1 << 64) - 4096,
        ],
    )
    @pytest.mark.parametrize("size", [1, 4096])
    def test_code_with_no_room_behind_it_is_refused_by_name_and_limit(self, pool, base, size):
        with pytest.raises(InputError, match=r"asm: ends at 0x.*; it must end below 0x"):
            Machine(asm_image("nop; " * (size - 1) + "ret", base=base), pool=pool)

    def test_code_at_address_0_is_refused(self, pool):
        with pytest.raises(InputError, match="code at address 0"):
            Machine(asm_image("ret", base=0), pool=pool)

    def test_code_at_a_kernel_address_runs_there(self, rig):
        base = 0xFFFF_FFFF_8100_0000
        assert rig("lea rax, [rip - 7]; ret", base=base).call() == base


class TestRun:
    def test_a_call_begins_with_floating_point_state_as_after_reset(self, rig):
        state = "fnstcw [rsp - 8]; fnstsw [rsp - 6]; stmxcsr [rsp - 4]; mov rax, [rsp - 8]; ret"
        spoil = (
            "mov qword ptr [rsp - 8], 0x7fbf; ldmxcsr [rsp - 8]; fldz; "
            "mov word ptr [rsp - 8], 0xc3f; fldcw [rsp - 8]; "
        )
        spoil += "fld1; fldz; fdivp st(1), st(0); test edi, edi; jz l; ud2; l: ret"
        r = rig(state, spoil)
        fresh = r.call()
        assert fresh == 0x1F80_0000_037F
        for dies in (0, 1):
            assert isinstance(r.call(dies, function="g"), GuestFault) == dies
            assert r.call() == fresh

    def test_a_budget_is_exact(self, rig):
        r = rig(SUM)
        r.begin(1, 100)
        cpu = r.machine.cpus[0]
        for n in (1, 2, 3, 7, 50):
            before = cpu.retired
            assert cpu.run(n) == (ExitReason.BUDGET, n)
            assert cpu.retired - before == n

    def test_any_cut_of_a_run_gives_the_same_end(self, rig):
        r = rig(SUM)
        assert r.call(5, 40) == 200
        end = r.machine.cpus[0].registers()
        for step in (1, 3, 17):
            r.begin(5, 40)
            while r.executor.running(0):
                r.executor.advance(0, step)
            assert r.machine.cpus[0].registers() == end

    def test_runs_that_are_cut_inside_of_the_emulator_are_one_run(self, rig, monkeypatch):
        """Ctrl-C is looked for between its runs: nothing else may come of where one ends."""
        texts = {
            "loop": SUM,
            "rep": "mov ecx, 9; lea rdi, [rsp - 64]; rep stosb; sti; nop; pushfq; pop rax; ret",
            "fault": "mov ecx, 5; l: nop; sub ecx, 1; jnz l; div ecx; ret",
            "unmapped": "mov ecx, 5; l: nop; sub ecx, 1; jnz l; mov rax, [rcx + 0x1234]; ret",
            "breakpoint": "nop; nop; int3; ret",
            "endless": "l: inc rax; jmp l",
        }
        for name, text in texts.items():
            ends = []
            for run_max in (1 << 20, 1, 2, 3, 7):
                with monkeypatch.context() as patch:
                    patch.setattr(uc_module, "_RUN_MAX", run_max)
                    r = rig(text)
                    plan = EveryPlan(11) if name == "loop" else None
                    result = r.call(5, 40, limit=150, plan=plan)
                    cpu = r.machine.cpus[0]
                    ends.append(
                        (
                            result,
                            cpu.retired,
                            cpu.interrupts,
                            cpu.rip,
                            cpu.registers(),
                            r.machine.clock,
                        )
                    )
            assert ends == ends[:1] * 5, name

    def test_counting_by_callback_agrees_with_the_private_counter(self, pool):
        assert pool.offsets.counter is not None, (
            "calibration found no counter in this build of Unicorn"
        )
        seen = []
        for offsets in (calibrate(), PrivateOffsets()):
            machine = Machine(asm_image(SUM), pool=UcPool(offsets))
            from arch_x86.emu.execute import Executor

            executor = Executor(machine)
            executor.begin_call(0, BASE, (3, 50))
            trace = [executor.advance(0, n) for n in (1, 5, 100, 1000)]
            seen.append((trace, machine.cpus[0].retired, machine.cpus[0].registers()))
            machine.close()
        assert seen[0] == seen[1]

    def test_an_uncounted_run_ends_like_a_counted_one(self, rig):
        r = rig(SUM)
        counted = r.call(7, 1000)
        r.begin(7, 1000)
        assert r.executor.run_uncounted(0) is None
        assert r.rax() == counted

    def test_a_rep_iteration_counts_as_one(self, rig):
        r = rig("mov rcx, rsi; rep stosb; ret")
        where = r.machine.allocate(64)
        lengths = []
        for n in (10, 20):
            before = r.machine.cpus[0].retired
            r.call(where, n)
            lengths.append(r.machine.cpus[0].retired - before)
        assert lengths[1] - lengths[0] == 10


FAULTS = {
    "write to its own code": (
        "mov [rip - 4], rax; ret",
        FaultKind.WRITE_TO_CODE,
        0,
        "writes to code at 0x10000003",
    ),
    "division by zero": ("xor ecx, ecx; div ecx; ret", FaultKind.DIVIDE_ERROR, 2, "div ecx"),
    "jump outside": ("mov rax, 0x55550000; jmp rax", FaultKind.UNMAPPED_FETCH, None, "0x55550000"),
    "load from nowhere": (
        "mov rcx, 0x1234567; mov rax, [rcx]; ret",
        FaultKind.UNMAPPED_ACCESS,
        7,
        "0x1234567",
    ),
    "non-canonical address": (
        "mov rax, 0x8000000000000000; mov rbx, [rax]; ret",
        FaultKind.GENERAL_PROTECTION,
        10,
        "rbx",
    ),
    "stray int3": ("nop; int3; ret", FaultKind.BREAKPOINT, 1, "no probe"),
    "software interrupt": ("int 0x80; ret", FaultKind.SOFTWARE_INTERRUPT, 0, "int 0x80"),
    "software divide error": ("nop; int 0; ret", FaultKind.SOFTWARE_INTERRUPT, 1, "int 0"),
    "software single step": ("nop; .byte 0xcd, 1; ret", FaultKind.SOFTWARE_INTERRUPT, 1, "int 1"),
    "software breakpoint, 2 bytes": (
        ".byte 0xcd, 3; ret",
        FaultKind.SOFTWARE_INTERRUPT,
        0,
        "int 3",
    ),
    "software invalid opcode": ("nop; int 6; div ecx", FaultKind.SOFTWARE_INTERRUPT, 1, "int 6"),
    "software double fault": ("nop; int 8; ret", FaultKind.SOFTWARE_INTERRUPT, 1, "int 8"),
    "software general protection": ("nop; int 13; hlt", FaultKind.SOFTWARE_INTERRUPT, 1, "int 0xd"),
    "software page fault": (
        "nop; int 14; mov rax, [rax]",
        FaultKind.SOFTWARE_INTERRUPT,
        1,
        "int 0xe",
    ),
    "software interrupt with a prefix": (
        "nop; .byte 0x66; int 0x80; ret",
        FaultKind.SOFTWARE_INTERRUPT,
        1,
        "66 cd 80",
    ),
    "system call with a prefix": (
        "nop; .byte 0x48; syscall; ret",
        FaultKind.SYSTEM_CALL,
        1,
        "48 0f 05",
    ),
    "sysenter": ("nop; sysenter; ret", FaultKind.SYSTEM_CALL, 1, "sysenter"),
    "system call": ("syscall; ret", FaultKind.SYSTEM_CALL, 0, "syscall"),
    "hlt": ("nop; hlt; ret", FaultKind.HALT, 1, "hlt"),
    "stack overflow": ("l: push rax; jmp l", FaultKind.DOUBLE_FAULT, 0, "stack"),
    "128-bit AVX": (
        "nop; vpaddb xmm0, xmm1, xmm2; ret",
        FaultKind.UNSUPPORTED_OPCODE,
        1,
        "vpaddb xmm0, xmm1, xmm2",
    ),
    "256-bit AVX": ("vpaddb ymm0, ymm1, ymm2; ret", FaultKind.UNSUPPORTED_OPCODE, 0, "AVX"),
    "vzeroupper": ("nop; vzeroupper; ret", FaultKind.UNSUPPORTED_OPCODE, 1, "AVX"),
    "time-stamp counter": ("rdtsc; ret", FaultKind.UNSUPPORTED_OPCODE, 0, "runs differ"),
    "random number": ("rdrand rax; ret", FaultKind.UNSUPPORTED_OPCODE, 0, "runs differ"),
    "ud2": ("ud2", FaultKind.INVALID_OPCODE, 0, "ud2"),
    "executing data": ("mov rax, rsp; jmp rax", FaultKind.NO_EXECUTE, None, "data"),
    "endless loop": ("l: jmp l", FaultKind.INSTRUCTION_LIMIT, 0, "1000 instructions"),
    "endless loop with interrupts off": (
        "cli; l: jmp l",
        FaultKind.INSTRUCTION_LIMIT,
        1,
        "1000 instructions",
    ),
}


class TestFaults:
    @pytest.mark.parametrize("case", FAULTS)
    def test_a_guest_fault_is_a_result_with_place_and_disassembly(self, rig, case):
        text, kind, offset, words = FAULTS[case]
        fault = rig(text).call(limit=1000 if "endless" in case else 100_000)
        assert isinstance(fault, GuestFault)
        assert fault.kind is kind
        assert words in fault.explain
        assert (fault.symbol, fault.offset) == (("f", offset) if offset is not None else ("", 0))

    def test_a_fault_after_a_software_interrupt_is_a_fault_again(self, rig):
        r = rig("int 13", "ud2", "xor ecx, ecx; div ecx", "int3")
        for function, kind in (("g", "invalid-opcode"), ("h", "divide-error"), ("i", "breakpoint")):
            assert r.call().kind is FaultKind.SOFTWARE_INTERRUPT
            assert r.call(function=function).kind == kind

    @pytest.mark.parametrize("target", [0x55_5500_0000, 1 << 63, BASE])
    def test_a_branch_to_nowhere_is_one_retired_instruction(self, rig, target):
        # BASE: data, since the code is elsewhere; each goes through the stub, 15 pushes and a hlt
        # (and -1 for the error code if none)
        r = rig(f"mov rax, {target:#x}; jmp rax", base=BASE + 0x100000)
        r.machine._map_data(BASE >> 12)
        assert isinstance(r.call(), GuestFault)
        assert r.machine.cpus[0].retired == 2 + 16

    def test_nothing_retires_less_than_nothing(self, rig):
        for text in ("ud2", "rdtsc", "xor eax, eax; ret"):
            r = rig(text)
            cpu = r.machine.cpus[0]
            r.begin()
            if "xor" in text:
                cpu.rip = 0x1234_5000  # nothing was executed before the fetch fails
            assert cpu.run(10) == (ExitReason.EXCEPTION, 0)
            assert cpu.retired == 0

    def test_the_machine_goes_on_after_a_fault_and_a_second_fault_is_no_double_fault(self, rig):
        r = rig("mov rax, [rdi]; ret")
        where = r.machine.allocate(8, struct.pack("<Q", 42))
        for _ in range(3):
            assert r.call(0x10).kind is FaultKind.UNMAPPED_ACCESS
            assert r.call(where) == 42

    def test_an_exception_table_entry_sends_a_fault_to_its_fixup(self, rig):
        r = rig(
            "mov rax, [rdi]; ret",
            "mov eax, 7; ret",
            exception_table=(ExceptionEntry(BASE, BASE + 256),),
        )
        assert r.call(0x10) == 7
        # also a second time: the emulator keeps no memory of the first fault
        assert r.call(0x10) == 7

    def test_a_16_bit_branch_traps_because_processors_disagree(self, rig):
        fault = rig(".byte 0x66; call l; l: ret").call()
        assert (fault.kind, fault.offset) == (FaultKind.UNSUPPORTED_OPCODE, 0)
        # REX.W overrides the prefix
        assert rig("mov eax, 5; .byte 0x66, 0x48; jmp l; int3; l: ret").call() == 5

    def test_an_import_traps_by_name_only_when_called(self, rig):
        far = BASE + 0x1000
        r = rig(
            "test edi, edi; jz l; mov rax, 0x10001000; call rax; l: ret",
            imports=(Import("missing", far),),
        )
        assert r.call(0) == 0
        fault = r.call(1)
        assert fault.kind is FaultKind.UNRESOLVED_FUNCTION
        assert "--stub missing=ret:N" in fault.explain

    def test_an_import_with_a_stub_returns_its_value(self, rig):
        config = MachineConfig(stubs={"missing": -2})
        r = rig(
            "mov rax, 0x10001000; jmp rax",
            imports=(Import("missing", BASE + 0x1000),),
            config=config,
        )
        assert r.call() == (1 << 64) - 2

    def test_read_only_data_cannot_be_written(self, pool):
        code = asm_image("mov [rdi], rax; ret").segments
        data = Segment(BASE + 0x4000, b"const", 5, executable=False)
        r = Rig(Image(name="ro", segments=(*code, data), symbols=asm_image("ret").symbols), pool)
        fault = r.call(BASE + 0x4000)
        assert fault.kind is FaultKind.WRITE_TO_CONSTANT
        r.machine.close()

    def test_code_and_writable_data_on_one_page_are_refused(self, pool):
        image = Image(
            name="mixed",
            segments=(
                Segment(BASE, b"\xc3", 1),
                Segment(BASE + 64, b"x", 1, writable=True, executable=False),
            ),
            symbols=(),
        )
        with pytest.raises(InputError, match="pages of their own"):
            Machine(image, pool=pool)


class TestInterrupts:
    @pytest.mark.parametrize("period", [1, 2, 7, 50])
    def test_interrupts_at_any_period_change_nothing_but_time(self, rig, period):
        r = rig(SUM)
        assert r.call(3, 40) == 120
        plain = r.machine.cpus[0].registers()
        assert r.call(3, 40, plan=EveryPlan(period)) == 120
        cpu = r.machine.cpus[0]
        assert cpu.registers() == plain
        assert cpu.interrupts == 200 // period if period > 1 else cpu.interrupts >= 199
        assert r.machine.ram.read_u64(r.machine.layout.gs_base(0) + GS_INTERRUPTS) == cpu.interrupts

    @pytest.mark.parametrize("room", [0, 8, 40, 48, 100])
    def test_an_interrupt_for_whose_handler_the_stack_has_no_room_is_a_double_fault(
        self, rig, room
    ):
        r = rig(
            f"sub rsp, {16 * 4096 - 72 - room}; l: inc rax; jmp l",
            config=MachineConfig(stack_pages=16),
        )
        fault = r.call(plan=EveryPlan(5), limit=1000)
        assert fault.kind is FaultKind.DOUBLE_FAULT

    def test_an_interrupt_waits_until_if_is_set_and_one_instruction_more(self, rig):
        r = rig("cli; nop; nop; sti; nop; nop; ret")
        r.begin()
        delivered = []
        for _ in range(6):
            delivered.append(r.executor.interrupt(0))
            if delivered[-1]:
                r.machine.cpus[0].run(1)
                while not r.machine.cpus[0].rflags & FLAG_IF:
                    r.machine.cpus[0].run(1)
            r.executor.advance(0, 1)
        assert delivered == [True, False, False, False, False, True]

    def test_the_frame_is_real_aligned_and_holds_the_interrupted_state(self, rig):
        r = rig("sub rsp, 24; std; nop; ret")
        r.begin()
        r.executor.advance(0, 2)
        cpu = r.machine.cpus[0]
        rsp, rip, flags = cpu.registers()[RSP], cpu.rip, cpu.rflags
        assert r.executor.interrupt(0)
        at = cpu.registers()[RSP]
        words = struct.unpack("<5Q", r.machine.ram.read(at, 40))
        assert words == (rip, 0x08, flags, rsp, 0x10)
        assert (at + 40) % 16 == 0
        assert flags & FLAG_DF
        assert not cpu.rflags & FLAG_IF

    @pytest.mark.parametrize("red_zone", [False, True])
    def test_the_red_zone_survives_exactly_where_the_image_has_one(self, rig, red_zone):
        r = rig("mov [rsp - 24], rdi; nop; mov rax, [rsp - 24]; ret", red_zone=red_zone)
        assert r.call(99) == 99
        assert (r.call(99, plan=EveryPlan(1)) == 99) is red_zone

    def test_an_interrupt_nests_in_an_exception_handler_that_sets_if(self, rig):
        r = rig(SUM)
        r.begin(1, 5)
        assert r.executor.interrupt(0)
        assert not r.executor.interrupt(0)  # an interrupt gate: IF is clear in the handler
        cpu = r.machine.cpus[0]
        cpu.uc.load()
        cpu.uc.set_stack_and_flags(cpu.uc.gpr[RSP], cpu.uc.gpr[16] | FLAG_IF)
        assert r.executor.interrupt(0)
        assert r.executor.run_call(0, 10_000) is None
        assert r.rax() == 5


class TestSnapshots:
    def test_restore_brings_back_registers_memory_text_tasks_and_clock(self, rig):
        r = rig(SUM, "mov qword ptr [rdi], 1; ret", cpus=2)
        m = r.machine
        where = m.allocate(8)
        r.begin(2, 30)
        r.executor.advance(0, 33)
        snap = m.snapshot()
        state = m.cpus[0].registers(), m.cpus[0].rip, m.cpus[0].retired, m.clock
        text = m.text.current
        r.executor.advance(0, 40)
        m.text.write(BASE, b"\xcc", reason="test")
        r.call(where, cpu=1, function="g")
        m.restore(snap)
        assert (m.cpus[0].registers(), m.cpus[0].rip, m.cpus[0].retired, m.clock) == state
        assert m.text.current is text
        assert m.ram.read_u64(where) == 0
        r.executor.run_call(0, 1000)
        assert r.rax() == 60

    def test_one_snapshot_serves_many_restores_with_one_trace(self, rig):
        r = rig(SUM)
        r.begin(2, 30)
        r.executor.advance(0, 10)
        snap = r.machine.snapshot()
        ends = set()
        for _ in range(20):
            r.machine.restore(snap)
            r.executor.run_call(0, 1000)
            ends.add((r.machine.cpus[0].registers(), r.machine.clock))
        assert len(ends) == 1

    @pytest.mark.parametrize("plan", ["every:7", "random:3:9"])
    @pytest.mark.parametrize("late", [False, True])
    def test_an_interrupt_plan_plays_alike_after_each_restore(self, workbench, plan, late):
        bench = workbench(SUM, cpus=2)
        machine = bench.machine
        bench.interrupts = parse_interrupts(plan)
        for cpu in (0, 1):
            bench.start_call(cpu, BASE, (1, 60 + cpu))
            bench.executor.advance(cpu, 50, bench.interrupts)
        if late:  # the plan was not there yet when the snapshot was taken
            bench.interrupts = None
        snap = machine.snapshot()
        bench.interrupts = bench.interrupts or parse_interrupts(plan)
        traces = []
        for _ in range(3):
            machine.restore(snap)
            trace = []
            while any(bench.executor.running(cpu) for cpu in (0, 1)):
                for cpu in (0, 1):
                    bench.executor.advance(cpu, 1, bench.interrupts)
                    trace.append((machine.cpus[cpu].rip, machine.cpus[cpu].interrupts))
            traces.append(trace)
        assert traces[0] == traces[1] == traces[2]
        assert machine.cpus[1].interrupts > 10

    def test_a_snapshot_of_less_text_is_refused_unless_the_text_stays(self, rig):
        r = rig("mov eax, 1; ret")
        snap = r.machine.snapshot()
        r.machine.text.add_page(r.machine.layout.slots >> 12, b"\xc3" * 4096)
        with pytest.raises(EngineBug, match="keep_text"):
            r.machine.restore(snap)
        assert r.call() == 1
        r.machine.restore(snap, keep_text=True)
        assert r.machine.text.read(r.machine.layout.slots, 1) == b"\xc3"
        r.machine.restore(r.machine.snapshot())

    def test_x87_starts_as_after_fninit_and_its_state_is_readable(self, rig):
        r = rig("fnstcw [rsp - 8]; movzx eax, word ptr [rsp - 8]; fld1; ret")
        assert r.call() == 0x37F
        state = r.machine.cpus[0].uc.extended.fpu_state()
        assert state[16 * 7 : 16 * 7 + 10] == bytes.fromhex("0000000000000080ff3f")
        assert state[16 * 9 : 16 * 9 + 2] == bytes.fromhex("0038")  # TOP is 7

    def test_vector_state_is_part_of_a_snapshot(self, rig):
        r = rig("movq xmm5, rdi; ret", "movq rax, xmm5; ret")
        r.call(11)
        snap = r.machine.snapshot()
        r.call(12)
        r.machine.restore(snap)
        assert r.machine.cpus[0].uc.extended.vector_state()[80:88] == struct.pack("<Q", 11)


class TestText:
    def test_a_poke_is_seen_by_every_cpu_and_undoing_it_gives_the_same_version(self, rig):
        r = rig("mov eax, 1; ret", cpus=2)
        first = r.machine.text.current
        assert [r.call(cpu=c) for c in (0, 1)] == [1, 1]
        r.machine.text.write(BASE + 1, b"\x02", reason="test")
        assert [r.call(cpu=c) for c in (0, 1)] == [2, 2]
        r.machine.text.write(BASE + 1, b"\x01", reason="test")
        assert r.machine.text.current is first
        assert [r.call(cpu=c) for c in (0, 1)] == [1, 1]

    def test_fetch_views_of_two_cpus_can_differ(self, rig):
        r = rig("mov eax, 1; ret", cpus=2)
        old = r.machine.text.current
        r.machine.text.write(BASE + 1, b"\x02", reason="test")
        r.machine.cpus[1].view = old
        assert [r.call(cpu=c) for c in (0, 1)] == [2, 1]

    def test_a_write_across_a_page_border_is_whole(self, rig):
        r = rig("nop; " * 4093 + "mov eax, 0x01010101; ret")
        r.machine.text.write(BASE + 4094, b"\x02\x02\x02\x02", reason="test")
        assert r.call() == 0x02020202

    @pytest.mark.parametrize("limit", [512, 4096])
    def test_versions_beyond_one_chunk_of_frames_run_right_on_fresh_and_pooled_ones(self, limit):
        pool = new_pool()  # of its own: what an instance did before must not matter
        for _ in range(2):
            r = Rig(asm_image("mov eax, 1; ret"), pool)
            r.machine.frames._limit = (
                limit  # 512: frames are recycled; 4096: there is a chunk more each 512 pages
            )
            for value in range(0, 10_000, 7):
                r.machine.text.write(BASE + 1, struct.pack("<I", value), reason="test")
                assert r.call() == value
            r.machine.close()
        pool.close()

    def test_a_write_outside_of_text_is_a_bug_of_ours(self, rig):
        r = rig("ret")
        with pytest.raises(EngineBug, match="outside text"):
            r.machine.text.write(0x1234, b"\x90", reason="test")


class TestCalibration:
    def test_the_private_offsets_are_found_in_the_pinned_unicorn(self):
        probe = calibrate()
        assert probe.counter is not None
        assert None not in (probe.exception, probe.error_code, probe.software, probe.shadow)


def test_a_machine_that_nobody_holds_any_more_is_given_back(pool):
    """Its text pages are told of by weak references, which must not keep it."""
    machines = []
    for _ in range(3):
        bench = Workbench(asm_image("mov eax, edi; ret"), pool=pool)
        assert bench.call("f", 5) == 5
        machines.append(ref(bench.machine))
        bench.close()
    del bench
    gc.collect()
    assert [machine() for machine in machines] == [None, None, None]
