"""Prints docs/processor.md: ``python -m tests.hardware.document > docs/processor.md``."""

from __future__ import annotations

from collections import Counter

from tests.hardware.compare import LISTED, Laboratory, Outcome
from tests.hardware.records import load

__all__ = ("document", "outcomes")

_HEAD = """# The machine and the processor

What an emulated instruction leaves behind is held against {count:,} records of what a real processor ({forms} forms) left behind:
general registers, flags that the manual defines, memory, vector registers and the stack pointer are the processor's, or the instruction
is refused ([`unsupported-opcode`](faults.md)). `python -m tests.hardware` prints the count of each kind, and
`python -m tests.hardware.record FILE` records more on the computer at hand. This page is written by `python -m tests.hardware.document`.

| records | are |
| --- | --- |
"""
_LISTED = """
## What differs

Left as the emulator has it, form by form; the number of records follows each. None of it is what compiled code computes with, or it
differs between processors, too.
"""
_REFUSED = """
## What is refused

By form, as the records name it; some forms only with the operands or prefixes that the emulator runs wrongly. AVX is not in the records.

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
            text += f"\n**{words[0].upper()}{words[1:]}**: {_forms(differ[kind])}.\n"
    return text + _REFUSED + _forms(refused) + ".\n"


def _forms(counts: Counter[str]) -> str:
    return ", ".join(f"{code} {number}" for code, number in sorted(counts.items()))


if __name__ == "__main__":
    print(document(outcomes()), end="")
