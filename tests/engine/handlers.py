"""Workbenches whose probes have handlers that call guest functions."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager

from arch_x86.lab.bench import Workbench
from engine.core.profiles import LINUX_2010
from engine.kprobe import Kprobe, Method
from tests.conftest import BASE, asm_image
from tests.engine.guests import (
    workbench_of,
)

G, H = BASE + 256, BASE + 512
PLAIN = "mov eax, edi; nop; nop; nop; nop; add rax, rsi; ret"
# CLOBBER changes all that a function may change, and more: every register but RSP, flags, x87, SSE,
# and the 128 bytes under RSP.
CLOBBER = (
    "push rdi; mov rcx, -1; "
    + "; ".join(
        f"mov {r}, rcx"
        for r in ("rbx", "rdx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
    )
    + "; pcmpeqd xmm0, xmm0; movdqa xmm7, xmm0; movdqa xmm15, xmm0; fldpi; fldpi; "
    "mov [rsp - 8], rcx; mov [rsp - 128], rcx" + "; pop rax; add rax, rax; std; stc; ret"
)
COUNTS_THEN_IF = "mov ecx, 300; l: dec ecx; jnz l; pushfq; pop rax; and eax, 0x200; ret"
METHODS = ("stepped", "boosted", "jump")


@contextmanager
def workbenches(pool, request) -> Generator[Callable[..., Workbench]]:
    """``build(image or texts, ...)``: a workbench, of the test's profile if it has one, else of
    2010. At the end all are closed.
    """
    named = "profile" in request.fixturenames
    profile = request.getfixturevalue("profile") if named else LINUX_2010
    with ExitStack() as made:

        def build(*what, cpus: int = 1, **fields) -> Workbench:
            image = asm_image(*what, **fields) if isinstance(what[0], str) else what[0]
            bench = workbench_of(image, pool, profile, optimize=True, cpus=cpus)
            return made.enter_context(closing(bench))

        yield build


def put(bench, method: str, **fields) -> Kprobe:
    """Register a probe whose hits run by ``method``."""
    kprobes = bench.kprobes
    kprobes.kprobes_allow_optimization = method == "jump"
    p = Kprobe(post_handler=(lambda *_: None) if method == "stepped" else None, **fields)
    kprobes.register_kprobe(p)
    kprobes.wait_for_kprobe_optimizer()
    expected = {
        "stepped": (Method.INT3, Method.EMULATED),
        "boosted": (Method.BOOSTED,),
        "jump": (Method.OPTIMIZED,),
    }
    assert bench.method(p) in expected[method]
    return p


def calling(bench, addr: int, *integers: int, answers: list | None = None):
    """A pre_handler that calls a guest function."""

    def handler(_p, _regs):
        answer = bench.call_nested(bench.arch.cpus.cpu, addr, *integers)
        if answers is not None:
            answers.append(answer)
        return 0

    return handler
