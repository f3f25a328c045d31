"""How far a pipeline gets when no stage may take longer than a limit.

More blocks never take less time, so of two pipelines of the same workers the one that has covered more blocks can
finish wherever the other can: only the farthest matters, and the blocks vanish from the state. Hops are ignored and
stages may be empty here, hence what cannot be covered cannot be covered by any pipeline, while what can be is still
to be checked.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np

from shoal.arrays import F64, I64, U16, Bools
from shoal.planner.search.fleet_states import FleetStates
from shoal.planner.search.pipeline import PlacedStage

_COUNT = np.uint16
"""Adding small integers up is several times faster than counting."""
_NUM_PROBES = 16
"""Limits tried at once. One pass over the states costs more in calls than in arithmetic up to about so many."""
_MOST_RANKED = 1024
"""Times of which a few of about even rank are looked for: where there are more, such a part of them will do."""


def reach(work_s: F64, limits: F64) -> I64:
    """[group, first, limit]: the farthest last such that first:last takes at most the limit; first where none does."""
    places: I64 = np.arange(int(work_s.shape[1]))
    return np.stack([places + (work_s <= limit).sum(axis=2, dtype=_COUNT) for limit in limits], axis=2)


def _reach_between(work_s: F64, limits: F64, least: I64, most: I64) -> I64:
    """As `reach`, for limits of which is known that they reach from `least` to `most`, both [group, first]."""
    width = int((most - least).max())
    lasts = least[:, :, np.newaxis] + np.arange(1, width + 1)
    beyond = lasts > most[:, :, np.newaxis]
    near_s = np.take_along_axis(work_s, np.where(beyond, 0, lasts), axis=2)
    near_s[beyond] = np.inf
    return np.stack([least + (near_s <= limit).sum(axis=2, dtype=_COUNT) for limit in limits], axis=2)


def reach_grid(work_s: F64, limits: F64) -> U16:
    """As `reach`, for many ascending limits: each last is reached from the first limit within which it comes up to the
    one within which the next one does."""
    num_groups, num_places, _ = work_s.shape
    is_later = ~np.tri(num_places, dtype=np.bool_)
    within: I64 = np.zeros(work_s.shape, np.int64)
    within[:, is_later] = np.searchsorted(limits, work_s[:, is_later])
    num_limits_more = np.diff(within, axis=2, append=len(limits))
    lasts: U16 = np.broadcast_to(np.arange(int(num_places), dtype=_COUNT), within.shape)
    return np.repeat(lasts.reshape(-1), num_limits_more.reshape(-1)).reshape(num_groups, num_places, len(limits))


def reach_back(work_s: F64, limit: float) -> I64:
    """[group, last]: the least first such that first:last takes at most the limit; last where none does."""
    return np.arange(int(work_s.shape[1]), dtype=np.int64) - (work_s <= limit).sum(axis=1, dtype=_COUNT)


def covered(states: FleetStates, farthest: I64 | U16, num_stages: int) -> list[I64]:
    """Blocks covered with 0, 1, ... num_stages stages: for each, [state, limit]; -1 where a state needs other numbers.

    Args:
        states: of the fleet.
        farthest: [group, first, limit] from `reach`.
        num_stages: whose layers exist.
    """
    _, num_places, num_limits = farthest.shape
    flat = farthest.reshape(-1)
    offsets: I64 = np.arange(int(num_limits), dtype=np.int64)
    current = np.full((states.num_states, num_limits), -1)
    current[0] = 0
    all_covered = [current]
    for stage in range(num_stages):
        layer = states.layer(stage)
        at = (current[layer.before] + (layer.group * num_places)[:, np.newaxis]) * num_limits + offsets
        current = np.full((states.num_states, num_limits), -1)
        if len(layer.starts):
            current[layer.targets] = np.maximum.reduceat(flat[at], layer.starts, axis=0)
        all_covered.append(current)
    return all_covered


def needed(states: FleetStates, least: I64, num_stages: int) -> list[I64]:
    """Blocks that must be covered after 0, 1, ... stages to finish with num_stages of them: for each, [state].

    Args:
        states: of the fleet.
        least: [group, last] from `reach_back`.
        num_stages: of the whole pipeline.
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
    """Seconds that the slowest stage of any pipeline takes at least: those of the block that takes longest where it is
    quickest. Infinite where some block fits nowhere."""
    return float(work_s.diagonal(1, axis1=1, axis2=2).min(axis=0, initial=np.inf).max())


def least_limit(states: FleetStates, work_s: F64, num_stages: int, ceiling: float, floor: float) -> float | None:
    """The smallest time of a stage up to `ceiling` with which num_stages stages can cover all blocks, or None.

    Args:
        states: of the fleet.
        work_s: [group, first, last] of the groups that may be used; infinite for the others.
        num_stages: exactly.
        ceiling: the largest time of interest.
        floor: a time that is certainly not too large.
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
    """Some of the values, distinct and ascending, about evenly spread over them; all of them where they are few."""
    if len(values) <= _NUM_PROBES:
        return np.unique(values)
    some = values[:: -(-len(values) // _MOST_RANKED)]
    ranks = np.arange(1, _NUM_PROBES + 1) * len(some) // (_NUM_PROBES + 1)
    return np.unique(np.partition(some, ranks)[ranks])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Covering:
    """The pipelines of so many stages that may cover all blocks, each stage within the limit."""

    states: FleetStates
    complete: I64
    """states that can cover all blocks, those with few workers first"""
    num_covered: list[I64]
    """[state] after 0, 1, ... stages"""
    farthest: I64
    """[group, first]"""
    least: I64
    """[group, last]"""

    def stages(self, state: int) -> tuple[PlacedStage, ...] | None:
        """A pipeline that uses just these workers. None: this walk ended at stages without blocks.

        From the last stage to the first, each takes the group with the lowest index that will do and as many blocks as
        it can, but for one for each stage before it.
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
