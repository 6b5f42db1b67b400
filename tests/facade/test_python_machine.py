"""``optprobe.Machine``: calls, memory, probes and snapshots, and what it refuses."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

import optprobe
from tests.conftest import ROOT

IMAGE = optprobe.load_asm(
    """
work:
    lea eax, [rdi + rdi*2]
    add eax, edi
    ret
square:
    mov rax, rdi
    imul rax, rdi
    ret
half:
    addsd xmm0, xmm1
    ret
fill:
    mov qword ptr [rdi], rsi
    ret
endless:
    jmp endless
crash:
    mov rax, [rdi]
    ret
""",
    "machine.s",
)
pytestmark = pytest.mark.smoke


@pytest.fixture
def machine():
    with optprobe.Machine(IMAGE, cpus=2, max_instructions=10_000) as made:
        yield made


def test_a_call_takes_integers_floats_buffers_and_texts_of_the_command_line(machine):
    assert machine.call("work", 5).result == 20
    assert machine.call("work", "0x5", cpu=1).result == 20
    assert machine.call("square", -3).result == 9
    assert machine.call("half", 1.5, 2.25).result_f64 == 3.75
    filled = machine.call("fill", b"\xff" * 10, 0x0102)
    assert filled.buffers == (b"\x02\x01" + bytes(6) + b"\xff\xff",)
    assert machine.call("fill", bytearray(8), True).buffers == (b"\x01" + bytes(7),)


def test_a_buffer_that_was_allocated_is_read_and_written_where_it_lies(machine):
    buffer = machine.allocate(16, b"abc")
    assert machine.read(buffer, 4) == b"abc\0"
    machine.write(buffer + 8, memoryview(b"xyz"))
    machine.call("fill", buffer, 7)
    assert machine.read(buffer, 16) == b"\x07" + bytes(7) + b"xyz" + bytes(5)
    assert (
        machine.read(machine.address("work"), 3)
        == machine.text(machine.address("work"), 3)
        == b"\x8d\x04\x7f"
    )


def test_a_probe_is_a_breakpoint_then_a_jump_and_its_method_is_told(machine):
    seen = []
    probe = optprobe.Kprobe(symbol_name="work", pre_handler=lambda p, regs: seen.append(regs.di))
    machine.kprobes.register_kprobe(probe)
    assert machine.method(probe) is optprobe.Method.BOOSTED
    assert machine.text(probe.addr, 1) == b"\xcc"
    machine.wait_for_kprobe_optimizer()
    assert machine.method(probe) is optprobe.Method.OPTIMIZED
    assert machine.text(probe.addr, 1) == b"\xe9"
    machine.call("work", 8)
    machine.call("work", 9, cpu=1)
    assert seen == [8, 9]
    returns = optprobe.Kretprobe(
        symbol_name="square", handler=lambda ri, regs: seen.append(regs.ax)
    )
    machine.kprobes.register_kretprobe(returns)
    assert machine.method(returns) is optprobe.Method.BOOSTED
    machine.call("square", 4)
    assert seen == [8, 9, 16]
    assert repr(machine) == "<Machine machine.s, 2 vCPUs, linux-2010, 2 probes>"


def test_interrupts_come_in_the_call_that_asks_for_them_and_in_no_other(machine):
    plain = machine.call("work", 5).instructions
    assert machine.call("work", 5, interrupts="every:1").instructions > plain
    assert machine.call("work", 5).instructions == plain


def test_a_snapshot_is_gone_back_to_as_often_as_one_likes_while_probes_stay(machine):
    buffer = machine.allocate(8)
    before = machine.snapshot()
    for value in (1, 2):
        machine.call("fill", buffer, value)
        assert machine.read(buffer, 1) == bytes([value])
        machine.restore(before)
        assert machine.read(buffer, 8) == bytes(8)
    machine.kprobes.register_kprobe(optprobe.Kprobe(symbol_name="work"))
    with pytest.raises(optprobe.InputError, match="the text has changed"):
        machine.restore(before)


def test_a_guest_that_dies_or_does_not_end_is_an_error_with_its_fault(machine):
    with pytest.raises(optprobe.GuestFaultError) as died:
        machine.call("crash", 0)
    assert died.value.fault.kind is optprobe.FaultKind.UNMAPPED_ACCESS
    with pytest.raises(optprobe.GuestFaultError) as endless:
        machine.call("endless")
    assert endless.value.fault.kind is optprobe.FaultKind.INSTRUCTION_LIMIT
    assert machine.call("work", 1).result == 4


def test_an_error_of_a_handler_goes_through_the_call_and_the_machine_goes_on(machine):
    probe = optprobe.Kprobe(symbol_name="work", pre_handler=lambda p, regs: 1 // 0)
    machine.kprobes.register_kprobe(probe)
    with pytest.raises(ZeroDivisionError):
        machine.call("work", 1)
    machine.kprobes.unregister_kprobe(probe)
    assert machine.call("work", 1).result == 4


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda m: m.call("wrok"), "no function wrok; there is work"),
        (lambda m: m.call("work", cpu=2), "cpu=2: the machine has 2; give 0 to 1"),
        (lambda m: m.call("work", 1 << 64), "does not fit in 64 bits"),
        (lambda m: m.call("work", b""), "a buffer of 0 bytes"),
        (lambda m: m.call("work", None), "argument None: give an int"),
        (lambda m: m.call("work", *range(7)), "at most 6 integers"),
        (lambda m: m.call("work", interrupts="often"), "none, every:N"),
        (lambda m: m.call_nested("work", 1), "call_nested() is for handlers"),
        (lambda m: m.allocate(2, b"abc"), "at least that of the content"),
        (lambda m: m.allocate(1 << 40), "does not fit"),
        (lambda m: m.read(0, 8), "8 bytes at 0x0 can't be read"),
        (lambda m: m.read(m.address("work"), 0), "can't be read"),
        (lambda m: m.write(m.address("work"), b"\x90"), "can't be written"),
        (
            lambda m: m.method(optprobe.Kprobe(symbol_name="work")),
            "<Kprobe work+0x0> is not registered",
        ),
    ],
)
def test_what_makes_no_sense_is_bad_input_in_one_line(machine, use, words):
    with pytest.raises(optprobe.InputError) as refused:
        use(machine)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_the_kernel_refuses_has_its_errno(machine):
    with pytest.raises(optprobe.KprobeError) as refused:
        machine.kprobes.register_kprobe(optprobe.Kprobe(symbol_name="work", offset=1))
    assert refused.value.errno == errno.EILSEQ


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda m: m.call("square", 1), "call_nested() calls guest code"),
        (lambda m: m.wait_for_kprobe_optimizer(), "must not wait"),
        (lambda m: m.snapshot(), "between calls"),
    ],
)
def test_a_handler_that_does_what_only_the_outside_may_is_told_so(machine, use, words):
    probe = optprobe.Kprobe(symbol_name="work", pre_handler=lambda p, regs: use(machine))
    machine.kprobes.register_kprobe(probe)
    with pytest.raises(optprobe.InputError) as refused:
        machine.call("work", 1)
    assert words in str(refused.value)


def test_a_closed_machine_says_so_whatever_it_is_asked(machine):
    machine.close()
    machine.close()
    assert repr(machine).endswith("closed>")
    for use in (
        machine.snapshot,
        machine.wait_for_kprobe_optimizer,
        machine.__enter__,
        lambda: machine.call("work", 1),
    ):
        with pytest.raises(optprobe.InputError, match="the machine is closed"):
            use()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpus": 9}, "--cpus: 9 is out of range; give 1 to 8"),
        ({"profile": "linux-7"}, "give one of linux-2010, linux-6.1, next"),
        ({"max_instructions": 0}, "--max-instructions"),
        ({"stubs": {"malloc": 0}}, "stub malloc: machine.s: it is called by nothing"),
        ({"stubs": "malloc=ret:0"}, "give a list"),
        (
            {"poke": lambda *_: object()},
            "object is no poke protocol, for it has no text_poke, text_poke_bytes",
        ),
    ],
)
def test_a_machine_that_can_not_be_is_refused_in_one_line(options, words):
    with pytest.raises(optprobe.InputError) as refused:
        optprobe.Machine(IMAGE, **options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "name", [name for name in vars(optprobe.PokeProtocol) if not name.startswith("_")]
)
def test_a_poke_protocol_that_lacks_one_part_is_refused_by_the_name_of_it(name):
    there = {one: None for one in vars(optprobe.PokeProtocol) if one[0] != "_" and one != name}
    with pytest.raises(optprobe.InputError, match=f"for it has no {name}; see docs/api.md"):
        optprobe.Machine(IMAGE, poke=lambda *_: SimpleNamespace(**there))
    assert f"`{name}`" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_a_poke_protocol_of_the_users_writes_the_text():
    told = []

    class Told(optprobe.StopMachinePoke):
        def text_poke_jumps(self, params):
            told.extend((param.addr, param.data[:1]) for param in params)
            super().text_poke_jumps(params)

    with optprobe.Machine(IMAGE, poke=Told) as machine:
        machine.kprobes.register_kprobe(optprobe.Kprobe(symbol_name="work"))
        machine.wait_for_kprobe_optimizer()
        assert told == [(machine.address("work"), b"\xe9")]


def test_a_profile_with_another_field_behaves_by_it():
    with optprobe.Machine(IMAGE, profile=optprobe.profile("next", optprobes=False)) as machine:
        probe = optprobe.Kprobe(symbol_name="work")
        machine.kprobes.register_kprobe(probe)
        machine.wait_for_kprobe_optimizer()
        assert machine.method(probe) is optprobe.Method.BOOSTED
