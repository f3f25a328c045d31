"""From speeds and sizes to what the search takes: seconds of every possible stage, infinite where it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import combinations

import numpy as np

from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.planner.choice.groups import Group
from shoal.planner.choice.model_sizes import ModelSizes, StageBytes, StageBytesTable, vocabulary_units
from shoal.planner.choice.share_bounds import least_share_seconds
from shoal.planner.predict.work import Work, group_seconds, prefill_chunk, transfer_seconds, wave_work
from shoal.planner.predict.workload import Workload
from shoal.planner.search.problem import Floats, Ints, ReplicaProblem, StageTimes
from shoal.planner.search.shares.best import GroupShares, Member, best_group_shares, roomy_shares
from shoal.planner.search.shares.deal import deal
from shoal.planner.speeds.speeds import Fleet, LinkSpeed
from shoal.protocol.stage_config import Precision

_CHUNK_STAGES = 2
"""Prefill chunks are as long as in a pipeline of so many stages: the search does not know the number in advance. What
is shown is predicted with the real one."""
_NEXT_TO_NOTHING_S = 1e-12
"""of an atom whose time is not known or does not matter: it still goes where there are fewer"""

Ends = tuple[bool, bool]
"""whether a stage begins the model (and has the embedding), whether it ends it (and has the head)"""
_ALL_ENDS: tuple[Ends, ...] = ((False, False), (False, True), (True, False), (True, True))


def _places(ends: Ends) -> tuple[slice, slice]:
    """The places of such stages in a table [first, last]."""
    begins, finishes = ends
    return (slice(0, 1) if begins else slice(1, None), slice(-1, None) if finishes else slice(0, -1))


class StageCosts:
    """Times and shares of all stages of one fleet under one workload."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        model: ModelSizes,
        workload: Workload,
        groups: Sequence[Group],
        kv_streams: int,
        is_alone: bool,
    ) -> None:
        """Prepare the costs of one search.

        Args:
            fleet: the workers.
            model: sizes at the groups' precisions.
            workload: that times are for.
            groups: that may hold a stage.
            kv_streams: whose KV all replicas together have to keep, at least those of the workload.
            is_alone: only one worker of the fleet computes at a time, so single workers have their `alone` speeds.
        """
        self.fleet, self.model, self.groups = fleet, model, tuple(groups)
        self._workload, self._is_alone = workload, is_alone
        context = min(model.max_context, workload.prompt_tokens + workload.output_tokens)
        self._kv_tokens_per_stream, self._kv_streams = context, kv_streams
        self._work = cache(self._make_work)
        self._bytes = cache(self._make_bytes)
        self._deal = cache(deal)
        self._links = cache(self._find_links)
        self._usual_shares = cache(self._make_usual_shares)
        self._tight_shares = cache(self._make_tight_shares)
        self._times = cache(self._make_times)

    def problem(self, *, max_stages: int | None = None) -> ReplicaProblem:
        """The problem for `planner.search`; groups have the same indexes there as in `groups`."""
        counts = tuple(one.count for one in self.fleet.classes)
        return ReplicaProblem(
            num_blocks=self.model.num_layers,
            counts=counts,
            groups=tuple(group.used(len(counts)) for group in self.groups),
            times=self.times,
            max_stages=max_stages,
        )

    def times(self, rows: int) -> StageTimes:
        """The same costs for micro-batches of so many rows."""
        return self._times(rows)

    def shares(self, group: Group, first: int, last: int, rows: int) -> GroupShares | None:
        """Atoms of every member of a tensor group for such a stage; None where they do not fit."""
        ends = (first == 0, last == self.model.num_layers)
        needed = self._bytes(group.precision, rows).of(first, last)
        usual = self._usual_shares(group, ends, rows)
        if usual is not None and self._fits(group, usual, needed):
            return usual
        tight = self._tight_shares(group, last - first, ends, rows)
        return tight if tight is not None and self._fits(group, tight, needed) else None

    def stage_bytes(self, group: Group, first: int, last: int, rows: int) -> tuple[int, ...]:
        """Bytes of weights and KV of every member."""
        needed = self._bytes(group.precision, rows).of(first, last)
        if group.is_single:
            return (needed.total,)
        shares = self.shares(group, first, last, rows)
        assert shares is not None
        return self._member_bytes(shares, needed)

    def fractions(self, shares: GroupShares) -> list[tuple[float, float, float]]:
        """Every member's part of the KV heads, the columns and the vocabulary."""
        vocabulary = sum(shares.vocabulary)
        return [
            (heads / sum(shares.heads), columns / sum(shares.columns), rows / vocabulary if vocabulary else 0.0)
            for heads, columns, rows in zip(shares.heads, shares.columns, shares.vocabulary, strict=True)
        ]

    def _make_times(self, rows: int) -> StageTimes:
        work_s = np.stack([self._group_times(group, rows) for group in self.groups])

        def exact_s(index: int, first: int, last: int) -> float:
            group = self.groups[index]
            if group.is_single:
                return float(work_s[index, first, last])
            shares = self.shares(group, first, last, rows)
            ends = (first == 0, last == self.model.num_layers)
            return np.inf if shares is None else self._shared_s(group, shares, last - first, ends, rows)

        return StageTimes(work_s=work_s, hop_s=self._hops(rows), exact_s=exact_s)

    def _hops(self, rows: int) -> Floats:
        """[from, to]: seconds of a wave between two groups, over the slowest of their links."""
        work = self._work(0, self.groups[0].precision, rows)
        seconds = [
            [transfer_seconds(link, work, hidden_bytes=self.model.hidden_bytes) for link in links]
            for links in self.fleet.links
        ]
        between = np.array(seconds, np.float64)
        to_group = np.stack([between[:, group.members].max(axis=1) for group in self.groups], axis=1)
        return np.stack([to_group[group.members, :].max(axis=0) for group in self.groups])

    def _group_times(self, group: Group, rows: int) -> Floats:
        """[first, last]: seconds of a stage."""
        table = self._bytes(group.precision, rows)
        if not group.is_single:
            return self._tensor_times(group, table, rows)
        one = self.fleet.classes[group.members[0]]
        work = self._work(group.members[0], group.precision, rows)
        times = self._linear(lambda num_layers, ends: work.whole_s(num_layers, has_head=ends[1]))
        return np.where(table.total <= one.memory_bytes, times, np.inf)

    def _tensor_times(self, group: Group, table: StageBytesTable, rows: int) -> Floats:
        """With the shares that are best where memory is no object; where these do not fit, a bound."""
        usual = {ends: self._usual_shares(group, ends, rows) for ends in _ALL_ENDS}
        if None in usual.values():
            return np.full_like(table.mlp, np.inf)

        def seconds(num_layers: int, ends: Ends) -> float:
            shares = usual[ends]
            assert shares is not None
            return self._shared_s(group, shares, num_layers, ends, rows)

        times = self._linear(seconds)
        is_bound = False
        memory_bytes = [self.fleet.classes[index].memory_bytes for index in group.members]
        for ends, shares in usual.items():
            assert shares is not None
            at = _places(ends)
            fits = np.ones_like(times[at], np.bool_)
            for (heads, columns, vocabulary), own_bytes in zip(self.fractions(shares), memory_bytes, strict=True):
                own = heads * table.attention[at] + columns * table.mlp[at] + vocabulary * table.vocabulary[at]
                fits &= own <= own_bytes
            may_fit = ~fits & np.isfinite(times[at]) & (table.total[at] <= sum(memory_bytes))
            times[at][~fits & ~may_fit] = np.inf
            if may_fit.any():
                is_bound = True
                few, which = np.unique(self._layers[at][may_fit], return_inverse=True)
                least_s = self._least_shared_s(group, shares, few, ends, rows)[which]
                times[at][may_fit] = np.maximum(times[at][may_fit], least_s)
        return self._growing(times) if is_bound else times

    def _growing(self, times: Floats) -> Floats:
        """As they are or higher, so that more layers never take less."""
        times = np.where(self._layers > 0, times, -np.inf)
        times = np.maximum.accumulate(np.maximum.accumulate(times, axis=1)[::-1], axis=0)[::-1]
        return np.where(self._layers > 0, times, np.inf)

    @cached_property
    def _layers(self) -> Ints:
        """[first, last]: how many."""
        number: Ints = np.arange(self.model.num_layers + 1)
        return number[np.newaxis, :] - number[:, np.newaxis]

    def _linear(self, seconds: Callable[[int, Ends], float]) -> Floats:
        """[first, last] of something that grows linearly with the layers, with other lines at the model's ends."""
        times = np.full(self._layers.shape, np.inf)
        for ends in _ALL_ENDS:
            at = _places(ends)
            one, two = seconds(1, ends), seconds(2, ends)
            layers = self._layers[at]
            times[at] = np.where(layers > 0, one + (layers - 1) * (two - one), np.inf)
        return times

    def _shared_s(self, group: Group, shares: GroupShares, num_layers: int, ends: Ends, rows: int) -> float:
        works = self._works(group, rows)
        sum_s = self._sum_s(group, works)
        parts = self.fractions(shares)
        seconds = group_seconds(
            works,
            parts,
            num_layers=num_layers,
            has_head=ends[1],
            sum_s=sum_s,
            deals_experts=group.deals_experts,
        )
        return seconds + (sum_s if ends[0] else 0.0)

    def _least_shared_s(self, group: Group, usual: GroupShares, num_layers: Ints, ends: Ends, rows: int) -> Floats:
        """[N]: what stages of so many layers take at least, whatever the shares; infinite where they do not fit."""
        works = self._works(group, rows)
        sum_s = self._sum_s(group, works)
        heads_s = [work.head_part(part) for work, (_, _, part) in zip(works, self.fractions(usual), strict=True)]
        least_s = least_share_seconds(
            works,
            [self.fleet.classes[index].memory_bytes for index in group.members],
            self._atoms(group),
            self._bytes(group.precision, rows),
            num_layers,
            is_first=ends[0],
            is_last=ends[1],
            vocabulary_s=max(heads_s) if ends[1] else 0.0,
        )
        sums_s = (2 * num_layers + ends[0]) * sum_s
        return max(work.stage_s for work in works) + sums_s + least_s

    def _works(self, group: Group, rows: int) -> list[Work]:
        return [self._work(index, group.precision, rows) for index in group.members]

    def _sum_s(self, group: Group, works: Sequence[Work]) -> float:
        """Of one all-reduce for every step: the slowest pair's."""
        links = self._links(group.members)
        return max(transfer_seconds(link, works[0], hidden_bytes=self.model.hidden_bytes) for link in links)

    def _find_links(self, members: tuple[int, ...]) -> set[LinkSpeed]:
        """Unlike ones between any two members."""
        return {self.fleet.sums[one][other] for one, other in set(combinations(members, 2))}

    def _make_work(self, index: int, precision: Precision, rows: int) -> Work:
        one = self.fleet.classes[index]
        speed = (one.alone if self._is_alone else one.busy)[precision]
        return wave_work(speed, self._workload, requests=rows, chunk_tokens=prefill_chunk(_CHUNK_STAGES))

    def _make_bytes(self, precision: Precision, rows: int) -> StageBytesTable:
        """A replica has a micro-batch for each of its stages at most, or it is the only one and has everything."""
        streams = self._kv_streams
        if self._workload.streams > 1:
            streams = min(streams, rows * sum(one.count for one in self.fleet.classes))
        return StageBytesTable(self.model, precision, streams * self._kv_tokens_per_stream)

    def _make_usual_shares(self, group: Group, ends: Ends, rows: int) -> GroupShares | None:
        """As if there were memory enough; then the number of layers changes nothing."""
        return roomy_shares(self._members(group, 1, ends, rows), self._num_pieces(group, ends), deal=self._deal)

    def _make_tight_shares(self, group: Group, num_layers: int, ends: Ends, rows: int) -> GroupShares | None:
        """Memory decides, with every layer as large as the largest."""
        num_heads, num_columns, num_vocabulary = self._num_pieces(group, ends)
        return best_group_shares(
            self._members(group, num_layers, ends, rows),
            num_heads=num_heads,
            num_columns=num_columns,
            num_vocabulary=num_vocabulary,
        )

    def _atoms(self, group: Group) -> ShardAtoms:
        return self.model.atoms.dealing_experts() if group.deals_experts else self.model.atoms

    def _num_pieces(self, group: Group, ends: Ends) -> tuple[int, int, int]:
        """Of heads, columns (or whole experts) and vocabulary."""
        atoms = self._atoms(group)
        return atoms.num_kv_atoms, atoms.num_column_atoms, vocabulary_units(atoms)[0] if any(ends) else 0

    def _members(self, group: Group, num_layers: int, ends: Ends, rows: int) -> list[Member]:
        table = self._bytes(group.precision, rows)
        needed = table.largest(num_layers, vocabulary=table.end_bytes(is_first=ends[0], is_last=ends[1]))
        of_class = {
            index: self._member(
                self._work(index, group.precision, rows),
                num_layers,
                self._atoms(group),
                has_head=ends[1],
                needed=needed,
                memory_bytes=self.fleet.classes[index].memory_bytes,
            )
            for index in set(group.members)
        }
        return [of_class[index] for index in group.members]

    def _member(
        self,
        work: Work,
        num_layers: int,
        atoms: ShardAtoms,
        *,
        has_head: bool,
        needed: StageBytes,
        memory_bytes: int,
    ) -> Member:
        num_units, _ = vocabulary_units(atoms)
        head_s = work.head_s if has_head else _NEXT_TO_NOTHING_S
        return Member(
            head_s=num_layers * work.attention_s / atoms.num_kv_atoms + _NEXT_TO_NOTHING_S,
            head_fixed_s=num_layers * work.attention_fixed_s,
            column_s=num_layers * work.mlp_s / atoms.num_column_atoms + _NEXT_TO_NOTHING_S,
            column_fixed_s=num_layers * work.mlp_fixed_s,
            head_bytes=-(-needed.attention // atoms.num_kv_atoms),
            column_bytes=-(-needed.mlp // atoms.num_column_atoms),
            memory_bytes=memory_bytes,
            vocabulary_s=head_s / num_units,
            vocabulary_fixed_s=work.head_fixed_s if has_head else 0.0,
            vocabulary_bytes=-(-needed.vocabulary // num_units),
        )

    def _fits(self, group: Group, shares: GroupShares, needed: StageBytes) -> bool:
        limits = [self.fleet.classes[index].memory_bytes for index in group.members]
        return all(own <= limit for own, limit in zip(self._member_bytes(shares, needed), limits, strict=True))

    def _member_bytes(self, shares: GroupShares, needed: StageBytes) -> tuple[int, ...]:
        return tuple(
            round(heads * needed.attention + columns * needed.mlp + rows * needed.vocabulary)
            for heads, columns, rows in self.fractions(shares)
        )
