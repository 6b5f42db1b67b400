"""Prints docs/processor.md: ``python -m tests.hardware.document > docs/processor.md``."""

from __future__ import annotations

from collections import Counter
from textwrap import fill

from tests.hardware.compare import LISTED, Laboratory, Outcome
from tests.hardware.records import load

__all__ = ("document", "outcomes")

_HEAD = """# The machine and the processor

What an emulated instruction leaves behind is held against {count:,} records of what a real
processor ({forms} forms) left behind: general registers, flags that the manual defines, memory,
vector registers and the stack pointer are the processor's, or the instruction is refused
([`unsupported-opcode`](faults.md)). `python -m tests.hardware` prints the count of each kind, and
`python -m tests.hardware.record FILE` records more on the computer at hand. This page is written by
`python -m tests.hardware.document`.

Such files of 12 other seeds, 180,000 records of the same model of processor, had 16 that were
silently wrong, of 7 kinds (FPREM, FSCALE, BEXTR, LOCK NEG, CMPXCHG of 32 bits of memory, two REX
prefixes, BSF behind F2 and F3). They were mended or refused, and are a test. The same 180,000 then:
136,680 as the processor has them, 33,279 different in what is listed below, 10,041 refused, none
silently wrong, and none that ended the process. 80,000 of four more seeds, recorded after that, had
one (POPCNT of 64 bits behind an operand-size prefix, which is refused, too), and a signalling NaN
that FLD left as it was; now 60,647, 14,914, 4,439, none and none.

| records | are |
| --- | --- |
"""
_LISTED = """
## What differs

Left as the emulator has it, form by form; the number of records follows each. None of it is what
compiled code computes with, or it differs between processors, too. What other seeds have shown
besides: FLD of 32 or 64 bits leaves a signalling NaN signalling; BSF and BSR of 0 leave their
destination as processors do not always; a misaligned operand does not fault without
`--check-alignment`.
"""
_REFUSED = """
## What is refused

By form, as the records name it; some forms only with the operands or prefixes that the emulator
runs wrongly. AVX is not in the records.

"""


_MORE = """
## What CPUID offers

Features whose instructions run: the x87, CMOV, CMPXCHG8B and CMPXCHG16B, CLFLUSH, MMX, FXSAVE and
FXRSTOR, SSE to SSE4.2, PCLMULQDQ, AES, MOVBE, POPCNT, LZCNT, LAHF, BMI1, BMI2, fast REP MOVSB. A
test tries an instruction of each, and fails when CPUID names one more. What is refused as a whole
(RDTSC, RDTSCP, RDRAND, SYSENTER, WRMSR), what is switched off (XSAVE, RDFSBASE) and what only a
system could use (APIC, MTRR, ...) are not offered, though Unicorn would; of SSSE3, the forms on MMX
registers are refused all the same.

## Alignment

With `--check-alignment` a 16-byte memory operand of SSE that is not at a multiple of 16 faults as
on the processor (SDM vol. 2, 2.4), in copies of the instruction, too; without, it is loaded and
stored as if it were allowed. Which instructions ask for it is the disassembler's word, held against
another decoder and against the records; what is between a mandatory prefix and the opcode (a
segment prefix, say) hides one from the look. MOVUPS and its like, LDDQU, PCMPxSTRx, and the SHA
extensions, which the emulator does not know, do not ask. CMPXCHG16B, FXSAVE and FXRSTOR are always
checked.
"""


def outcomes() -> list[Outcome]:
    """The machine's answer to every record."""
    states, records = load()
    laboratory = Laboratory(states)
    try:
        return [laboratory.run(record) for record in records]
    finally:
        laboratory.close()


def document(results: list[Outcome]) -> str:
    """The page, from the outcomes of all records."""
    rows: Counter[str] = Counter()
    differ: dict[str, Counter[str]] = {kind: Counter() for kind in LISTED}
    refused: Counter[str] = Counter()
    for one in results:
        if one.refused:
            rows["refused"] += 1
            refused[one.record.code] += 1
        elif one.wrong:
            rows["wrong"] += 1
        elif one.kinds:
            rows["different in what is listed below"] += 1
            for kind in one.kinds:
                differ[kind][one.record.code] += 1
        else:
            rows["as the processor has them"] += 1
    text = _HEAD.format(count=len(results), forms=len({one.record.code for one in results}))
    text += "".join(f"| {number:,} | {word} |\n" for word, number in rows.most_common()) + _LISTED
    for kind, words in LISTED.items():
        if differ[kind]:
            text += "\n" + _wrapped(f"**{words[0].upper()}{words[1:]}**: {_forms(differ[kind])}.")
    return text + _REFUSED + _wrapped(f"{_forms(refused)}.") + _MORE


def _wrapped(paragraph: str) -> str:
    return fill(paragraph, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def _forms(counts: Counter[str]) -> str:
    return ", ".join(f"{code} {number}" for code, number in sorted(counts.items()))


if __name__ == "__main__":
    print(document(outcomes()), end="")
