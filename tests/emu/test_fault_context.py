"""What a fault record says beside the place: who called where no code is, and what the system was
asked for.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from engine.kprobe import Kprobe
from engine.kretprobe import Kretprobe
from tests.conftest import BASE

LEAVES = {
    "a call of 0": (("nop; xor eax, eax; call rax; ret",), FaultKind.UNMAPPED_FETCH, ("f", 5)),
    "a call of 0 in memory": (
        ("push 0; call qword ptr [rsp]; pop rax; ret",),
        FaultKind.UNMAPPED_FETCH,
        ("f", 5),
    ),
    "a jump to 0 by who was called": (
        (f"call {BASE + 256:#x}; ret", "xor eax, eax; jmp rax"),
        FaultKind.UNMAPPED_FETCH,
        ("f", 5),
    ),
    "a call that is a function's end": (
        ("mov rax, 0x55550000; call rax",),
        FaultKind.UNMAPPED_FETCH,
        ("f", 9),
    ),
    "a call of the stack": (("mov rax, rsp; call rax; ret",), FaultKind.NO_EXECUTE, ("f", 5)),
    "a return to 0": (("push 0; ret",), FaultKind.UNMAPPED_FETCH, None),
    "a jump to 0 with an address of code that no call is before": (
        (f"mov eax, {BASE + 5:#x}; push rax; xor eax, eax; jmp rax",),
        FaultKind.UNMAPPED_FETCH,
        None,
    ),
}


@pytest.mark.parametrize("name", LEAVES)
def test_where_no_code_is_the_caller_is_the_return_address_behind_a_call(rig, name):
    functions, kind, caller = LEAVES[name]
    fault = rig(*functions).call()
    assert fault.kind is kind
    if caller is None:
        assert fault.caller is None
        assert "caller" not in fault.to_json()
        assert "return address" not in fault.explain
    else:
        assert (fault.caller.symbol, fault.caller.offset) == caller
        assert f"the return address on the stack is {caller[0]}+{caller[1]:#x}" in fault.explain
        assert fault.to_json()["caller"] == {
            "rip": BASE + caller[1],
            "symbol": caller[0],
            "offset": caller[1],
        }


def test_the_caller_is_the_same_with_probes_on_the_way(workbench):
    """On the call, by each method, and on the returns of who was called, whose return address is
    the trampoline.
    """
    bench = workbench(f"nop; call {BASE + 256:#x}; ret", "nop; xor eax, eax; jmp rax")
    for post in (None, lambda *_: None):
        for optimize in (False, True):
            bench.kprobes.kprobes_allow_optimization = optimize
            probe = Kprobe(symbol_name="f", offset=1, pre_handler=lambda *_: 0, post_handler=post)
            returns = Kretprobe(symbol_name="g", handler=lambda *_: 0)
            bench.kprobes.register_kprobe(probe)
            bench.kprobes.register_kretprobe(returns)
            bench.kprobes.wait_for_kprobe_optimizer()
            bench.start_call(0, BASE)
            (fault,) = bench.finish_calls()
            assert (fault.kind, fault.caller.symbol, fault.caller.offset) == (
                FaultKind.UNMAPPED_FETCH,
                "f",
                6,
            )
            bench.kprobes.unregister_kretprobe(returns)
            bench.kprobes.unregister_kprobe(probe)
            bench.kprobes.wait_for_kprobe_optimizer()


ASKED = {
    "mov eax, 39; syscall": (39, "number 39 (getpid of Linux)"),
    "mov eax, 4000; syscall": (4000, "number 4000 of Linux"),
    "mov eax, 1; int 0x80": (1, "number 1 (exit of 32-bit Linux)"),
    "mov eax, 4; sysenter": (4, "number 4 (write of 32-bit Linux)"),
    "mov eax, 5; int 0x21": (None, "software interrupt: there is no system here"),
}


@pytest.mark.parametrize("text", ASKED)
def test_a_system_call_is_named_by_what_was_asked_for(rig, text):
    number, words = ASKED[text]
    fault = rig(f"{text}; ret").call()
    assert fault.system_call == number
    assert words in fault.explain
    assert fault.to_json().get("system_call") == number
