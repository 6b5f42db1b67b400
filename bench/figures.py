"""The table of figures that ends ``make bench``: one line a figure, with its target."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from operator import eq, ge, le, lt
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Figures",)

_HOLDS: Final[dict[str, Callable[[float, float], bool]]] = {">=": ge, "<=": le, "<": lt, "==": eq}


@dataclass(frozen=True, slots=True)
class _Figure:
    """One figure: its benchmark, its name, the value, its unit, and the target."""

    part: str
    what: str
    measured: float
    unit: str
    target: tuple[str, float] | None

    @property
    def verdict(self) -> str:
        """Whether the target is met, as text; empty where none is given or nothing was measured."""
        if self.target is None or isnan(self.measured):
            return ""
        sign, limit = self.target
        return "met" if _HOLDS[sign](self.measured, limit) else "MISSED"


class Figures:
    """The figures of one run, in the order in which they came."""

    def __init__(self) -> None:
        self._figures: list[_Figure] = []

    def add(
        self,
        benchmark: Any,
        what: str,
        measured: float,
        unit: str = "",
        target: tuple[str, float] | None = None,
    ) -> None:
        """Add a figure here and to ``benchmark.extra_info``.

        :param what: the name of the figure.
        :param unit: the unit of ``measured``, as it is printed.
        :param target: a comparison such as ``("<", 50)``; None for a figure that only informs.
        """
        part = benchmark.fullname.partition("bench_")[2].partition(".py")[0]
        self._figures.append(_Figure(part, what, measured, unit, target))
        benchmark.extra_info[what] = measured
        if target is not None:
            benchmark.extra_info[f"{what}: target"] = f"{target[0]} {target[1]}"

    def lines(self) -> list[str]:
        """The lines of the table, with a heading; empty when there is no figure."""
        if not self._figures:
            return []
        rows = [("part", "figure", "measured", "target", "")]
        for figure in self._figures:
            target = (
                "" if figure.target is None else f"{figure.target[0]} {_number(figure.target[1])}"
            )
            rows.append(
                (
                    figure.part,
                    figure.what,
                    f"{_number(figure.measured)}{figure.unit and ' '}{figure.unit}",
                    target,
                    figure.verdict,
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return [
            f"{part:<{widths[0]}}  {what:<{widths[1]}}  {measured:>{widths[2]}} "
            f" {target:>{widths[3]}}  {verdict}".rstrip()
            for part, what, measured, target, verdict in rows
        ]


def _number(value: float) -> str:
    """``value`` as text: an exact count in full, a measurement with three significant digits."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
