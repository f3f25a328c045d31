"""The input of the search, from speeds and sizes: seconds of every possible stage, infinite where it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations

import numpy as np

from shoal.arrays import F64, I64, Bools
from shoal.planner.choice.costs.model_sizes import ModelSizes, StageBytesTable, StageKinds
from shoal.planner.choice.costs.share_bounds import least_share_seconds
from shoal.planner.choice.costs.sharing import Ends, StageSharing, share_fractions
from shoal.planner.choice.groups import Group
from shoal.planner.predict.work import Work, group_seconds, transfer_seconds
from shoal.planner.predict.workload import Workload
from shoal.planner.search.problem import ReplicaProblem, StageTimes
from shoal.planner.search.shares.best import GroupShares
from shoal.planner.speeds.speeds import Fleet, LinkSpeed

_ALL_ENDS: tuple[Ends, ...] = ((False, False), (False, True), (True, False), (True, True))
"""All ends in the order of `StageKinds.ends`."""


class StageCosts:
    """Times of all stages of one fleet under one workload."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        model: ModelSizes,
        workload: Workload,
        groups: Sequence[Group],
        kv_streams: int,
        is_alone: bool,
        most_stages: int | None = None,
    ) -> None:
        """Prepare the costs of one search.

        Args:
            fleet: the workers.
            model: sizes at the groups' precisions.
            workload: the load that times are for.
            groups: the groups that may hold a stage.
            kv_streams: streams whose KV all replicas together must hold, at least those of the workload.
            is_alone: whether only one worker of the fleet computes at a time, so that `alone` speeds apply.
            most_stages: the most stages of a replica; None: limited by workers and possible cuts only.
        """
        self.fleet, self.model, self.groups = fleet, model, tuple(groups)
        num_workers = sum(one.count for one in fleet.classes)
        self.sharing = StageSharing(
            fleet=fleet,
            model=model,
            workload=workload,
            kv_streams=kv_streams,
            is_alone=is_alone,
            most_stages=min(num_workers, len(model.edges) - 1, most_stages or num_workers),
        )
        """The shares of stages in tensor groups."""
        self._kinds = cache(model.stage_kinds)
        self._links = cache(self._find_links)
        self._times = cache(self._make_times)

    def layers(self, first: int, last: int) -> tuple[int, int]:
        """The layers of a stage with the problem's blocks first:last."""
        return int(self.model.edges[first]), int(self.model.edges[last])

    def problem(self, *, max_stages: int | None = None) -> ReplicaProblem:
        """The problem for `planner.search`. Its groups have the indices of `groups`; layers that must stay together
        form one block."""
        counts = tuple(one.count for one in self.fleet.classes)
        return ReplicaProblem(
            num_blocks=len(self.model.edges) - 1,
            counts=counts,
            groups=tuple(group.used(len(counts)) for group in self.groups),
            times=self.times,
            max_stages=max_stages,
        )

    def times(self, rows: int) -> StageTimes:
        """The times for micro-batches of so many rows."""
        return self._times(rows)

    def _make_times(self, rows: int) -> StageTimes:
        work_s = np.stack([self._group_times(group, rows) for group in self.groups])
        if len(edges := self.model.edges) < work_s.shape[1]:
            work_s = work_s[:, edges[:, np.newaxis], edges]

        def exact_s(index: int, first: int, last: int) -> float:
            group = self.groups[index]
            if group.is_single:
                return float(work_s[index, first, last])
            first, last = self.layers(first, last)
            shares = self.sharing.shares(group, first, last, rows)
            if shares is None:
                return np.inf
            ends = (first == 0, last == self.model.num_layers)
            return self._shared_seconds(group, {ends: shares}, rows)(last - first, ends)

        return StageTimes(work_s=work_s, hop_s=self._hops(rows), exact_s=exact_s)

    def _hops(self, rows: int) -> F64:
        """[from, to]: seconds of a wave's transfers between two groups, over the slowest of their links."""
        work = self.sharing.work(0, self.groups[0].precision, rows)
        seconds = [
            [transfer_seconds(link, work, hidden_bytes=self.model.hidden_bytes) for link in links]
            for links in self.fleet.links
        ]
        between = np.array(seconds, np.float64)
        to_group = np.stack([between[:, group.members].max(axis=1) for group in self.groups], axis=1)
        return np.stack([to_group[group.members, :].max(axis=0) for group in self.groups])

    def _group_times(self, group: Group, rows: int) -> F64:
        """[first, last]: seconds of a stage on a group."""
        table, kinds = self.sharing.table(group.precision, rows), self._kinds(group.precision)
        if not group.is_single:
            return self._tensor_times(group, table, kinds, rows)
        one = self.fleet.classes[group.members[0]]
        work = self.sharing.work(group.members[0], group.precision, rows)
        times_K = _linear(
            kinds, lambda num_layers, ends: work.whole_s(num_layers, has_embedding=ends[0], has_head=ends[1])
        )
        times_K[table.total[kinds.first, kinds.last] > one.memory_bytes] = np.inf
        return times_K[kinds.kind_of]

    def _tensor_times(self, group: Group, table: StageBytesTable, kinds: StageKinds, rows: int) -> F64:
        """[first, last]: seconds with the best shares without memory limits; where these do not fit, a lower bound."""
        usual = [self.sharing.usual_shares(group, ends, rows) for ends in _ALL_ENDS]
        shares = [one for one in usual if one is not None]
        if len(shares) < len(usual):
            return np.full_like(table.mlp, np.inf)
        times_K = _linear(kinds, self._shared_seconds(group, dict(zip(_ALL_ENDS, shares, strict=True)), rows))
        fits_K, may_fit_K = self._fitting(group, table, kinds, shares)
        times_K[~may_fit_K] = np.inf
        bounded = np.flatnonzero(may_fit_K & ~fits_K)
        if not len(bounded):
            return times_K[kinds.kind_of]
        few, which = np.unique(len(_ALL_ENDS) * kinds.num_layers[bounded] + kinds.ends[bounded], return_inverse=True)
        least_s = self._least_shared_s(group, shares, np.divmod(few, len(_ALL_ENDS)), table, rows)
        times_K[bounded] = np.maximum(times_K[bounded], least_s[which])
        return _growing(times_K[kinds.kind_of])

    def _fitting(
        self, group: Group, table: StageBytesTable, kinds: StageKinds, shares: Sequence[GroupShares]
    ) -> tuple[Bools, Bools]:
        """[K]: whether stages fit with the shares of their ends; [K]: whether they may fit with other shares."""
        places = (kinds.first, kinds.last)
        of_ends: F64 = np.array([share_fractions(one) for one in shares])
        attention, mlp, vocabulary = np.moveaxis(of_ends[kinds.ends], 2, 0)  # [K, n]: parts of each member
        own = attention * table.attention[places][:, np.newaxis] + mlp * table.mlp[places][:, np.newaxis]
        own += vocabulary * table.vocabulary[places][:, np.newaxis]
        own += np.where(attention > 0, table.whole[places][:, np.newaxis], 0)
        memory_bytes = [self.fleet.classes[index].memory_bytes for index in group.members]
        fits_K = (own <= memory_bytes).all(axis=1) | (kinds.num_layers <= 0)
        return fits_K, fits_K | (table.total[places] <= sum(memory_bytes))

    def _shared_seconds(
        self, group: Group, shares: Mapping[Ends, GroupShares], rows: int
    ) -> Callable[[int, Ends], float]:
        """Gives the seconds of a stage from its number of layers and its ends, with the shares of those ends."""
        parts = {ends: share_fractions(one) for ends, one in shares.items()}
        works = self._works(group, rows)
        sum_s = self._sum_s(group, works)

        def seconds(num_layers: int, ends: Ends) -> float:
            layers_s = group_seconds(
                works,
                parts[ends],
                num_layers=num_layers,
                has_head=ends[1],
                sum_s=sum_s,
                deals_experts=group.deals_experts,
            )
            return layers_s + (sum_s if ends[0] else 0.0)

        return seconds

    def _least_shared_s(
        self, group: Group, usual: Sequence[GroupShares], sizes: tuple[I64, I64], table: StageBytesTable, rows: int
    ) -> F64:
        """[N]: lower bounds on the seconds of stages for any shares; infinite where they do not fit.

        `sizes`: [N] layers, [N] ends. `usual`: shares by ends without memory limits.
        """
        works = self._works(group, rows)
        num_layers, ends = sizes
        heads_s = [
            max(work.head_part(part) for work, (_, _, part) in zip(works, share_fractions(one), strict=True))
            for one in usual
        ]
        least_s = least_share_seconds(
            works,
            [self.fleet.classes[index].memory_bytes for index in group.members],
            self.sharing.atoms(group),
            table,
            num_layers,
            np.array([table.end_bytes(is_first=is_first, is_last=is_last) for is_first, is_last in _ALL_ENDS])[ends],
            np.array([one_s * is_last for one_s, (_, is_last) in zip(heads_s, _ALL_ENDS, strict=True)])[ends],
        )
        begins = ends // 2
        sums_s = (2 * num_layers + begins) * self._sum_s(group, works)
        return max(work.stage_s for work in works) + sums_s + least_s

    def _works(self, group: Group, rows: int) -> list[Work]:
        return [self.sharing.work(index, group.precision, rows) for index in group.members]

    def _sum_s(self, group: Group, works: Sequence[Work]) -> float:
        """Seconds of one all-reduce in each step, set by the slowest pair."""
        links = self._links(group.members)
        return max(transfer_seconds(link, works[0], hidden_bytes=self.model.hidden_bytes) for link in links)

    def _find_links(self, members: tuple[int, ...]) -> set[LinkSpeed]:
        """The distinct links between any two members."""
        return {self.fleet.sums[one][other] for one, other in set(combinations(members, 2))}


def _linear(kinds: StageKinds, seconds: Callable[[int, Ends], float]) -> F64:
    """[K]: a quantity that is linear in the number of layers, with a separate line for each combination of ends."""
    ones: F64 = np.array([seconds(1, ends) for ends in _ALL_ENDS])
    each = np.array([seconds(2, ends) for ends in _ALL_ENDS]) - ones
    return np.where(kinds.num_layers > 0, ones[kinds.ends] + (kinds.num_layers - 1) * each[kinds.ends], np.inf)


def _growing(times: F64) -> F64:
    """[first, last]: the times, raised where needed so that more layers never take less."""
    has_layers = ~np.tri(len(times), dtype=np.bool_)
    times = np.where(has_layers, times, -np.inf)
    times = np.maximum.accumulate(np.maximum.accumulate(times, axis=1)[::-1], axis=0)[::-1]
    return np.where(has_layers, times, np.inf)
