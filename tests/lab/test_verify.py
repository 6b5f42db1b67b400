"""``verify`` is silent on sound code and catches each fault planted in the copy, the detour and the
interrupt path, one at a time.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle

import pytest
from unicorn import x86_const

from arch_x86.emu import machine as machine_module
from arch_x86.emu.cpu import Cpu
from arch_x86.emu.fault import FaultKind, GuestFault, GuestFaultError
from arch_x86.isa.assemble import assemble
from arch_x86.isa.decode import decode
from arch_x86.lab.jobs import verify_image
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Sweep, Verifier, parse_sweep
from arch_x86.probes import optimized_sites as sites_module
from arch_x86.probes import plain_sites as plain_module
from arch_x86.probes import stepping as stepping_module
from arch_x86.probes.optimized_hit import OptimizedHandler
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT
from engine.errors import InputError, KprobeError, WorkerDied
from engine.image import Image, Segment, Symbol
from engine.kprobe import Method
from engine.syntax.arguments import BufferArgument, IntegerArgument
from tests.conftest import BASE, asm_image

# A carry over the probed instructions, a RIP-relative load, a call, a loop, callee-saved registers,
# x87 and the red zone.
CODE = """
push rbx; push rbp
fld1; mov ecx, 3; xor eax, eax; mov rbx, rdi; mov [rsp - 24], rdi
l: add rbx, [rip + 0x1ea]; adc rax, rbx; lea rbp, [rax + rbx*2]; imul rax, rbp; sub ecx, 1; jnz l
call 0x10000100
add rax, [rsp - 24]
pop rbp; pop rbx; ret
"""
HELPER = "mov rdx, [rsp]; lea rax, [rax + rdx]; ret"


def check(
    sweep: str = "none", *, text: str = CODE, red_zone: bool = False, one_by_one: bool = False
):
    image = asm_image(text, HELPER, "mov rax, 0xf23456789abcdef1; ret", red_zone=red_zone)
    return verify_image(
        image,
        "f",
        [IntegerArgument(0xFEDCBA9876543210)],
        sweep=parse_sweep(sweep),
        one_by_one=one_by_one,
    )


def test_sound_code_is_good_with_an_interrupt_at_every_boundary():
    code = CODE.replace("mov [rsp - 24], rdi", "nop").replace("add rax, [rsp - 24]", "nop")
    result = check("boundaries", text=code)
    assert result.good
    assert result.failures == ()
    assert result.sites > 15
    assert result.runs > result.sites * result.instructions


def test_a_red_zone_is_kept_in_every_method_where_the_image_has_one():
    # The call would overwrite what lies under RSP; this keeps data there over ordinary instructions
    # only.
    code = (
        "mov [rsp - 8], rdi; mov [rsp - 128], rdi; add rdi, 5; xor eax, eax; "
        "add rax, [rsp - 8]; add rax, [rsp - 128]; ret"
    )
    assert check("boundaries", text=code, red_zone=True).good
    assert not check(text=code, red_zone=False).good


def test_the_answer_does_not_depend_on_the_number_of_jobs():
    image = asm_image(
        "mov eax, edi; mov [rsp - 8], rdi; add eax, 3; mov rdx, [rsp - 8]; "
        "lea rax, [rax + rdx]; ret"
    )
    answers = [
        verify_image(
            image, "f", [IntegerArgument(5)], sweep=Sweep("sample", 7, 5), jobs=jobs
        ).to_json()
        for jobs in (1, 2)
    ]
    assert answers[0] == answers[1]
    assert answers[0]["verdict"] == "bad"


def test_a_sample_is_the_same_for_the_same_seed_and_smaller_than_the_whole():
    one, again, whole = (
        check(sweep, text=SOUND) for sweep in ("sample:1:4", "sample:1:4", "boundaries")
    )
    assert one == again
    assert one.runs < whole.runs


def test_a_rep_instruction_is_one_pass_boosted_and_one_hit_an_iteration_stepped():
    code = (
        "mov rcx, rdi; and ecx, 7; lea rdi, [rsp - 256]; xor eax, eax; rep stosb; mov rax, rcx; ret"
    )
    for value in (0, 1, 5):
        image = asm_image(code)
        assert verify_image(image, "f", [IntegerArgument(value)], sweep=Sweep("boundaries")).good


HOT = """
mov eax, 7; test edi, edi; jne 0x10000100
xor edx, edx; add eax, edx
add eax, 1; lea eax, [rax + rax]; ret
"""
COLD = "mov eax, 100; jmp 0x10000011"


def test_a_jump_over_executed_bytes_is_tried_though_its_site_is_not_executed():
    # The cold part of a function, which lies elsewhere, jumps back to behind the site.
    image = asm_image(HOT, COLD)
    assert decode(image.read(BASE + 17, 3), BASE + 17).raw == bytes.fromhex("83c001")
    result = verify_image(image, "f", [IntegerArgument(1)], sweep=Sweep())
    assert not result.good
    assert {(failure.symbol, failure.offset, failure.method) for failure in result.failures} == {
        ("f", 13, Method.OPTIMIZED),
        ("f", 15, Method.OPTIMIZED),
    }
    assert verify_image(image, "f", [IntegerArgument(0)], sweep=Sweep()).good


def test_jumps_behind_executed_code_are_tried_and_harmless():
    # Nothing of `mov edx, 5` is executed, and nothing that is lies in its five bytes.
    result = verify_image(
        asm_image("mov eax, edi; jmp l; mov edx, 5; l: inc eax; ret"),
        "f",
        [IntegerArgument(1)],
        sweep=Sweep(),
    )
    assert (result.good, result.sites) == (True, 4)


ROOM = BASE + 0x2000
OTHER_STACK = f"""
mov rax, rsp; mov rsp, {ROOM + 1024}
push rdi; push rsi; lea rcx, [rdi + 1]; add rcx, rsi; pop rdx; pop r8
mov rsp, rax; mov r9, {ROOM + 1024}; mov [r9 - 24], rcx; mov [r9 - 40], rdx; xor ecx, ecx
mov rax, r8; ret
"""


def switching(text: str = OTHER_STACK, sweep: str = "sample:3:40", *, red_zone: bool = False):
    code = assemble(text, BASE)
    room = Segment(ROOM, bytes(range(1, 256)) * 4, 4096, writable=True, executable=False)
    segments = (Segment(BASE, code, len(code)), room)
    image = Image(
        name="asm", segments=segments, symbols=(Symbol("f", BASE, len(code)),), red_zone=red_zone
    )
    arguments = [IntegerArgument(0x0123456789ABCDEF), IntegerArgument(0x1122334455667788)]
    return [
        verify_image(
            image, "f", arguments, sweep=parse_sweep(sweep), options=ExecOptions(profile=profile)
        )
        for profile in (LINUX_2010, LINUX_6_1, NEXT)
    ]


@pytest.mark.parametrize("red_zone", [False, True])
def test_what_is_pushed_below_the_stack_pointer_is_dead_on_any_stack(red_zone):
    for result in switching(red_zone=red_zone):
        assert result.failures == ()
        assert result.runs > 500


def test_two_other_stacks_that_overlap_are_sound_too():
    second = (
        f"mov rsp, {ROOM + 980}; push rcx; push 5; pop r10; mov r11, rcx; pop r11; mov rsp, rax;"
    )
    assert all(
        result.good
        for result in switching(OTHER_STACK.replace("mov rsp, rax;", second), "sample:3:10")
    )


def test_a_red_zone_on_another_stack_is_kept_where_there_is_one():
    text = OTHER_STACK.replace(
        "pop rdx;",
        "mov [rsp - 8], rdi; mov [rsp - 128], rsi; nop; nop; mov r10, [rsp - 8]; pop rdx;",
    )
    assert all(result.good for result in switching(text, "sample:3:10", red_zone=True))
    for result in switching(text, "none"):  # r10 is wrong
        assert any("r10" in failure.explain for failure in result.failures)
    # memory below RSP is dead, and nobody has read it since
    for result in switching(text.replace("mov r10, [rsp - 8]", "nop"), "none"):
        assert result.good


def above_the_frame(self, handler, error_code=None):
    """A byte above the stack pointer, which the frame has nothing to do with, changes."""
    self.uc.load()
    rsp = self.uc.gpr[4]
    done = push_frame(self, handler, error_code)
    byte = self._ram.read(rsp + 40, 1)
    if byte is not None:
        self._ram.write(rsp + 40, bytes((byte[0] ^ 1,)))
    return done


def far_below_the_frame(self, handler, error_code=None):
    """A byte that lies below all that is pushed changes."""
    self.uc.load()
    rsp = self.uc.gpr[4]
    done = push_frame(self, handler, error_code)
    self._ram.write(rsp - 700, b"!")
    return done


push_frame = Cpu.push_frame


@pytest.mark.parametrize("plant", [above_the_frame, far_below_the_frame])
def test_live_memory_that_a_frame_changes_on_another_stack_is_found(monkeypatch, plant):
    with monkeypatch.context() as patch:
        patch.setattr(Cpu, "push_frame", plant)
        results = switching(sweep="none")
    for result in results:
        assert any("memory at" in failure.explain for failure in result.failures)


def test_a_wrong_store_to_where_a_frame_lay_is_found(monkeypatch):
    """rcx is lost, is stored where a frame lay on the other stack, and cleared: the memory alone
    shows it.
    """
    plant_detour_that_loses_a_register(monkeypatch)
    for result in switching(sweep="none"):
        wrong = [
            failure
            for failure in result.failures
            if f"memory at {ROOM + 1000:#x}" in failure.explain
        ]
        assert {failure.method for failure in wrong} == {Method.OPTIMIZED}


def test_a_store_that_is_lost_where_a_frame_lay_is_found(monkeypatch):
    """A handler on the other stack sends later stores elsewhere, to where nobody looks: the frame
    is still there at the end.
    """
    original = Verifier._hit

    def hit(self, p, regs):
        if self._method in (Method.BOOSTED, Method.OPTIMIZED) and self.bench.arch.code.insn_at(
            self._site
        ).raw == bytes.fromhex("4801f1"):
            regs.r9 = self.bench.machine.layout.gs_base(0) + 0x800
        return original(self, p, regs)

    text = f"mov r9, {ROOM + 1024}; {OTHER_STACK}; ".replace(
        f"mov r9, {ROOM + 1024}; mov [r9", "mov [r9"
    ).replace("ret", "xor r9d, r9d; ret")
    assert all(result.good for result in switching(text, "none"))
    monkeypatch.setattr(Verifier, "_hit", hit)
    for result in switching(text, "none"):
        assert {failure.method for failure in result.failures} == {Method.BOOSTED, Method.OPTIMIZED}
        assert all("memory at" in failure.explain for failure in result.failures)


def test_a_call_that_faults_unprobed_is_bad_and_says_so():
    result = check(text="xor ecx, ecx; div ecx; ret")
    assert not result.good
    assert result.fault is not None
    assert "div ecx" in result.fault.explain


@pytest.mark.parametrize("text", ["", "all", "sample", "sample:1", "sample:x:3", "sample:1:0"])
def test_a_malformed_sweep_is_refused(text):
    with pytest.raises(InputError):
        parse_sweep(text)


def patched_detour(monkeypatch, change):
    original = sites_module.build_detour

    def build(*args, **kwargs):
        detour = original(*args, **kwargs)
        code = change(detour.code)
        assert len(code) == len(detour.code)
        assert code != detour.code, "the plant took no root"
        return dataclasses.replace(detour, code=code)

    monkeypatch.setattr(sites_module, "build_detour", build)


def plant_copy_without_rip_fixup(monkeypatch):
    """The slot holds the instruction as it is, so its RIP-relative operand is somewhere else."""
    original = plain_module.build_slot
    monkeypatch.setattr(
        plain_module,
        "build_slot",
        lambda insn, at, boost: insn.raw + original(insn, at, boost)[insn.length :],
    )


def plant_boost_jump_one_byte_late(monkeypatch):
    """The boosted copy jumps back behind the first byte of the next instruction."""
    original = plain_module.build_slot

    def build(insn, at, boost):
        code = bytearray(original(insn, at, boost))
        if boost:
            code[insn.length + 1] = (code[insn.length + 1] + 1) & 0xFF
        return bytes(code)

    monkeypatch.setattr(plain_module, "build_slot", build)


def plant_return_address_of_the_copy(monkeypatch):
    """A stepped call leaves the copy's return address on the stack."""
    original = stepping_module.fixup_after_step
    monkeypatch.setattr(
        stepping_module,
        "fixup_after_step",
        lambda insn: dataclasses.replace(original(insn), return_address=False),
    )


def plant_detour_without_flags(monkeypatch):
    """The detour drops the saved flags instead of restoring them."""
    patched_detour(
        monkeypatch, lambda code: code.replace(b"\x48\x83\xc4\x18\x9d", b"\x48\x83\xc4\x20\x90")
    )


def plant_detour_that_loses_a_register(monkeypatch):
    """The detour pops rcx's word into rax."""
    patched_detour(
        monkeypatch, lambda code: code.replace(b"\x58\x59\x5a\x5e\x5f", b"\x59\x58\x5a\x5e\x5f")
    )


def plant_detour_copy_without_rip_fixup(monkeypatch):
    """The detour's RIP-relative copy loads from somewhere else."""

    def change(code):
        at = code.rfind(b"\x48\x03\x1d")
        return code if at < 0 else code[: at + 3] + bytes([code[at + 3] ^ 8]) + code[at + 4 :]

    original = sites_module.build_detour
    monkeypatch.setattr(
        sites_module,
        "build_detour",
        lambda *a, **k: (d := original(*a, **k)) and dataclasses.replace(d, code=change(d.code)),
    )


def plant_detour_that_shows_two_registers_swapped(monkeypatch):
    """The detour saves rcx's word where rdx's belongs and the other way round, and restores both
    right.
    """
    swap = {
        b"\x57\x56\x52\x51": b"\x57\x56\x51\x52",
        b"\x58\x59\x5a\x5e\x5f": b"\x58\x5a\x59\x5e\x5f",
    }

    def change(code):
        for old, new in swap.items():
            code = code.replace(old, new)
        return code

    patched_detour(monkeypatch, change)


def plant_detour_that_shows_its_own_stack_pointer(monkeypatch):
    """The sp that the handler sees is too low by what the detour has pushed before it."""
    patched_detour(
        monkeypatch,
        lambda code: code.replace(b"\x48\x83\x44\x24\x08\x08", b"\x48\x83\x44\x24\x08\x00"),
    )


def plant_breakpoint_that_shows_two_registers_swapped(monkeypatch):
    """The trap stub saves rbx where rbp belongs and the other way round, and restores both
    right.
    """
    original = machine_module.build_stubs

    def build(base, **options):
        stubs = original(base, **options)
        start, end = stubs.exceptions[3] - base, stubs.exceptions[6] - base
        code = stubs.code[start:end]
        swapped = code.replace(b"\x53\x55", b"\x55\x53").replace(b"\x5d\x5b", b"\x5b\x5d")
        assert swapped != code, "the plant took no root"
        return dataclasses.replace(stubs, code=stubs.code[:start] + swapped + stubs.code[end:])

    monkeypatch.setattr(machine_module, "build_stubs", build)


def plant_optimized_callback_with_the_ip_of_the_site(monkeypatch):
    """Handlers are shown the probed address itself, not the one behind it as on the breakpoint's
    path.
    """
    original = OptimizedHandler._begin

    def begin(self, cpu, op_id, regs):
        op = original(self, cpu, op_id, regs)
        regs.ip -= op is not None
        return op

    monkeypatch.setattr(OptimizedHandler, "_begin", begin)


def plant_hit_that_loses_the_x87_stack(monkeypatch):
    """Taking a hit empties the x87 stack, as code that saves general registers only might."""
    original = Verifier._hit

    def hit(self, p, regs):
        self.bench.machine.cpus[0].uc.write_reg(x86_const.UC_X86_REG_FPTAG, 0xFFFF)
        return original(self, p, regs)

    monkeypatch.setattr(Verifier, "_hit", hit)


def plant_interrupt_handler_that_clobbers_rbx(monkeypatch):
    """The interrupt handler's frame pops rbx's word into rbp and the other way round."""
    original = machine_module.build_stubs

    def build(base, **options):
        stubs = original(base, **options)
        at = stubs.interrupt - base
        tail = stubs.code[at:].replace(b"\x5d\x5b", b"\x5b\x5d")
        return dataclasses.replace(stubs, code=stubs.code[:at] + tail)

    monkeypatch.setattr(machine_module, "build_stubs", build)


def plant_interrupt_frame_with_the_carry_lost(monkeypatch):
    """The frame saves the flags without the carry."""
    original = Cpu.push_frame

    def push(self, handler, error_code=None):
        done = original(self, handler, error_code)
        self.uc.load()
        at = self.uc.gpr[4] + 16
        flags = self._ram.read_u64(at)
        self._ram.write(at, (flags & ~1).to_bytes(8, "little"))
        return done

    monkeypatch.setattr(Cpu, "push_frame", push)


PLANTS = [value for name, value in sorted(globals().items()) if name.startswith("plant_")]
SOUND = CODE.replace("mov [rsp - 24], rdi", "nop").replace("add rax, [rsp - 24]", "nop")


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_caught(monkeypatch, plant):
    plant(monkeypatch)
    result = check("boundaries" if "interrupt" in plant.__name__ else "none", text=SOUND)
    assert not result.good
    assert result.failures
    assert all(failure.explain for failure in result.failures)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found_alike_by_one_run_for_each_interrupt(monkeypatch, plant):
    plant(monkeypatch)
    at_once, one_by_one = (
        check("boundaries", text=SOUND, one_by_one=slowly) for slowly in (False, True)
    )
    assert at_once == one_by_one
    assert at_once.failures


@pytest.mark.parametrize("sweep", ["none", "boundaries"])
def test_a_probe_that_makes_the_call_endless_is_a_failure_and_not_a_hang(sweep):
    # Loops for as long as the first byte is not its own: a breakpoint there never lets it go.
    result = check(sweep, text="nop; l: cmp byte ptr [rip - 8], 0x90; jne l; mov eax, 7; ret")
    assert not result.good
    assert {(failure.offset, failure.interrupt_at) for failure in result.failures} == {(0, None)}
    assert all("does not end" in failure.explain for failure in result.failures)


def test_an_endless_call_is_a_fault_of_the_unprobed_run_at_full_speed():
    image = asm_image("l: inc rax; jmp l")
    told: list[str] = []
    options = ExecOptions(max_instructions=20_000_000)  # minutes, were they stepped
    result = verify_image(
        image,
        "f",
        sweep=Sweep(),
        options=options,
        progress=lambda _done, _total, note: told.append(note),
    )
    assert result.fault is not None
    assert result.fault.kind == "instruction-limit"
    assert (result.runs, result.sites, result.instructions) == (0, 0, 20_000_000)
    assert told == []


def test_a_long_rep_instruction_ends_at_the_limit():
    options = ExecOptions(max_instructions=3_000)
    result = verify_image(
        asm_image("mov ecx, 8000; rep stosb; ret"),
        "f",
        [BufferArgument(bytes(8000))],
        sweep=Sweep(),
        options=options,
    )
    assert result.fault is not None
    assert result.fault.kind == "instruction-limit"
    assert result.instructions == 3_000


def test_progress_tells_of_the_stepping_and_then_of_every_site():
    told: list[tuple[int, int, str]] = []
    result = verify_image(
        asm_image("mov ecx, 5000; l: sub ecx, 1; jnz l; ret"),
        "f",
        sweep=Sweep(),
        progress=lambda *step: told.append(step),
    )
    assert result.good
    stepped = [done for done, _total, note in told if "unprobed" in note]
    assert stepped == sorted(stepped)
    assert len(stepped) >= 3
    assert [step for step in told if step[2] == "sites, 0 failures"] == [
        (n, 4, "sites, 0 failures") for n in range(5)
    ]


def test_a_handler_sees_each_pass_its_own_registers_by_every_method_past_a_hundred():
    # rcx differs at each pass; REP shows it at each iteration when stepped.
    code = (
        "mov ecx, 150; l: sub ecx, 1; nop; nop; nop; nop; nop; jnz l; mov ecx, 5; "
        "lea rdi, [rsp - 64]; rep stosb; ret"
    )
    assert check(text=code).good


def test_a_register_shown_wrong_late_is_found(monkeypatch):
    original = Verifier._hit

    def hit(self, p, regs):
        if self._hits == 120:
            regs.cx ^= 1 << 63
            original(self, p, regs)
            regs.cx ^= 1 << 63
            return 0
        return original(self, p, regs)

    monkeypatch.setattr(Verifier, "_hit", hit)
    result = check(text="mov ecx, 150; l: sub ecx, 1; jnz l; ret")
    assert {failure.explain for failure in result.failures} == {
        "the handler was shown wrong registers: at pass 121 other registers than the site had"
    }


def test_a_worker_that_dies_is_told_and_no_other_is_left():
    def kill(done: int, _total: int, _note: str) -> None:
        if done:
            for child in multiprocessing.active_children():
                child.kill()

    result = verify_image(
        asm_image(SOUND, HELPER, "ret"), "f", sweep=Sweep("boundaries"), jobs=2, progress=kill
    )
    assert isinstance(result.died, WorkerDied)
    assert (result.verdict, result.interrupted) == ("nothing-found", True)
    assert 0 < result.sites < result.total
    assert multiprocessing.active_children() == []


def test_ctrl_c_leaves_what_verify_has_found_by_then(monkeypatch):
    """Also what the site has come to that is not done yet."""
    original = Verifier._explain_registers
    shown: list[int] = []

    def wrong(self, regs):
        shown.append(regs.ip)
        return "wrong" if len(shown) == 3 else original(self, regs)

    def interrupted(_done: int, _total: int, note: str) -> None:
        if "interrupt 0" in note and len(shown) > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Verifier, "_explain_registers", wrong)
    result = verify_image(
        asm_image(SOUND, HELPER, "ret"), "f", sweep=Sweep("boundaries"), progress=interrupted
    )
    assert (result.verdict, result.interrupted, result.died) == ("bad", True, None)
    assert result.sites < result.total
    assert {failure.explain for failure in result.failures} == {"wrong"}
    assert result.to_json()["interrupted"] is True


def test_an_error_in_a_worker_comes_back_as_it_is():
    for error in (
        KprobeError(84, "why"),
        GuestFaultError(GuestFault(0, 1, "f", 2, FaultKind.HALT, "why")),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
