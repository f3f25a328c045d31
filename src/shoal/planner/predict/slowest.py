"""The expected time of the slowest of several shards whose work is random.

If whole experts are divided among shards, the rows of a step determine which experts are needed. Every sum waits for
the shard with the most work, so with few rows whole experts are slower than columns, which are always divided evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erf, exp, pi, sqrt

Uncertain = tuple[float, float]
"""(mean, standard deviation) in seconds."""


def expected_slowest(shards: Sequence[Uncertain]) -> float:
    """The expected maximum of normally distributed times, pair by pair.

    Two shards divide the work, so their times have correlation -1. With more shards, each is assumed to be independent
    of the maximum of those before it.

    Source: Clark, "The greatest of a finite set of random variables", Operations Research 9(2), 1961.
    """
    correlation = -1.0 if len(shards) == 2 else 0.0
    largest = shards[0]
    for shard in shards[1:]:
        largest = _larger(largest, shard, correlation)
    return largest[0]


def _larger(one: Uncertain, other: Uncertain, correlation: float) -> Uncertain:
    (mean, deviation), (other_mean, other_deviation) = one, other
    variance = deviation**2 + other_deviation**2 - 2.0 * correlation * deviation * other_deviation
    if variance <= 0.0:
        return max(one, other)
    spread = sqrt(variance)
    alpha = (mean - other_mean) / spread
    part, density = 0.5 * (1.0 + erf(alpha / sqrt(2.0))), exp(-0.5 * alpha**2) / sqrt(2.0 * pi)
    expected = mean * part + other_mean * (1.0 - part) + spread * density
    second = (mean**2 + deviation**2) * part + (other_mean**2 + other_deviation**2) * (1.0 - part)
    second += (mean + other_mean) * spread * density
    return expected, sqrt(max(0.0, second - expected**2))
