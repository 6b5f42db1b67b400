"""The verdicts of a real Linux 6.1 (tests/data/oracle) as images, and what this project answers in
the same words.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_x86.probes.boost import is_boostable
from arch_x86.probes.code import CodeCache
from arch_x86.probes.eligibility import can_probe, is_ftrace_site
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from arch_x86.probes.prepare_emulation import emulation_of
from arch_x86.probes.relocate import copy_instructions
from arch_x86.probes.slot import build_slot
from engine.image import ExceptionEntry, Image, Range, Reserved, ReservedKind, Segment, Symbol
from engine.kprobe import KprobeFlag

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parent.parent / "data" / "oracle"
FILES = ("np-kernel", "np-synth", "np-opmap", "deb-kernel", "deb-synth")
QUESTIONS = ("rc", "ftrace", "boost", "emul", "opt", "osz", "slot", "copy")

_KINDS = {
    "jl": ReservedKind.JUMP_LABEL,
    "sc": ReservedKind.STATIC_CALL,
    "ftres": ReservedKind.FTRACE,
    "ftloc": ReservedKind.FTRACE_SITE,
    "bug": ReservedKind.BUG,
}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One answer that differs."""

    file: str
    function: str
    offset: int
    question: str
    kernel: Any
    ours: Any


@dataclass(frozen=True, slots=True)
class OracleFunction:
    """One line of a verdict file."""

    image: Image
    verdicts: tuple[Any, ...]
    template_size: int

    @property
    def addr(self) -> int:
        """Address of the function."""
        return self.image.symbols[0].addr


def load(name: str) -> list[OracleFunction]:
    """All functions of one verdict file."""
    with gzip.open(DATA / f"verdicts-{name}.jsonl.gz", "rt") as lines:
        header, *functions = (json.loads(line) for line in lines)
    return [_function(name, header, function) for function in functions]


def _function(file: str, header: dict[str, Any], function: dict[str, Any]) -> OracleFunction:
    addr, size = int(function["addr"], 16), function["size"]
    text = bytes.fromhex(function["text"])
    reserved = [
        Reserved(addr + offset, 1, kind)
        for key, kind in _KINDS.items()
        for offset in function.get(key, ())
    ]
    blacklist = [Range(addr + offset, 1) for offset in function.get("blk", ())]
    # a flag, unlike the others
    blacklist += [Range(addr, size)] if function.get("entrytext") else []
    start, end = (int(bound, 16) for bound in header["ithunk"])
    image = Image(
        name=f"{file}:{function['name']}",
        segments=(Segment(addr, text, len(text)),),
        symbols=(Symbol(function["name"], addr, size),),
        exception_table=tuple(ExceptionEntry(addr + offset) for offset in function.get("ex", ())),
        reserved=tuple(reserved),
        blacklist=tuple(blacklist),
        indirect_thunks=Range(start, end - start) if end else None,
        preemption=bool(header["preemption"]),
    )
    return OracleFunction(image, tuple(function["v"]), header["tmpl_len"])


def compare(file: str, function: OracleFunction) -> Iterator[tuple[str, Mismatch | None]]:
    """Each question that the kernel answered about each byte of ``function``: the question, and a
    mismatch if there is one.
    """
    cache = CodeCache(function.image)
    name = function.image.symbols[0].name
    for verdict in function.verdicts:
        offset = verdict[0] if isinstance(verdict, list) else verdict["o"]
        kernel = _kernel_answers(verdict, function.template_size)
        ours = _our_answers(cache, function.addr + offset, verdict, function.template_size)
        for question in QUESTIONS:
            if question in kernel or question in ours:
                theirs, own = kernel.get(question), ours.get(question)
                yield (
                    question,
                    None if theirs == own else Mismatch(file, name, offset, question, theirs, own),
                )


def _kernel_answers(verdict: Any, template_size: int) -> dict[str, Any]:
    if isinstance(verdict, list):
        return {"rc": verdict[1]}
    answers: dict[str, Any] = {"rc": verdict["rc"]}
    answers["ftrace"] = bool(verdict["fl"] & KprobeFlag.FTRACE)
    if "slotb" not in verdict:
        return answers
    answers["boost"] = bool(verdict["b"])
    answers["emul"] = verdict.get("em", "").removeprefix("kprobe_emulate_") or None
    answers["slot"] = verdict["slotb"]
    answers["opt"] = bool(verdict.get("opt"))
    if "osz" in verdict:
        answers["osz"] = verdict["osz"]
        answers["copy"] = verdict["detb"][2 * template_size : 2 * (template_size + verdict["osz"])]
    return answers


def _our_answers(cache: CodeCache, addr: int, verdict: Any, template_size: int) -> dict[str, Any]:
    """Ours, with slot and detour buffer at the addresses where the kernel had them."""
    errno = can_probe(cache, addr).errno
    answers: dict[str, Any] = {"rc": -errno}
    if errno:
        return answers
    answers["ftrace"] = is_ftrace_site(cache, addr)
    if answers["ftrace"]:
        return answers
    insn = cache.insn_at(addr)
    assert insn is not None
    answers["boost"] = is_boostable(cache, addr)
    answers["emul"] = emulation_of(insn)
    if isinstance(verdict, dict) and "slot" in verdict:
        answers["slot"] = build_slot(insn, int(verdict["slot"], 16), answers["boost"]).hex()
    plan = can_optimize(cache, addr)
    answers["opt"] = isinstance(plan, OptimizePlan)
    if isinstance(plan, OptimizePlan):
        answers["osz"] = plan.size
        if isinstance(verdict, dict) and "det" in verdict:
            answers["copy"] = copy_instructions(
                plan.insns, int(verdict["det"], 16) + template_size
            ).hex()
    return answers
