"""``python -m tests.probes.conformance``: how far our answers agree with a real Linux 6.1, one row
a verdict file.
"""

from __future__ import annotations

import sys
from collections import Counter

from tests.probes.oracle_data import FILES, QUESTIONS, Mismatch, compare, load


def measure(file: str) -> tuple[Counter[str], list[Mismatch]]:
    """Answers compared by question, and those that differ."""
    asked: Counter[str] = Counter()
    mismatches: list[Mismatch] = []
    for function in load(file):
        for question, mismatch in compare(file, function):
            asked[question] += 1
            if mismatch is not None:
                mismatches.append(mismatch)
    return asked, mismatches


def main() -> int:
    """Print the table, then every mismatch. Status 1 when there is one."""
    print(f"{'file':<12}" + "".join(f"{question:>14}" for question in QUESTIONS))
    differing: list[Mismatch] = []
    for file in FILES:
        asked, mismatches = measure(file)
        wrong = Counter(mismatch.question for mismatch in mismatches)
        cells = (f"{asked[question] - wrong[question]}/{asked[question]}" for question in QUESTIONS)
        print(f"{file:<12}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
        differing += mismatches
    for mismatch in differing:
        print(
            f"{mismatch.file} {mismatch.function}+{mismatch.offset} {mismatch.question}: 6.1"
            f" {mismatch.kernel}, here {mismatch.ours}"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
