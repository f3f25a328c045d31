"""Mean and percentiles of latencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Mean and percentiles of a set of durations; all 0 if the set is empty."""

    mean_s: float
    median_s: float
    p99_s: float


def distribution(durations_s: Sequence[float]) -> Distribution:
    """Mean and percentiles, the latter interpolated linearly between the two nearest durations as in NumPy and vLLM."""
    if not durations_s:
        return Distribution(mean_s=0.0, median_s=0.0, p99_s=0.0)
    values = np.asarray(durations_s, np.float64)
    median_s, p99_s = np.percentile(values, [50, 99])
    return Distribution(mean_s=float(values.mean()), median_s=float(median_s), p99_s=float(p99_s))
