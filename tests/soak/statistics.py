"""Series of readings come in, slopes with their errors go out. Arithmetic alone; must never know what is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# neighbours that agree say less than they seem to; beyond this, more of them would say nothing
MOST_CORRELATED = 0.9


@dataclass(frozen=True)
class Slope:
    """Least squares of a series, or of several that share one slope and have a level each.

    error: of one standard deviation, widened where neighbouring residuals agree (an AR(1) of their correlation).
    """

    per_unit: float
    error: float
    points: int

    def at_least(self, errors: float) -> float:
        return self.per_unit - errors * self.error

    def at_most(self, errors: float) -> float:
        return self.per_unit + errors * self.error


def slope(series: Sequence[Sequence[tuple[float, float]]]) -> Slope | None:
    """Of (x, y) in order; None if all of them together have too few points for an error, or one x alone."""
    used = [points for points in series if len(points) >= 2]
    count = sum(len(points) for points in used)
    if count - len(used) - 1 < 3:
        return None
    centred = [_centred(points) for points in used]
    spread = sum(x * x for points in centred for x, _ in points)
    if not spread:
        return None
    found = sum(x * y for points in centred for x, y in points) / spread
    residuals = [[y - found * x for x, y in points] for points in centred]
    square = sum(rest * rest for points in residuals for rest in points)
    error = math.sqrt(square / (count - len(used) - 1) / spread)
    between = sum(a * b for points in residuals for a, b in zip(points, points[1:], strict=False))
    alike = min(MOST_CORRELATED, max(0.0, between / square)) if square else 0.0
    return Slope(found, error * math.sqrt((1 + alike) / (1 - alike)), count)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def _centred(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    mean_x, mean_y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
    return [(x - mean_x, y - mean_y) for x, y in points]
