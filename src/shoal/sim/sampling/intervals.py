"""Confidence intervals for the skipped parts of a simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, variance

CONFIDENCE = 0.95
"""The confidence level of all intervals."""
NORMAL_QUANTILE = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval at level CONFIDENCE."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSums:
    """Sums over the batches of one steady state, and the number of such batches that were skipped."""

    sums: Sequence[float]
    """The sum over each simulated batch, at least two."""
    skipped: float
    """The number of skipped batches, >= 0."""

    @property
    def expected(self) -> float:
        """The expected sum over the skipped batches."""
        return self.skipped * fmean(self.sums)

    @property
    def variance(self) -> float:
        """The variance of the difference between the expected and the true sum, both of which are random."""
        return variance(self.sums) * (self.skipped**2 / len(self.sums) + self.skipped)


def margin(stretches: Sequence[BatchSums]) -> float:
    """The margin of error, at level CONFIDENCE, of the expected sum over all skipped batches.

    Source: degrees of freedom by F. E. Satterthwaite, Biometrics Bulletin 2 (1946).
    """
    variances = [one.variance for one in stretches]
    if not sum(variances):
        return 0.0
    shares = sum(own**2 / (len(one.sums) - 1) for own, one in zip(variances, stretches, strict=True))
    return t_quantile(sum(variances) ** 2 / shares) * sqrt(sum(variances))


def t_quantile(freedom: float) -> float:
    """The two-sided quantile of Student's t at level CONFIDENCE; within 0.5 % from 4 degrees of freedom on.

    Source: Abramowitz and Stegun, 26.7.5.
    """
    z = NORMAL_QUANTILE
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
