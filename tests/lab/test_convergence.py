"""``verify`` finds by one run that is interrupted at each boundary exactly what it finds by one run
for each interrupt: on every shipped workload, and with faults planted in all that an interrupt, a
hit and a poke are made of.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from arch_x86.emu.cpu import Cpu
from arch_x86.emu.execute import Executor
from arch_x86.emu.live_memory import LiveMemory
from arch_x86.images import load_image
from arch_x86.lab import verify as verify_module
from arch_x86.lab.convergence import Convergence
from arch_x86.lab.jobs import verify_image
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Failure, Sweep, Verifier
from engine.core.profiles import PROFILES, Profile
from engine.image import Image, Segment
from engine.syntax.arguments import IntegerArgument, parse_argument
from tests.conftest import BASE, Rig, asm_image
from tests.faults.run import Tree
from tests.faults.suite import FAULTS
from workloads.reference import Case, cases

ELF = Path(__file__).resolve().parents[2] / "workloads" / "elf"
IMAGES = sorted({case.image for case in cases()})
SHORT = [
    pytest.param(name, marks=pytest.mark.slow if Path(name).suffix != ".o" else ())
    for name in IMAGES
]
"""Linked files have the same functions as object files."""
# The first call of each function, which is the shortest.
ONE_EACH = tuple({(case.image, case.symbol): case for case in reversed(cases())}.values())
ALL = Sweep("boundaries")


@pytest.fixture
def stood_for(monkeypatch):
    """Whether one run stood for many, method by method."""
    found: list[bool] = []
    original = Convergence.runs

    def runs(self, *args, **kwargs):
        answer = original(self, *args, **kwargs)
        found.append(answer is not None)
        return answer

    monkeypatch.setattr(Convergence, "runs", runs)
    return found


def both_ways(pool, code: str | Image, sweep: Sweep = ALL, *arguments: int, **options: object):
    """What ``verify`` answers of ``f``, which is the same in both ways."""
    image = asm_image(code) if isinstance(code, str) else code
    given = [IntegerArgument(value) for value in arguments or (5,)]
    fast, slow = (
        verify_image(
            image,
            "f",
            given,
            sweep=sweep,
            pool=pool,
            options=ExecOptions(**options),
            one_by_one=one_by_one,
        )
        for one_by_one in (False, True)
    )
    assert fast.to_json() == slow.to_json()
    assert fast == slow
    return fast


def interrupted(result) -> set[int]:
    """At which positions an interrupt made a run fail."""
    return {one.interrupt_at for one in result.failures if one.interrupt_at is not None}


# The shipped workloads ----------------------------------------------------------------------------


def findings(pool, image: Image, case: Case, profile: Profile, sweep: Sweep, step: int):
    """What is found at some sites of a call, in both ways; None of a call that is long."""
    answers: list[list[tuple[int, list[Failure], int]]] = []
    for one_by_one in (False, True):
        with closing(
            Verifier(
                image,
                case.symbol,
                [parse_argument(text) for text in case.args],
                options=ExecOptions(profile=profile),
                pool=pool,
                one_by_one=one_by_one,
            )
        ) as verifier:
            if verifier.golden.instructions > 2_000:
                return None
            assert not verifier.golden.reads_stale, case.name
            answers.append(
                [
                    (addr, list(verifier.check_site(addr, sweep)), verifier.runs)
                    for addr in verifier.sites()[::step]
                ]
            )
    return answers


def compare(pool, name: str, sweep: Sweep, step: int, profiles: int):
    """Compare the two ways in the calls of the functions of an image."""
    image = load_image(ELF / name)
    mine = [one for one in ONE_EACH if one.image == name]
    for number, case in enumerate(mine):
        for offset in range(profiles):
            profile = PROFILES[(number + offset) % len(PROFILES)]
            both = findings(pool, image, case, profile, sweep, step)
            assert both is None or both[0] == both[1], (case.name, profile.name)


@pytest.mark.parametrize("name", SHORT)
def test_a_shipped_workload_is_verified_alike_in_both_ways(pool, stood_for, name):
    compare(pool, name, Sweep("sample", 1, 4), 60, 1)
    assert all(stood_for)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_a_shipped_workload_is_verified_alike_at_every_boundary(pool, stood_for, name):
    compare(pool, name, ALL, 12, len(PROFILES))
    assert all(stood_for)


# Calls that one run can't stand for ---------------------------------------------------------------

# Frames of interrupts lie 16 bytes aligned below RSP, which is 8 bytes off in a function: SS is 16
# bytes below it, then come RSP, RFLAGS, CS, and 48 bytes below it RIP. Each of these calls looks
# what an earlier frame has left there, and is wrong if it was one of a certain boundary: the run
# interrupted everywhere, in which each frame lies over the last one, does not show that.
STALE = {
    "below the stack pointer": """
        xor eax, eax; lea rdx, [rip + l]; nop; nop
        l: nop; nop; mov rcx, [rsp - 48]; cmp rcx, rdx; sete al; xor ecx, ecx; xor edx, edx; ret
    """,
    "in a local variable that was never written": """
        xor eax, eax; lea rdx, [rip + l]; nop; nop
        l: nop; nop; sub rsp, 56; mov rcx, [rsp + 8]; cmp rcx, rdx; sete al; xor ecx, ecx
        xor edx, edx; add rsp, 56; ret
    """,
    "in a local variable that was written in front of an earlier one's end": """
        xor eax, eax; lea rdx, [rip + l]; sub rsp, 56; mov [rsp + 8], rax; add rsp, 56; nop
        l: nop; nop; sub rsp, 56; mov rcx, [rsp + 8]; cmp rcx, rdx; sete al; xor ecx, ecx
        xor edx, edx; add rsp, 56; ret
    """,
    "in the counter of interrupts": """
        mov ecx, 0xf00; xor eax, eax; nop; nop; nop; nop
        cmp qword ptr gs:[rcx], 1; sete al; test eax, eax; ret
    """,
}


@pytest.mark.parametrize("where", STALE)
def test_a_call_that_reads_what_an_interrupt_leaves_is_run_interrupt_by_interrupt(
    pool, stood_for, where
):
    # assemble() knows no labels in operands, so the boundary is found by its distance.
    text = STALE[where]
    code = text.replace("[rip + l]", "[rip + 2]") if "gs:" not in text else text
    result = both_ways(pool, code.replace("l: ", ""))
    assert interrupted(result)
    assert not stood_for


def golden(pool, code: str, **fields: object):
    with closing(
        Verifier(
            asm_image(code, **fields), "f", [IntegerArgument(5)], options=ExecOptions(), pool=pool
        )
    ) as verifier:
        return verifier.golden


@pytest.mark.parametrize(
    ("code", "stale"),
    [
        ("push rdi; mov rax, [rsp]; pop rdi; ret", False),
        ("push rdi; pop rax; mov rax, [rsp - 8]; ret", True),
        ("sub rsp, 8; mov [rsp], rdi; mov rax, [rsp]; add rsp, 8; ret", False),
        ("sub rsp, 8; mov [rsp], edi; mov rax, [rsp]; add rsp, 8; ret", True),
        ("mov [rsp - 8], rdi; mov rax, [rsp - 8]; ret", True),
        ("mov [rsp - 8], rdi; sub rsp, 8; mov rax, [rsp]; add rsp, 8; ret", True),
        ("push rdi; add rsp, 8; sub rsp, 8; pop rax; ret", True),
        ("push rdi; mov [rsp - 64], rdi; pop rax; ret", False),
        ("mov ecx, 0xf00; mov rax, gs:[rcx - 8]; ret", False),
        ("mov ecx, 0xf00; mov rax, gs:[rcx - 7]; ret", True),
        ("mov ecx, 0xf00; mov gs:[rcx], rdi; ret", True),
        ("mov ecx, 0xf00; mov rax, gs:[rcx + 8]; ret", False),
        ("mov rax, rsp; lea rsp, [rip]; mov rsp, rax; ret", True),
        (
            "mov ecx, 16; lea rdi, [rsp - 64]; rep stosb; mov ecx, 2; lea rsi, [rsp - 64];"
            " lodsq; ret",
            True,
        ),
    ],
)
def test_a_byte_is_stale_once_it_lay_below_the_stack_pointer_unwritten_since(pool, code, stale):
    assert golden(pool, code).reads_stale is stale


def test_what_lies_in_the_red_zone_is_not_stale_where_there_is_one(pool):
    code = "mov [rsp - 128], rdi; mov rax, [rsp - 128]; ret"
    assert not golden(pool, code, red_zone=True).reads_stale
    assert golden(pool, code, red_zone=False).reads_stale
    assert golden(pool, code.replace("128", "136"), red_zone=True).reads_stale


ROOM = BASE + 0x2000


def with_room(code: str) -> Image:
    """An image with ``code`` and a page of data at :data:`ROOM`."""
    text = asm_image(code)
    room = Segment(ROOM, bytes(4096), 4096, writable=True, executable=False)
    return Image(name="asm", segments=(*text.segments, room), symbols=text.symbols)


def test_a_call_on_a_stack_of_its_own_is_run_interrupt_by_interrupt(pool, stood_for):
    image = with_room(f"mov rax, rsp; mov rsp, {ROOM + 2048}; push rdi; pop rdx; mov rsp, rax; ret")
    assert both_ways(pool, image).good
    assert not stood_for


def test_a_call_near_its_limit_is_run_interrupt_by_interrupt(pool, stood_for, monkeypatch):
    # The run without an interrupt has room for its hit alone.
    monkeypatch.setattr(verify_module, "_INTERRUPT_MAX", 0)
    monkeypatch.setattr(verify_module, "_HIT_MAX", 68)
    result = both_ways(pool, "mov eax, edi; add eax, 3; ret")
    assert interrupted(result)
    assert not all(stood_for)


# Faults -------------------------------------------------------------------------------------------

push_frame = Cpu.push_frame
SOUND = """
push rbx; mov ebx, edi; xor eax, eax; mov ecx, 3
l: add eax, ebx; sub ecx, 1; jnz l
push rax; pop rdx; add rax, rdx; pop rbx; ret
"""


def flip_a_live_byte(machine, rsp):
    """A byte of data is another one, until the next interrupt."""
    del rsp
    (byte,) = machine.ram.read(ROOM, 1)
    machine.ram.write(ROOM, bytes((byte ^ 1,)))


def flip_a_byte_of_the_cpu(machine, rsp):
    """A byte of the page of the CPU, at which nobody looks, is another one."""
    del rsp
    at = machine.layout.gs_base(0) + 0x28
    (byte,) = machine.ram.read(at, 1)
    machine.ram.write(at, bytes((byte ^ 1,)))


def flip_the_direction(machine, rsp):
    """The code goes on with another DF."""
    at = (rsp & ~15) - 24
    machine.ram.write(at, (machine.ram.read_u64(at) ^ 0x400).to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("change", "fails"),
    [(flip_a_live_byte, True), (flip_a_byte_of_the_cpu, False), (flip_the_direction, True)],
)
@pytest.mark.parametrize("nops", [0, 1])
def test_what_one_handler_breaks_and_the_next_one_mends_is_found_alike(
    pool, monkeypatch, stood_for, change, fails, nops
):
    # Of the two codes one has an even number of boundaries, so that all is well at the end.
    image = with_room("nop; " * nops + "mov eax, edi; mov ecx, eax; mov edx, eax; ret")
    original = Executor.interrupt

    def interrupt(self, cpu):
        vcpu = self.machine.cpus[cpu]
        rsp = vcpu.registers()[4]
        done = original(self, cpu)
        if done:
            change(self.machine, rsp)
        return done

    monkeypatch.setattr(Executor, "interrupt", interrupt)
    assert bool(interrupted(both_ways(pool, image))) is fails
    assert not any(stood_for)


def test_a_host_that_reads_below_the_guests_stack_pointer_is_found_alike(pool, monkeypatch):
    """Where nothing was pushed before, it reads zeros, and is right."""
    original = Verifier._hit

    def hit(self, p, regs):
        machine = self.bench.machine
        below = machine.ram.read(machine.cpus[0].uc.gpr[4] - 256, 8)
        if any(below):
            regs.cx ^= 1
        return original(self, p, regs)

    monkeypatch.setattr(Verifier, "_hit", hit)
    assert interrupted(both_ways(pool, SOUND))


def test_an_interrupt_that_no_handler_returns_from_is_found_alike(pool, monkeypatch):
    monkeypatch.setattr(
        Cpu, "push_frame", lambda self, handler, code=None: push_frame(self, handler + 1, code)
    )
    assert both_ways(pool, SOUND).failures


def test_a_stack_without_room_for_a_frame_is_found_alike(pool):
    code = "sub rsp, 65400; nop; add rsp, 65400; ret"
    assert interrupted(both_ways(pool, code))


def test_interrupts_that_the_code_forbids_are_not_counted_in_either_way(pool, stood_for):
    result = both_ways(pool, "cli; mov eax, edi; sti; inc eax; nop; ret", ALL, 5)
    assert all(stood_for)
    assert result.runs < result.sites * 4 * 6


def test_the_answer_of_several_processes_is_the_same_in_both_ways():
    answers = [
        verify_image(
            asm_image(SOUND),
            "f",
            [IntegerArgument(5)],
            sweep=ALL,
            jobs=jobs,
            one_by_one=one_by_one,
        )
        for jobs in (1, 2)
        for one_by_one in (False, True)
    ]
    assert all(one == answers[0] for one in answers)


PLANTED = [fault for fault in FAULTS if fault.file.startswith(("arch_x86/p", "arch_x86/t"))]
PLANTED += [fault for fault in FAULTS if fault.file.startswith("arch_x86/emu")]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Tree(ELF.parents[1], tmp_path_factory.mktemp("faults"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.name)
def test_a_fault_planted_in_a_copy_of_the_project_is_found_alike(tree, fault):
    path = tree.room / fault.file
    good = path.read_text(encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()
    path.write_text(good.replace(fault.old, fault.new), encoding="utf-8")
    try:
        done = tree.run(["-m", "tests.faults.both_ways"])
    finally:
        path.write_text(good, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "")


# Live memory --------------------------------------------------------------------------------------


def test_all_memory_but_the_dead_stack_and_the_counter_is_live(pool):
    rig = Rig(asm_image("ret"), pool)
    machine = rig.machine
    buffer = machine.allocate(100)
    memory = LiveMemory(machine, 0)
    top = machine.tasks[0].stack_top
    gs, fs = machine.layout.gs_base(0), machine.layout.fs_base(0)
    for dead_end in (top - 3 * 4096 - 100, top - 4096, top - 8, top - 16 * 4096, 0):
        for at in (buffer, fs, gs, gs + 0xEFF, gs + 0xF08, top - 1, max(dead_end, top - 65536)):
            assert changed(machine, memory, dead_end, at), (hex(dead_end), hex(at))
        assert not changed(machine, memory, dead_end, gs + 0xF00)
        if dead_end > top - 16 * 4096:
            assert not changed(machine, memory, dead_end, dead_end - 1)
            assert not changed(machine, memory, dead_end, top - 16 * 4096)


def changed(machine, memory: LiveMemory, dead_end: int, at: int) -> bool:
    """Whether a store at ``at`` is one to live memory."""
    memory.keep(dead_end)
    assert memory.is_as_kept()
    (byte,) = machine.ram.read(at, 1)
    machine.ram.write(at, bytes((byte ^ 1,)))
    return not memory.is_as_kept()
