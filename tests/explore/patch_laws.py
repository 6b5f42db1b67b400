"""The tables of patch protocols at each offset of a line, in each fetch model: ``make laws``."""

from __future__ import annotations

import sys

from tests.explore.patched_functions import LINE, MODELS, crosses, patched, verdict

__all__ = ("main",)


def _expected(protocol: str, without: str | None, offset: int, fetch: str) -> str:
    """What docs/protocols.md says of a site at ``offset``."""
    if protocol in ("four_and_four", "one_and_four"):
        return "torn"
    if without == "sync-3":
        return "fault"
    pieces = protocol == "one_store" or without is not None
    return "torn" if pieces and crosses(offset, fetch) else "safe"


def main() -> int:
    """Try every protocol of the tables, and print what differs from them.

    :returns: the exit status: 1 where something differs.
    """
    cases = [
        *((name, None) for name in ("text_poke_bp", "hlt_first", "one_store")),
        *((name, None) for name in ("four_and_four", "one_and_four")),
        *(("text_poke_bp", step) for step in ("sync-1", "sync-2", "sync-3")),
    ]
    wrong = 0
    for protocol, step in cases:
        for offset in range(LINE):
            for fetch in MODELS:
                without = [] if step is None else [step]
                found = verdict(patched(offset, protocol, fetch, without=without))
                right = _expected(protocol, step, offset, fetch)
                if found != right:
                    wrong += 1
                    print(f"{protocol}, without {step}, offset {offset}, {fetch}: {found}, {right}")
        print(
            f"{protocol}{f' without {step}' if step else ''}: {LINE} offsets, {len(MODELS)} models"
        )
    print(f"{wrong} differ from the tables")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
