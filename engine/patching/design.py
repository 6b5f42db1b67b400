"""Designs of patch protocols, which ``make tribunal`` compares in each fetch model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.patching.exhibit import PatchCase
from engine.search.explorable import ViolationKind

__all__ = ("Column", "Design")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the tribunal's table: a fetch model, and where the site lies.

    :ivar name: the column's head.
    :ivar fetch: the fetch model.
    :ivar at: the offset of the site in its line of 64 bytes.
    """

    name: str
    fetch: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A way of replacing code, and in which columns it is refuted.

    :ivar name: one word.
    :ivar what: what it does, in a few words.
    :ivar used: who does it so.
    :ivar site: makes the case for a site that has an offset in its line, with coherent fetches.
    :ivar refuted: the names of the columns in which a search finds a violation.
    :ivar told: two sentences on what is wrong with it; None: it is refuted nowhere.
    :ivar mended: makes the case of what takes its place.
    :ivar kind: the kind of violation in the first column in which it is refuted.
    """

    name: str
    what: str
    used: str
    site: Callable[[int], PatchCase]
    refuted: frozenset[str] = frozenset()
    told: tuple[str, str] | None = None
    mended: Callable[[int], PatchCase] | None = None
    kind: ViolationKind = ViolationKind.TORN

    def case(self, column: Column) -> PatchCase:
        """Return the experiment of ``column``."""
        return self.site(column.at).in_model(column.fetch)
