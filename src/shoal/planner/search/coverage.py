"""How many blocks a pipeline can cover if no stage may take longer than a limit.

More blocks never take less time, so of two partial pipelines with the same workers the one that covers more blocks can
finish wherever the other can: only the farthest one matters, and blocks need not be part of the state. Hops are ignored
and stages may be empty here, so what cannot be covered here cannot be covered by any pipeline, while what can be
covered must still be checked.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import cast

import numpy as np

from shoal.arrays import F64, I64, U16, Bools
from shoal.planner.search.fleet_states import FleetStates
from shoal.planner.search.pipeline import PlacedStage

_COUNT = np.uint16
"""The type of sums of truth values: adding small integers is several times faster than counting."""
_NUM_PROBES = 16
"""Limits tried at once. Up to about so many, a pass over the states costs more in calls than in arithmetic."""
_MOST_RANKED = 1024
"""The most times of which quantiles are taken; of more times a sample suffices."""


def reach(work_s: F64, limits: F64) -> I64:
    """[group, first, limit]: the farthest last such that first:last takes at most the limit; first if there is none."""
    places: I64 = np.arange(int(work_s.shape[1]))
    return np.stack([places + (work_s <= limit).sum(axis=2, dtype=_COUNT) for limit in limits], axis=2)


def _reach_between(work_s: F64, limits: F64, least: I64, most: I64) -> I64:
    """`reach` for limits whose result is known to lie in `least` to `most`, both [group, first]."""
    width = int((most - least).max())
    lasts = least[:, :, np.newaxis] + np.arange(1, width + 1)
    beyond = lasts > most[:, :, np.newaxis]
    near_s = np.take_along_axis(work_s, np.where(beyond, 0, lasts), axis=2)
    near_s[beyond] = np.inf
    return np.stack([least + (near_s <= limit).sum(axis=2, dtype=_COUNT) for limit in limits], axis=2)


def reach_grid(work_s: F64, limits: F64) -> U16:
    """`reach` for many ascending limits: each last is the result from the first limit that reaches it up to the one
    that reaches the next."""
    num_groups, num_places, _ = work_s.shape
    is_later = ~np.tri(num_places, dtype=np.bool_)
    within: I64 = np.zeros(work_s.shape, np.int64)
    within[:, is_later] = np.searchsorted(limits, work_s[:, is_later])
    num_limits_more = np.diff(within, axis=2, append=len(limits))
    lasts: U16 = np.broadcast_to(np.arange(int(num_places), dtype=_COUNT), within.shape)
    return np.repeat(lasts.reshape(-1), num_limits_more.reshape(-1)).reshape(num_groups, num_places, len(limits))


def reach_back(work_s: F64, limit: float) -> I64:
    """[group, last]: the least first such that first:last takes at most the limit; last if there is none."""
    return np.arange(int(work_s.shape[1]), dtype=np.int64) - (work_s <= limit).sum(axis=1, dtype=_COUNT)


def covered(states: FleetStates, farthest: I64 | U16, num_stages: int) -> list[I64]:
    """Blocks covered with 0, 1, ... num_stages stages: [state, limit] for each; -1 if a state needs another number.

    Args:
        states: the states of the fleet.
        farthest: [group, first, limit] from `reach`.
        num_stages: the most stages.
    """
    _, num_places, num_limits = farthest.shape
    flat = farthest.reshape(-1)
    offsets: I64 = np.arange(int(num_limits), dtype=np.int64)
    place_at = np.broadcast_to(offsets, (states.num_states, num_limits)).copy()
    """Index in `flat`, within the first group, of the place that each state has reached."""
    current = np.full((states.num_states, num_limits), -1)
    current[0] = 0
    all_covered = [current]
    for stage in range(num_stages):
        layer = states.layer(stage)
        current = np.full((states.num_states, num_limits), -1)
        if len(layer.starts):
            at = place_at[layer.before]
            at += (layer.group * (num_places * num_limits))[:, np.newaxis]
            ahead = cast(I64 | U16, flat.take(at))
            reached = np.maximum.reduceat(ahead, layer.starts, axis=0).astype(np.int64)
            current[layer.targets] = reached
            place_at[layer.targets] = reached * num_limits + offsets
        all_covered.append(current)
    return all_covered


def needed(states: FleetStates, least: I64, num_stages: int) -> list[I64]:
    """Blocks that must be covered after 0, 1, ... stages to finish with num_stages of them: [state] for each.

    Args:
        states: the states of the fleet.
        least: [group, last] from `reach_back`.
        num_stages: stages of the whole pipeline.
    """
    never = least.shape[1]  # one more than there are blocks
    padded = np.pad(least, ((0, 0), (0, 1)), constant_values=never)
    current = np.full(states.num_states, never - 1)
    all_needed = [current]
    for stage in reversed(range(num_stages)):
        layer = states.layer(stage)
        earlier = np.full(states.num_states, never)
        np.minimum.at(earlier, layer.before, padded[layer.group, current[layer.after]])
        current = earlier
        all_needed.append(current)
    return all_needed[::-1]


def least_floor(work_s: F64) -> float:
    """A lower bound on the seconds of the slowest stage of any pipeline: the largest time of a block on its fastest
    group. Infinite if some block fits nowhere."""
    return float(work_s.diagonal(1, axis1=1, axis2=2).min(axis=0, initial=np.inf).max())


def least_limit(states: FleetStates, work_s: F64, num_stages: int, ceiling: float, floor: float) -> float | None:
    """The smallest time of a stage up to `ceiling` with which num_stages stages can cover all blocks, or None.

    Args:
        states: the states of the fleet.
        work_s: [group, first, last] seconds; infinite for groups that may not be used.
        num_stages: the exact number of stages.
        ceiling: the largest time of interest.
        floor: a lower bound on the result.
    """
    values = work_s[(work_s <= min(ceiling, sys.float_info.max)) & (work_s >= floor)]
    if not len(values):
        return None
    high = float(values.max())
    most = reach(work_s, np.array([high]))[:, :, 0]
    if not _covers(states, most[:, :, np.newaxis], num_stages)[0]:
        return None
    least = reach(work_s, np.array([floor]))[:, :, 0]
    values = values[values < high]
    while len(values):
        probes = _quantiles(values)
        farthest = _reach_between(work_s, probes, least, most)
        index = int(np.searchsorted(_covers(states, farthest, num_stages), True))
        if index < len(probes):
            high, most = float(probes[index]), farthest[:, :, index]
            values = values[values < high]
        if index > 0:
            least = farthest[:, :, index - 1]
            values = values[values > probes[index - 1]]
    return high


def _covers(states: FleetStates, farthest: I64, num_stages: int) -> Bools:
    """[limit]: whether some workers can cover all blocks."""
    return covered(states, farthest, num_stages)[-1].max(axis=0) == farthest.shape[1] - 1


def _quantiles(values: F64) -> F64:
    """Quantiles of the values, distinct and ascending; all values if there are few."""
    if len(values) <= _NUM_PROBES:
        return np.unique(values)
    some = values[:: -(-len(values) // _MOST_RANKED)]
    ranks = np.arange(1, _NUM_PROBES + 1) * len(some) // (_NUM_PROBES + 1)
    return np.unique(np.partition(some, ranks)[ranks])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Covering:
    """The pipelines of a number of stages that may cover all blocks, with each stage within the limit."""

    states: FleetStates
    complete: I64
    """States that can cover all blocks, those with few workers first."""
    num_covered: list[I64]
    """Blocks covered after 0, 1, ... stages, [state] for each."""
    farthest: I64
    """[group, first], see `reach`."""
    least: I64
    """[group, last], see `reach_back`."""

    def stages(self, state: int) -> tuple[PlacedStage, ...] | None:
        """A pipeline that uses exactly the workers of a state; None if the walk ends at stages without blocks.

        From the last stage to the first, each takes the possible group with the lowest index and as many blocks as it
        can, but leaves one for each stage before it.
        """
        last = self.farthest.shape[1] - 1
        stages: list[PlacedStage] = []
        for stage in reversed(range(len(self.num_covered) - 1)):
            layer = self.states.layer(stage)
            steps = slice(int(np.searchsorted(layer.after, state)), int(np.searchsorted(layer.after, state, "right")))
            groups, befores = layer.group[steps], layer.before[steps]
            firsts = np.maximum(self.least[groups, last], stage)
            will_do = (firsts <= self.num_covered[stage][befores]) & (firsts < last)
            if not will_do.any():
                return None
            index = int(np.argmax(will_do))
            stages.append(PlacedStage(group=int(groups[index]), first=int(firsts[index]), last=last))
            last, state = int(firsts[index]), int(befores[index])
        return tuple(reversed(stages))


def covering(states: FleetStates, work_s: F64, num_stages: int, limit: float) -> Covering:
    """Solve for exactly num_stages stages of at most `limit` seconds."""
    limits = np.array([limit])
    farthest = reach(work_s, limits)
    num_covered = [blocks[:, 0] for blocks in covered(states, farthest, num_stages)]
    complete = np.flatnonzero(num_covered[-1] == work_s.shape[1] - 1)
    return Covering(
        states=states,
        complete=complete[np.argsort(states.num_workers[complete], kind="stable")].astype(np.int64),
        num_covered=num_covered,
        farthest=farthest[:, :, 0],
        least=reach_back(work_s, limit),
    )
