"""What the skipped parts of a simulated time would have shown, as far as it can be told from the simulated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, variance

CONFIDENCE = 0.95
"""Of all intervals."""
NORMAL_QUANTILE = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a value lies, 95 times of 100."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSums:
    """A sum over each batch of one steady state, and how many batches like these were skipped."""

    sums: Sequence[float]
    """two at least"""
    skipped: float
    """batches, >= 0"""

    @property
    def expected(self) -> float:
        """Sum over the skipped batches."""
        return self.skipped * fmean(self.sums)

    @property
    def variance(self) -> float:
        """Of the difference between what is expected and what they would have had: both are random."""
        return variance(self.sums) * (self.skipped**2 / len(self.sums) + self.skipped)


def margin(stretches: Sequence[BatchSums]) -> float:
    """By how much the sum over everything that was skipped may differ from what is expected, 95 times of 100.

    Source: degrees of freedom by F. E. Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    variances = [one.variance for one in stretches]
    if not sum(variances):
        return 0.0
    shares = sum(own**2 / (len(one.sums) - 1) for own, one in zip(variances, stretches, strict=True))
    return t_quantile(sum(variances) ** 2 / shares) * sqrt(sum(variances))


def t_quantile(freedom: float) -> float:
    """Student's t that is exceeded in absolute value 5 times of 100; within 0.5 % from 4 degrees of freedom on.

    Source: Abramowitz and Stegun, 26.7.5.
    """
    z = NORMAL_QUANTILE
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
