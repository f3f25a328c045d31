"""Straight lines through measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class StraightLine:
    """The line start_s + row_s * rows."""

    start_s: float = 0.0
    row_s: float = 0.0

    def at(self, rows: float) -> float:
        """The value at a number of rows."""
        return self.start_s + self.row_s * rows


def fit_line(points: Sequence[tuple[int, float, float]], *, most: float) -> StraightLine:
    """Fit a line by least squares of relative errors with both coefficients at least 0; zero without points.

    Args:
        points: (rows, value to fit, the total time of which it is a part, > 0).
        most: the largest share of the total that the line may have at any point; it is lowered if necessary.
    """
    if not points:
        return StraightLine()
    rows, values, wholes = (np.array(column, np.float64) for column in zip(*points, strict=True))
    columns = np.stack([1 / wholes, rows / wholes], axis=1)
    wanted = values / wholes
    candidates = [np.linalg.lstsq(columns, wanted)[0]] if len(points) > 1 else []
    for axis in (0, 1):
        alone = np.zeros(2)
        alone[axis] = max(0.0, columns[:, axis] @ wanted / (columns[:, axis] @ columns[:, axis]))
        candidates.append(alone)
    allowed = [candidate for candidate in candidates if (candidate >= 0).all()]
    start_s, row_s = min(allowed, key=lambda line: float(((columns @ line - wanted) ** 2).sum()))
    factor = min(1.0, float((most * wholes / np.maximum(start_s + row_s * rows, _LEAST)).min()))
    return StraightLine(start_s=float(start_s) * factor, row_s=float(row_s) * factor)


def slope(pairs: Sequence[tuple[float, float]]) -> float:
    """The slope of the least-squares line through (x, y) pairs; 0 if all x are equal."""
    mean_x = sum(x for x, _ in pairs) / len(pairs)
    mean_y = sum(y for _, y in pairs) / len(pairs)
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread if spread else 0.0
