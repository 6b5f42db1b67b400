"""The tables of patch protocols at each offset of a line, in each fetch model: ``make laws``."""

from __future__ import annotations

import sys

from tests.explore.patched_functions import (
    LINE,
    MODELS,
    SIZE,
    UPROBE_SIZE,
    crosses,
    patched,
    uprobed,
    verdict,
)

__all__ = ("CASES", "UPROBES", "expected", "found", "main")

UPROBES = ("uprobe_nop10_first", "uprobe_nop10")
CASES = (
    *((name, None) for name in ("text_poke_bp", "hlt_first", "one_store")),
    *((name, None) for name in ("four_and_four", "one_and_four")),
    *(("text_poke_bp", step) for step in ("sync-1", "sync-2", "sync-3")),
    *((name, None) for name in UPROBES),
    *(("uprobe_nop10", step) for step in ("arm", "o1", "o2", "u1", "u2", "u3", "handler")),
)
"""The protocols, each with the step that is left out."""
_PIECES = {
    ("one_store", None): SIZE,
    ("text_poke_bp", "sync-1"): SIZE,
    ("text_poke_bp", "sync-2"): SIZE,
    # On the way in all ten bytes change, and on the way out only those of the lea.
    ("uprobe_nop10", "arm"): UPROBE_SIZE,
    ("uprobe_nop10", "o1"): UPROBE_SIZE,
    ("uprobe_nop10", "u1"): SIZE,
    ("uprobe_nop10", "u2"): SIZE,
}
"""What is torn where so many bytes are fetched in several pieces."""
_FAULTS = frozenset(
    {
        ("text_poke_bp", "sync-3"),
        ("uprobe_nop10", "o2"),
        ("uprobe_nop10", "u3"),
        ("uprobe_nop10", "handler"),
    }
)
"""A CPU in the trap finds no handler any more, wherever the site is."""


def expected(protocol: str, without: str | None, offset: int, fetch: str) -> str:
    """What a site at ``offset`` comes to in the model ``fetch``, by docs/protocols.md."""
    if protocol in ("four_and_four", "one_and_four", "uprobe_nop10_first"):
        return "torn"
    if (protocol, without) in _FAULTS:
        return "fault"
    size = _PIECES.get((protocol, without))
    return "torn" if size is not None and crosses(offset, fetch, size) else "safe"


def found(protocol: str, without: str | None, offset: int, fetch: str) -> str:
    """What a search finds there."""
    search = uprobed if protocol in UPROBES else patched
    return verdict(search(offset, protocol, fetch, without=[] if without is None else [without]))


def main() -> int:
    """Try every protocol of the tables, and print what differs from them.

    :returns: the exit status: 1 where something differs.
    """
    names = sys.argv[1:]
    wrong = 0
    for protocol, step in CASES:
        if names and protocol not in names:
            continue
        for offset in range(LINE):
            for fetch in MODELS:
                is_so = found(protocol, step, offset, fetch)
                right = expected(protocol, step, offset, fetch)
                if is_so != right:
                    wrong += 1
                    print(f"{protocol}, without {step}, offset {offset}, {fetch}: {is_so}, {right}")
        left_out = f" without {step}" if step else ""
        print(f"{protocol}{left_out}: {LINE} offsets, {len(MODELS)} models", flush=True)
    print(f"{wrong} differ from the tables")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
