"""Where to cut a graph into pipeline stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.arrays import F64
from shoal.errors import ConfigError
from shoal.planner.speeds.speeds import LinkSpeed

SLACK = 0.02
"""Cuts whose slowest stage is this much slower than the best count as equal: measured times are no more exact, and
fewer bytes across a cut always help."""

BROKEN_FUSION = 0.05
"""The assumed cost of a cut inside a group of nodes that ONNX Runtime fuses, as a part of a stage's fair share of the
time. The true cost is a node or two; this one keeps most cuts between groups, where a split gives the same bits as the
whole graph."""
BROKEN_QUANTIZATION = 1.0
"""The assumed cost if the numbers in the group are quantized. Such a cut changes where they are rounded, by whole
quantization steps, so it is made only if there is no other."""
LINK = LinkSpeed(latency_s=100e-6, bytes_per_s=2e9)
"""The link between two workers of this machine: a frame over a socket pair and the wake-up of a sleeping reader; one
copy into shared memory and the first read of it. Source: docs/log.md, tensor links."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPlace:
    """A place where the graph can be cut, for any number of stages."""

    node: int
    """The node after the cut."""
    num_bytes: int
    """Bytes that cross the cut."""
    breaks_fusion: bool = False
    """Whether it lies inside a group of nodes that ONNX Runtime would fuse."""
    is_quantized: bool = False
    """Whether the numbers in that group are quantized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOption:
    """A place where the graph can be cut, with the cost of the cut."""

    node: int
    """The node after the cut."""
    num_bytes: int
    """Bytes that cross the cut."""
    penalty_s: float = 0.0
    """Seconds that the stages on both sides lose if the cut breaks a fusion."""


def cut_stages(
    node_s: Sequence[float], places: Sequence[CutPlace], num_stages: int, *, shares: Sequence[float] | None = None
) -> tuple[int, ...]:
    """`choose_boundaries` for workers of this machine, including the cost of broken fusions."""
    options = cut_options(places, sum(node_s) / num_stages)
    return choose_boundaries(
        node_s, options, num_stages, shares=shares, bytes_per_s=LINK.bytes_per_s, latency_s=LINK.latency_s
    )


def cut_options(places: Sequence[CutPlace], fair_s: float) -> list[CutOption]:
    """The places with the costs of their cuts. `fair_s`: a stage's fair share of the time."""
    return [
        CutOption(node=place.node, num_bytes=place.num_bytes, penalty_s=_broken_share(place) * fair_s)
        for place in places
    ]


def _broken_share(place: CutPlace) -> float:
    if not place.breaks_fusion:
        return 0.0
    return BROKEN_QUANTIZATION if place.is_quantized else BROKEN_FUSION


def choose_boundaries(
    node_s: Sequence[float],
    cuts: Sequence[CutOption],
    num_stages: int,
    *,
    shares: Sequence[float] | None = None,
    bytes_per_s: float,
    latency_s: float,
) -> tuple[int, ...]:
    """Choose the cuts between stages: for the fastest slowest stage, then for the fewest bytes, then for even stages.

    Exact: dynamic programming over the last cut, first for the time of the slowest stage, then for the sum of bytes
    (and of squared times, if those are equal) among the cuts that stay within SLACK of it.

    Args:
        node_s: seconds of each node.
        cuts: the places where the graph can be cut, nodes ascending.
        num_stages: the number of stages, >= 1.
        shares: the part of the work that each stage is meant to do, in any unit; None: equal parts.
        bytes_per_s: the bandwidth of the links between stages.
        latency_s: the latency of a link.

    Returns:
        The first node of each stage but the first, ascending.

    Raises:
        ConfigError: there are fewer places than needed.
    """
    if num_stages - 1 > len(cuts):
        most = "it cannot be cut" if not cuts else f"it can be cut into at most {len(cuts) + 1} (pp={len(cuts) + 1})"
        raise ConfigError(f"the graph cannot be cut into {num_stages} pipeline stages: {most}")
    places = np.array([0, *(cut.node for cut in cuts), len(node_s)])
    before_s = np.concatenate(([0.0], np.cumsum(np.asarray(node_s, np.float64))))[places]
    crossing = np.array([0.0, *(float(cut.num_bytes) for cut in cuts), 0.0])
    hand_over_s = np.array([0.0, *(latency_s + cut.num_bytes / bytes_per_s + cut.penalty_s for cut in cuts), 0.0])
    relative = _relative_shares(shares, num_stages)
    stage_s = [_stage_times(before_s, hand_over_s, share) for share in relative]
    slowest, _ = _best(stage_s, np.maximum)
    limit = slowest * (1 + SLACK)
    allowed = [np.where(times <= limit, times, np.inf) for times in stage_s]
    evenness = [(times / (limit or 1.0)) ** 2 / (2 * num_stages) for times in allowed]  # in total less than a byte
    _, chosen = _best([crossing[np.newaxis, :] + uneven for uneven in evenness], np.add)
    return tuple(int(places[index]) for index in chosen)


def _relative_shares(shares: Sequence[float] | None, num_stages: int) -> list[float]:
    """Shares with a mean of 1. The goal is that a stage's time divided by its share is equal for all stages."""
    given = [1.0] * num_stages if shares is None else list(shares)
    mean = sum(given) / len(given)
    return [share / mean for share in given]


def _stage_times(before_s: F64, hand_over_s: F64, share: float) -> F64:
    """[first, last]: seconds of a stage between two places, infinite if last is not after first."""
    compute_s = before_s[np.newaxis, :] - before_s[:, np.newaxis]
    times = (compute_s + hand_over_s[np.newaxis, :] + hand_over_s[:, np.newaxis]) / share
    return np.where(np.tri(len(before_s), dtype=np.bool_), np.inf, times)


def _best(stage_costs: Sequence[F64], combine: Any) -> tuple[float, list[int]]:
    """The least combined cost of a path from the first place to the last, and the places between."""
    costs = stage_costs[0][0]
    choices: list[npt.NDArray[np.intp]] = []
    for stage in stage_costs[1:]:
        options: F64 = combine(costs[:, np.newaxis], stage)
        choices.append(options.argmin(axis=0))
        costs = options.min(axis=0)
    way: list[int] = []
    place = len(costs) - 1
    for choice in reversed(choices):
        place = int(choice[place])
        way.append(place)
    return float(costs[-1]), way[::-1]
