"""Run all records, and print how many are as the processor has them, by kind of difference and by
form: ``python -m tests.hardware [FILE]``.

Each chunk of records runs in a process of its own, so that one that ends its process is found and
named.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.hardware.compare import Laboratory, Outcome
from tests.hardware.records import FILE, Record, load

CHUNK = 300


def run_here(path: Path, first: int, last: int) -> list[Outcome]:
    """The outcomes of some records, by this process."""
    states, records = load(path)
    laboratory = Laboratory(states)
    outcomes = [laboratory.run(record) for record in records[first:last]]
    laboratory.close()
    return outcomes


def run_apart(path: Path, first: int, last: int) -> list[Outcome | Record]:
    """The outcomes of some records by a process that may die; the record alone of one that ended
    it.
    """
    command = [sys.executable, "-m", "tests.hardware", str(path), str(first), str(last)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if done.returncode == 0:
        return pickle.loads(done.stdout)
    if last - first == 1:
        return [load(path)[1][first]]
    half = (first + last) // 2
    return run_apart(path, first, half) + run_apart(path, half, last)


def main() -> None:
    """The table; or, of ``FILE first last``, the outcomes pickled to standard output."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    if len(sys.argv) == 4:
        sys.stdout.buffer.write(pickle.dumps(run_here(path, *map(int, sys.argv[2:]))))
        return
    count = len(load(path)[1])
    results = [
        one
        for first in range(0, count, CHUNK)
        for one in run_apart(path, first, min(first + CHUNK, count))
    ]
    words: Counter[str] = Counter()
    forms: dict[str, Counter[str]] = {}
    for one in results:
        if isinstance(one, Record):
            word, code = "ends the process", one.code
        else:
            code = one.record.code
            word = "refused" if one.refused else ", ".join(sorted(one.kinds)) or "as the processor"
            if "fault" in one.kinds and not one.refused:
                word += f" {one.fault.kind if one.fault else None} for signal {one.record.signal}"
        words[word] += 1
        forms.setdefault(word, Counter())[code] += 1
    for word, number in words.most_common():
        print(f"{number:5} {word}")
        if word != "as the processor":
            print("      " + " ".join(f"{code}:{n}" for code, n in sorted(forms[word].items())))


if __name__ == "__main__":
    main()
