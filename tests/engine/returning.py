"""Return probes that note each return, and where they are registered."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from arch_x86.lab.bench import Workbench
from engine.kretprobe import Kretprobe
from tests.conftest import BASE, asm_image
from tests.engine.guests import (
    workbench_of,
)

G = BASE + 256
# It returns with every kind of result: RAX, XMM0, flags.
ADDING_XMM = "mov eax, edi; nop; nop; nop; add eax, edi; movq xmm0, rdi; cmp edi, 99; ret"


@contextmanager
def workbenches(pool, profile, *, optimize: bool) -> Generator[Callable[..., Workbench]]:
    """``build(image or texts, change=..., ...)``: a workbench of the profile, of which the fields
    in ``change`` are others. At the end all are closed.
    """
    with ExitStack() as made:

        def build(*what, cpus: int = 1, change=None, **fields) -> Workbench:
            image = asm_image(*what, **fields) if isinstance(what[0], str) else what[0]
            changed = replace(profile, **(change or {}))
            bench = workbench_of(image, pool, changed, optimize=optimize, cpus=cpus)
            return made.enter_context(closing(bench))

        yield build


def registered(bench, *rps: Kretprobe) -> None:
    for rp in rps:
        bench.kprobes.register_kretprobe(rp)
    bench.kprobes.wait_for_kprobe_optimizer()


def returns(**fields) -> tuple[Kretprobe, list]:
    """A return probe, and a list of ``(ri, regs.ax, ri.ret_addr, regs.ip, regs.sp)`` a return."""
    seen: list = []
    return (
        Kretprobe(
            handler=lambda ri, regs: seen.append((ri, regs.ax, ri.ret_addr, regs.ip, regs.sp)),
            **fields,
        ),
        seen,
    )
