"""All exhibits of ``optprobe museum``: faults of the kernel's history, and refuted designs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from arch_x86.explore.exhibits.designs import COLUMNS, DESIGNS
from arch_x86.explore.exhibits.poke_faults import POKE_FAULTS
from arch_x86.explore.exhibits.probe_faults import (
    BRANCH_FAULTS,
    CALL_FAULTS,
    PROBE_FAULTS,
    TWO_USERS,
)
from engine.patching.design import Design
from engine.patching.exhibit import Exhibit

__all__ = ("EXHIBITS",)

_YEAR: Final = 2026
"""The designs were compared in this year."""


def _of_designs(designs: Iterable[Design]) -> Iterable[Exhibit]:
    """Yield an exhibit for each refuted design, in the first column in which it is refuted."""
    for one in designs:
        if one.told is None or one.mended is None:
            continue
        column = next(each for each in COLUMNS if each.name in one.refuted)
        yield Exhibit(
            name=one.name,
            year=_YEAR,
            title=one.what,
            told=one.told,
            source=f"used by {one.used}; docs/tribunal.md",
            faulty=one.case(column),
            mended=one.mended(column.at).in_model(column.fetch),
            kind=one.kind,
        )


EXHIBITS: Final = (
    *sorted((*POKE_FAULTS, *PROBE_FAULTS, *BRANCH_FAULTS, *CALL_FAULTS), key=lambda one: one.year),
    *_of_designs(DESIGNS),
    *TWO_USERS,
)
"""The exhibits: those of the kernel's history by their years, and then the designs."""
