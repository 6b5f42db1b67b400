"""Which lines run: a fault in lines that a case never runs can't show in it, and need not be tried
there.

That loses nothing: up to the first time that a faulty line runs, everything goes as it goes without
the fault.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, Self

from tests.faults.fault import Fault

__all__ = ("ROOT", "LineLog", "changed_lines", "may_find")

_COMPOUND: Final = (ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
ROOT: Final = Path(__file__).resolve().parents[2]


class LineLog:
    """A context in which it is noted which of the ``wanted`` lines run, by file from the project's
    root. Each is looked for once only.
    """

    def __init__(self, wanted: Mapping[str, Iterable[int]]) -> None:
        self._wanted = {str(ROOT / name): set(lines) for name, lines in wanted.items()}
        self._left: dict[CodeType, set[int]] = {}
        self._seen: dict[str, set[int]] = {}

    def __enter__(self) -> Self:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        left = self._left.get(code)
        if left is None:
            wanted = self._wanted.get(code.co_filename)
            left = self._left[code] = (
                {line for _, _, line in code.co_lines() if line in wanted} if wanted else set()
            )
        return self._line if left else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        code, line = frame.f_code, frame.f_lineno
        left = self._left[code]
        if event == "line" and line in left:
            left.discard(line)
            self._seen.setdefault(code.co_filename, set()).add(line)
        return self._line

    def lines(self) -> dict[str, list[int]]:
        """Those that have run."""
        return {
            str(Path(name).relative_to(ROOT)): sorted(lines) for name, lines in self._seen.items()
        }


def changed_lines(fault: Fault, source: str) -> range | None:
    """The lines of the statements of ``source`` that ``fault`` changes; None: of what runs when the
    module is imported.
    """
    start = source.index(fault.old)
    same = next(
        (n for n, (a, b) in enumerate(zip(fault.old, fault.new, strict=False)) if a != b),
        min(len(fault.old), len(fault.new)),
    )
    first = source.count("\n", 0, start + same) + 1
    last = source.count("\n", 0, start + len(fault.old.rstrip())) + 1
    low, high = first, last
    inside = False
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or node.end_lineno is None:
            continue
        if isinstance(node, ast.FunctionDef):
            inside = inside or node.body[0].lineno <= first <= node.end_lineno
        elif not isinstance(node, _COMPOUND) and node.lineno <= last and first <= node.end_lineno:
            low, high = min(low, node.lineno), max(high, node.end_lineno)
    # What is put in between two statements runs when either does; what is taken away is missed
    # where it ran.
    return range(low - 1, high + 2) if inside else None


def may_find(
    fault: Fault, source: str, known: Mapping[str, Mapping[str, Sequence[int]]]
) -> list[str]:
    """The cases of ``known`` (lines run, by file, by case) in which ``fault`` can show, in their
    order.
    """
    lines = changed_lines(fault, source)
    if lines is None:
        return list(known)
    return [
        case for case, run in known.items() if not set(lines).isdisjoint(run.get(fault.file, ()))
    ]
