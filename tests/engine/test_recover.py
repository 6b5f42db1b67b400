"""Laws of decoding a function that has probes in it: it sees the original bytes.

That is so in every state of a probe; what others patch is seen as it is.
"""

from __future__ import annotations

import pytest

from engine.errors import KprobeError
from engine.kprobe import Kprobe
from tests.conftest import BASE

pytestmark = pytest.mark.smoke

CODE = "mov eax, 1; add rax, rdi; xor rdx, rdx; lea rax, [rax + 7]; ret"
SIZE = 16


def states(bench, p: Kprobe):
    """Walk a probe through its life, and yield in each state."""
    kprobes = bench.kprobes
    yield "before"
    kprobes.register_kprobe(p)
    yield "armed"
    kprobes.wait_for_kprobe_optimizer()
    yield "optimized"
    kprobes.disable_kprobe(p)
    yield "being unoptimized"
    kprobes.wait_for_kprobe_optimizer()
    yield "disabled"
    kprobes.enable_kprobe(p)
    yield "armed again"
    kprobes.wait_for_kprobe_optimizer()
    kprobes.unregister_kprobe(p)
    yield "unregistered, the jump still there"
    kprobes.wait_for_kprobe_optimizer()
    yield "gone"


@pytest.mark.parametrize("offset", [0, 5, 8])
def test_recovered_text_is_the_original_in_every_state_and_from_any_start(workbench, offset):
    bench = workbench(CODE)
    original = bench.image.read(BASE, SIZE)
    raw = set()
    for state in states(bench, Kprobe(symbol_name="f", offset=offset)):
        raw.add(bench.machine.text.read(BASE, SIZE))
        for start in range(SIZE):
            for size in range(1, SIZE - start + 1):
                assert bench.arch.recovered(BASE + start, size) == original[start : start + size], (
                    state,
                    start,
                    size,
                )
    assert len(raw) == 3  # original, breakpoint, jump


@pytest.mark.parametrize("mixture", [b"\xcc", b"\xe9"])
def test_recovered_text_is_the_original_between_breakpoint_and_jump(workbench, mixture):
    bench = workbench(CODE)
    original = bench.image.read(BASE, SIZE)
    p = Kprobe(symbol_name="f")
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    bench.machine.text.write(BASE, mixture, reason="a poke that has come half way")
    assert bench.arch.recovered(BASE, SIZE) == original


def test_probing_does_not_drop_what_was_decoded_but_a_patch_by_others_does(workbench):
    bench = workbench(CODE)
    function = bench.arch.code.function_at(BASE)
    assert function is not None
    assert function.boundaries
    p = Kprobe(symbol_name="f", offset=5)
    for _state in states(bench, p):
        assert bench.arch.code.function_at(BASE) is function
    bench.machine.text.write(BASE, b"\xb9", reason="somebody else: mov ecx instead of mov eax")
    patched = bench.arch.code.function_at(BASE)
    assert patched is not function
    assert patched is not None
    assert patched.insns[0].text.startswith("mov ecx")


def test_boundaries_follow_a_patch_by_others(workbench):
    bench = workbench(CODE)
    with pytest.raises(KprobeError):
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f", offset=2))
    bench.machine.text.write(
        BASE, b"\x31\xc0\x0f\x1f\x00", reason="somebody else: xor eax, eax; nop"
    )
    hits: list[int] = []
    p = Kprobe(symbol_name="f", offset=2, pre_handler=lambda _p, regs: hits.append(regs.ip))
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert bench.call("f", 5) == 12
    assert hits == [BASE + 3]
    bench.kprobes.unregister_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert bench.machine.text.read(BASE, 5) == b"\x31\xc0\x0f\x1f\x00"
