"""The input of the search for a graph: seconds and bytes of any stage on any group of machines.

A stage's seconds are those of its nodes on the slowest member of its group. The search assumes the bytes of a typical
cut at every cut; the final prediction uses the real ones (`fleet_candidate`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, combinations, pairwise
from math import gcd

import numpy as np

from shoal.arrays import F64
from shoal.core.plan.share_rounding import round_shares
from shoal.planner.choice.groups import Group
from shoal.planner.graph_choice.fleet import GraphFleet, ShardWork
from shoal.planner.graph_cut import CutPlace
from shoal.planner.search.problem import ReplicaProblem, StageTimes

MOST_BLOCKS = 64
"""The most pieces of a graph between which the search cuts; times of nodes are not known more precisely than a 64th."""
_SHARE_UNITS = 12
"""The number of units in which unlike members of a group share a stage; halves, thirds and quarters are whole."""
_WHOLE = ShardWork(flops_share=0.0, weight_share=0.0, num_exchanges=0, exchange_bytes=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """How a group divides the whole graph."""

    shares: tuple[int, ...]
    work: ShardWork

    def part(self, rank: int, shared: float) -> float:
        """The part that a rank has of a quantity of which the share `shared` is divided among all ranks."""
        return (1.0 - shared) + shared * self.shares[rank] / sum(self.shares)


class FleetCosts:
    """Times, shares and bytes of all stages of one fleet."""

    def __init__(self, fleet: GraphFleet, groups: Sequence[Group]) -> None:
        """`groups`: the groups that may hold a stage."""
        self.fleet, self.groups = fleet, tuple(groups)
        self.edges = (0, *coarse_places(fleet), fleet.num_nodes)
        """The first nodes of the pieces between which the search cuts, followed by the number of nodes."""
        self._split = cache(self._make_split)
        self._before_s = [np.concatenate(([0.0], np.cumsum(one.node_s))) for one in fleet.classes]

    def problem(self) -> ReplicaProblem:
        """The problem for `planner.search`, in which a row is a micro-batch."""
        return ReplicaProblem(
            num_blocks=len(self.edges) - 1,
            counts=self.fleet.counts,
            groups=tuple(group.used(len(self.fleet.classes)) for group in self.groups),
            times=self._times,
        )

    def shares(self, group: Group) -> tuple[int, ...]:
        """The relative share of each member."""
        split = self._split(group.members)
        assert split is not None
        return split.shares

    def compute_s(self, group: Group, first_node: int, last_node: int) -> float:
        """Seconds of a stage: those of its slowest member, plus the members' exchanges."""
        split = self._split(group.members)
        assert split is not None
        seconds = [
            split.part(rank, split.work.flops_share) * self._nodes_s(index, first_node, last_node)
            for rank, index in enumerate(group.members)
        ]
        return max(seconds) + self._exchanges_s(group, split, first_node, last_node)

    def memory_bytes(self, group: Group, first_node: int, last_node: int) -> tuple[int, ...]:
        """Bytes of weights of each member of a stage's group."""
        split = self._split(group.members)
        assert split is not None
        num_bytes = self.fleet.weight_bytes(first_node, last_node)
        return tuple(round(num_bytes * split.part(rank, split.work.weight_share)) for rank in range(len(group.members)))

    def fits(self, group: Group, first_node: int, last_node: int) -> bool:
        """Whether each member has memory for its part of a stage."""
        needed = self.memory_bytes(group, first_node, last_node)
        members = (self.fleet.classes[index] for index in group.members)
        return all(own <= member.memory_bytes for own, member in zip(needed, members, strict=True))

    def _nodes_s(self, index: int, first_node: int, last_node: int) -> float:
        before_s = self._before_s[index]
        return float(before_s[last_node] - before_s[first_node])

    def _exchanges_s(self, group: Group, split: _Split, first_node: int, last_node: int) -> float:
        """Seconds of a stage's exchanges: its part of the graph's, in proportion to time, over the slowest link."""
        if group.is_single:
            return 0.0
        index = group.members[0]
        part = self._nodes_s(index, first_node, last_node) / (self.fleet.classes[index].whole_s or 1.0)
        links = {self.fleet.links[one][other] for one, other in combinations(group.members, 2)}
        one_s = max(link.seconds(split.work.exchange_bytes) for link in links)
        return part * split.work.num_exchanges * one_s

    def _make_split(self, members: tuple[int, ...]) -> _Split | None:
        if len(members) == 1:
            return _Split(shares=(1,), work=_WHOLE)
        work = self.fleet.shard_work(len(members))
        if work is None:
            return None
        if len(set(members)) == 1:
            return _Split(shares=(1,) * len(members), work=work)
        speeds = [1.0 / (self.fleet.classes[index].whole_s or 1.0) for index in members]
        units = round_shares(max(_SHARE_UNITS, len(members)), speeds, at_least=1)
        return _Split(shares=tuple(unit // gcd(*units) for unit in units), work=work)

    def _times(self, rows: int) -> StageTimes:
        return StageTimes(work_s=rows * self._work_s, hop_s=rows * self._hop_s)

    @cached_property
    def _work_s(self) -> F64:
        """[group, first, last] over the blocks: seconds of one micro-batch, infinite if memory does not suffice."""
        edges = np.array(self.edges)
        weights = [0, *accumulate(self.fleet.weight_bytes(first, last) for first, last in pairwise(self.edges))]
        weight_bytes = _ranges(np.array(weights, np.float64))
        node_s = [_ranges(before_s[edges]) for before_s in self._before_s]
        return np.stack([self._group_times(group, weight_bytes, node_s) for group in self.groups])

    def _group_times(self, group: Group, weight_bytes: F64, node_s: Sequence[F64]) -> F64:
        """[first, last] over the blocks: seconds on a group. A weight that several blocks read counts in each."""
        split = self._split(group.members)
        if split is None:
            return np.full(weight_bytes.shape, np.inf)
        fits = np.triu(np.ones(weight_bytes.shape, np.bool_), 1)
        seconds = np.zeros(weight_bytes.shape)
        for rank, index in enumerate(group.members):
            fits &= weight_bytes * split.part(rank, split.work.weight_share) <= self.fleet.classes[index].memory_bytes
            np.maximum(seconds, split.part(rank, split.work.flops_share) * node_s[index], out=seconds)
        first = group.members[0]
        exchanges_s = self._exchanges_s(group, split, 0, self.fleet.num_nodes)
        seconds += node_s[first] / (self.fleet.classes[first].whole_s or 1.0) * exchanges_s
        seconds[0] += self.fleet.taken_s(group.members)
        seconds[:, -1] += self.fleet.given_s(group.members)
        return np.where(fits, seconds, np.inf)

    @cached_property
    def _hop_s(self) -> F64:
        """[from, to]: seconds of a typical cut's bytes between two groups, over the slowest of their links."""
        crossing = {place.node: place.num_bytes for place in self.fleet.places}
        inner = [crossing[node] for node in self.edges[1:-1]]
        typical = statistics.median(inner) if inner else 0
        between = np.array([[link.seconds(typical) for link in links] for links in self.fleet.links], np.float64)
        to_group = np.stack([between[:, group.members].max(axis=1) for group in self.groups], axis=1)
        return np.stack([to_group[group.members, :].max(axis=0) for group in self.groups])


def _ranges(before: F64) -> F64:
    """[first, last]: differences of cumulative sums."""
    return before[np.newaxis, :] - before[:, np.newaxis]


def coarse_places(fleet: GraphFleet) -> list[int]:
    """Nodes before which the search may cut: all places if there are few, otherwise the place with the fewest bytes in
    each of equal parts of the time. Places inside fused groups are left out if there are enough others."""
    whole = [place for place in fleet.places if not place.breaks_fusion]
    places: Sequence[CutPlace] = whole if len(whole) >= min(sum(fleet.counts), MOST_BLOCKS) - 1 else fleet.places
    if len(places) < MOST_BLOCKS:
        return [place.node for place in places]
    before_s = np.concatenate(([0.0], np.cumsum(fleet.classes[0].node_s)))
    window_s = float(before_s[-1]) / (MOST_BLOCKS - 1) or 1.0
    best: dict[int, CutPlace] = {}
    for place in places:
        window = round(float(before_s[place.node]) / window_s)
        if window not in best or place.num_bytes < best[window].num_bytes:
            best[window] = place
    return sorted(place.node for place in best.values())
