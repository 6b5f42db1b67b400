"""This module is ``optprobe demo``: a probe's life on compiled code; no kernel file answers to it.

It shows one probe from the breakpoint to the jump and back, hits by each method, an interrupt at
every boundary, and 600 probes undone in batches.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from arch_x86.emu.machine import new_pool
from arch_x86.emu.uc import UcPool
from arch_x86.images import load_image
from arch_x86.isa.constants import INT3
from arch_x86.lab.bench import Workbench
from arch_x86.lab.listing import annotate_detour, window
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Sweep, Verifier
from engine.errors import EngineBug, InputError
from engine.image import Image, Segment, Symbol
from engine.kprobe import AggrKprobe, Kprobe, Method
from engine.report.terminal import Progress, Style, count, table
from engine.syntax.arguments import BufferArgument, IntegerArgument

__all__ = ("many_functions", "run_demo")

_MESSAGE = b"patching running code, one instruction at a time"
_MANY = 600
_FUNCTION_SIZE = 16
_WINDOW = 20


def run_demo(path: str | None, style: Style) -> int:
    """Print the whole demonstration; return exit status 1 when anything is not as it should be.

    :param path: an image with a function ``sha256``; None takes the shipped one.
    :raises InputError: the image cannot be loaded, or has no site that can be optimized.
    """
    image = load_image(path or _shipped())
    pool = new_pool()
    good = _show_life(image, pool, style)
    good &= _show_hits(image, pool, style)
    good &= _show_interrupts(image, pool, style)
    good &= _show_batches(pool, style)
    verdict = (
        style.paint("all as it should be", "green", "bold")
        if good
        else style.paint("NOT as it should be", "red", "bold")
    )
    print(f"\n{verdict}")
    return 0 if good else 1


def _shipped() -> Path:
    """Return the path of the compiled SHA-256.

    In a wheel it lies beside this module, in the source tree among the workloads.
    """
    here = Path(__file__).resolve()
    packed = here.parent / "data" / "sha256.o"
    return packed if packed.exists() else here.parents[2] / "workloads" / "elf" / "sha256.o"


def _arguments() -> tuple[BufferArgument | IntegerArgument, ...]:
    return (BufferArgument(_MESSAGE), IntegerArgument(len(_MESSAGE)), BufferArgument(bytes(32)))


def _heading(style: Style, text: str) -> None:
    print(f"\n{style.paint(text, 'bold', 'cyan')}")


def _verifier(image: Image, pool: UcPool) -> Verifier:
    return Verifier(image, "sha256", _arguments(), options=ExecOptions(), pool=pool)


def _choose(verifier: Verifier) -> int:
    """Return the site to show: the one that can be optimized and is executed most often.

    Of several, the first in address order is taken.
    """
    from arch_x86.probes.optimize import OptimizePlan, can_optimize

    code = verifier.bench.arch.code
    best = max(
        (addr for addr in verifier.sites() if isinstance(can_optimize(code, addr), OptimizePlan)),
        key=lambda addr: (len(verifier.golden.passes[addr]), -addr),
        default=None,
    )
    if best is None:
        raise InputError(
            "no instruction of sha256 can be optimized; give another build of it with --image"
        )
    return best


# One probe's life ---------------------------------------------------------------------------------


def _show_life(image: Image, pool: UcPool, style: Style) -> bool:
    verifier = _verifier(image, pool)
    bench, addr = verifier.bench, _choose(verifier)
    kallsyms, kprobes = bench.machine.kallsyms, bench.kprobes
    print(style.paint("optprobe: a kprobe's life on real machine code", "bold"))
    print(
        f"SHA-256 of {len(_MESSAGE)} bytes, compiled by gcc -O2,"
        f" {count(verifier.golden.instructions, 'instruction')} a call."
    )
    print(
        f"The probe goes to {kallsyms.describe(addr)}, executed"
        f" {count(len(verifier.golden.passes[addr]), 'time')} in a call."
    )
    probe = Kprobe(addr=addr, pre_handler=lambda _p, _regs: 0)

    def name(target: int) -> str:
        if target == bench.machine.stubs.optimized_callback:
            return "optimized_callback"
        entry = kprobes.get_kprobe(addr)
        if (
            isinstance(entry, AggrKprobe)
            and entry.optinsn is not None
            and target == entry.optinsn.detour.addr
        ):
            return f"{target:#x}  (the detour buffer)"
        return kallsyms.describe(target)

    def show(state: str) -> bytes:
        now = bench.machine.text.read(addr, _WINDOW)
        print(f"  {style.paint(f'{state:<11}', 'bold')}", end="")
        for index, line in enumerate(window(before, now, addr, name=name, style=style)):
            print(f"{' ' * 13 if index else ''}{line}")
        return now

    before = bench.machine.text.read(addr, _WINDOW)
    _heading(style, "1. The text at the site")
    show("before")
    kprobes.register_kprobe(probe)
    show("armed")
    kprobes.wait_for_kprobe_optimizer()
    show("optimized")
    entry = kprobes.get_kprobe(addr)
    assert isinstance(entry, AggrKprobe)
    detour = annotate_detour(entry.optinsn, addr, name=name, style=style)
    kprobes.unregister_kprobe(probe)
    kprobes.wait_for_kprobe_optimizer()
    after = show("unpatched")
    print(
        "  " + ("At the end every byte is back." if after == before else "NOT every byte is back.")
    )
    _heading(style, "2. The detour buffer")
    print("\n".join(detour))
    bench.close()
    return after == before


# Hits by each method ------------------------------------------------------------------------------


def _show_hits(image: Image, pool: UcPool, style: Style) -> bool:
    verifier = _verifier(image, pool)
    bench, addr = verifier.bench, _choose(verifier)
    machine = bench.machine
    function = machine.kallsyms.lookup_name("sha256")
    assert function is not None
    out = machine.allocate(64)
    message = machine.allocate(len(_MESSAGE), _MESSAGE)
    want = hashlib.sha256(_MESSAGE).digest()
    rows: list[tuple[str, ...]] = []
    good = True
    for method, how in (
        (Method.INT3, "breakpoint, then the copy in a single step"),
        (Method.BOOSTED, "breakpoint, then the copy and a jump back"),
        (Method.OPTIMIZED, "jump to the detour buffer"),
    ):
        hits = 0

        def hit(_p: Kprobe, _regs: object) -> int:
            nonlocal hits
            hits += 1
            return 0

        bench.kprobes.kprobes_allow_optimization = method is Method.OPTIMIZED
        probe = Kprobe(
            addr=addr,
            pre_handler=hit,
            post_handler=(lambda _p, _r, _f: None) if method is Method.INT3 else None,
        )
        bench.kprobes.register_kprobe(probe)
        bench.kprobes.wait_for_kprobe_optimizer()
        used = bench.method(probe)
        machine.restore(verifier.base, keep_text=True)
        start = machine.cpus[0].retired
        bench.call("sha256", message, len(_MESSAGE), out)
        same = machine.ram.read(out, 32) == want
        passes = len(verifier.golden.passes[addr])
        rows.append(
            (
                str(used),
                how,
                str(passes),
                str(hits),
                f"{machine.cpus[0].retired - start:,}",
                "equal" if same else "DIFFERS",
            )
        )
        good &= used is method and hits == passes and same
        bench.kprobes.unregister_kprobe(probe)
        bench.kprobes.wait_for_kprobe_optimizer()
    _heading(style, "3. Hits by each method")
    print(
        table(
            ("  METHOD", "HOW", "PASSES", "HITS", "INSNS", "DIGEST"),
            [("  " + r[0], *r[1:]) for r in rows],
            right=(2, 3, 4),
        )
    )
    bench.close()
    return good


# An interrupt everywhere --------------------------------------------------------------------------


def _show_interrupts(image: Image, pool: UcPool, style: Style) -> bool:
    verifier = _verifier(image, pool)
    addr = _choose(verifier)
    progress = Progress("interrupts")
    _heading(style, "4. An interrupt at every boundary of the call, the probe optimized")
    try:
        failures = list(
            verifier.check_method(addr, Method.OPTIMIZED, Sweep("boundaries"), progress.update)
        )
    finally:
        progress.clear()
    runs = verifier.runs - 1
    outcome = (
        "equal to the unprobed run every time"
        if not failures
        else f"{len(failures)} DIFFERENT from the unprobed run"
    )
    print(
        f"  {count(runs, 'run')}, each with one interrupt: between any two instructions of the"
        " function,"
    )
    print(
        "  around the jump, and inside the detour buffer. Result, memory, registers, flags, stack,"
        " hits:"
    )
    print(f"  {style.paint(outcome, 'green' if not failures else 'red')}.")
    for failure in failures[:5]:
        print(f"    interrupt after {failure.interrupt_at} instructions: {failure.explain}")
    verifier.bench.close()
    return not failures


# Many at once -------------------------------------------------------------------------------------


def many_functions(number: int) -> Image:
    """Return an image of ``number`` functions of two instructions: ``mov eax, N; ret``."""
    base = 0x1000_0000
    code = b"".join(
        (b"\xb8" + struct.pack("<I", i) + b"\xc3").ljust(_FUNCTION_SIZE, INT3)
        for i in range(number)
    )
    symbols = tuple(Symbol(f"f{i}", base + i * _FUNCTION_SIZE, 6) for i in range(number))
    return Image(
        name=f"{number} functions", segments=(Segment(base, code, len(code)),), symbols=symbols
    )


def _undo(pool: UcPool, *, batched: bool) -> tuple[int, int, bool]:
    """Register and optimize 600 probes, and take them away again.

    :returns: the optimizer's passes and the calls of stop_machine that taking them away needed, and
        True if every byte is back and the table is empty.
    """
    image = many_functions(_MANY)
    bench = Workbench(image, pool=pool)
    kprobes = bench.kprobes
    probes = [Kprobe(symbol_name=f"f{i}", pre_handler=lambda _p, _r: 0) for i in range(_MANY)]
    kprobes.register_kprobes(probes)
    kprobes.wait_for_kprobe_optimizer()
    if any(bench.method(p) is not Method.OPTIMIZED for p in probes):
        raise EngineBug("not all of the 600 probes were optimized")
    passes, stops = kprobes.optimizer.passes, bench.plane.stats.stop_machine
    if batched:
        kprobes.unregister_kprobes(probes)
    else:
        for p in probes:
            entry = kprobes.get_kprobe(p.at)
            assert entry is not None
            with kprobes.locked("one at a time"):
                kprobes.optprobes.unoptimize_kprobe(entry, force=True)
            kprobes.unregister_kprobe(p)
    kprobes.wait_for_kprobe_optimizer()
    segment = image.segments[0]
    restored = (
        bench.machine.text.read(segment.addr, segment.size) == segment.data
        and not kprobes.kprobe_table
    )
    result = kprobes.optimizer.passes - passes, bench.plane.stats.stop_machine - stops, restored
    bench.close()
    return result


def _show_batches(pool: UcPool, style: Style) -> bool:
    _heading(style, f"5. {_MANY} optimized probes unregistered")
    passes, stops, restored = _undo(pool, batched=True)
    _, one_by_one, restored_too = _undo(pool, batched=False)
    rows = [
        (
            "  at once: text_poke_smp_batch of up to 256",
            str(passes),
            str(stops),
            "restored" if restored else "NOT restored",
        ),
        (
            "  one at a time: text_poke_smp each",
            "-",
            str(one_by_one),
            "restored" if restored_too else "NOT restored",
        ),
    ]
    print(table(("  HOW", "PASSES", "STOP_MACHINE", "TEXT"), rows, right=(1, 2)))
    return (passes, stops, one_by_one) == (3, 3, _MANY) and restored and restored_too
