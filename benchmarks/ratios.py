"""Contenders measured in turn, and their ratios against targets as Markdown tables."""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Samples = Mapping[str, Sequence[float]]
"""What each contender reached, a number a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A ratio to reach: one contender's number over another's."""

    what: str
    contender: str
    reference: str
    at_least: float | None
    """None: nothing is asked for, and the ratio is only told"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A number that must not be larger."""

    what: str
    contender: str
    at_most: float


def measure_rounds(contenders: Mapping[str, Callable[[], float]], rounds: int, unit: str) -> dict[str, list[float]]:
    """Every contender once a round, in turn, so that a ratio compares runs of the same minutes."""
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(1, rounds + 1):
        for name, measure in contenders.items():
            samples[name].append(measure())
            print(f"round {number} of {rounds}: {name}: {samples[name][-1]:.1f} {unit}", file=sys.stderr, flush=True)
    return dict(samples)


def ratio_table(samples: Samples, targets: Sequence[Target]) -> list[str]:
    """Target and measured side by side; the ratio is the median of the rounds' ratios. Others are left out."""
    lines = ["| ratio | target | measured (median) | lowest to highest | reached |", "|---|---|---|---|---|"]
    for target in targets:
        if target.contender not in samples or target.reference not in samples:
            continue
        pairs = zip(samples[target.contender], samples[target.reference], strict=True)
        ratios = sorted(contender / reference for contender, reference in pairs)
        median = statistics.median(ratios)
        asked, reached = "", ""
        if target.at_least is not None:
            asked, reached = f"{target.at_least:g}", "yes" if median >= target.at_least else "no"
        lines.append(f"| {target.what} | {asked} | {median:.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} | {reached} |")
    return lines


def limit_table(samples: Samples, limits: Sequence[Limit]) -> list[str]:
    """Limits and medians side by side. Contenders that were not measured are left out."""
    lines = ["| what | at most | measured (median) | lowest to highest | kept |", "|---|---|---|---|---|"]
    for limit in limits:
        if values := sorted(samples.get(limit.contender, ())):
            median = statistics.median(values)
            kept = "yes" if median <= limit.at_most else "no"
            lines.append(
                f"| {limit.what} | {limit.at_most:g} | {median:.2f} | {values[0]:.2f} to {values[-1]:.2f} | {kept} |"
            )
    return lines


def sample_table(samples: Samples, unit: str, digits: int = 0) -> list[str]:
    """Every round's number."""
    lines = [f"| contender | {unit} (median) | rounds |", "|---|---|---|"]
    for name, values in samples.items():
        rounds = ", ".join(f"{value:.{digits}f}" for value in values)
        lines.append(f"| {name} | {statistics.median(values):.{digits + 1}f} | {rounds} |")
    return lines
