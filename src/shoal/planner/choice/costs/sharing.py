"""The time of a fleet's workers for a layer, and the shares of a stage in a tensor group."""

from __future__ import annotations

from functools import cache

from shoal.core.generation.scheduler_config import prefill_chunk
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.planner.choice.costs.model_sizes import ModelSizes, StageBytes, StageBytesTable, vocabulary_units
from shoal.planner.choice.groups import Group
from shoal.planner.predict.work import Work, wave_work
from shoal.planner.predict.workload import Workload
from shoal.planner.search.shares.best import GroupShares, Member, best_group_shares, roomy_shares
from shoal.planner.search.shares.deal import deal
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.stage_config import Precision

_CHUNK_STAGES = 2
"""The search assumes the prefill chunks of a pipeline with so many stages, because it does not know the number yet. The
final prediction uses the real one."""
_NEXT_TO_NOTHING_S = 1e-12
"""Seconds of an atom whose time is unknown or negligible; not 0, so that such atoms are still divided evenly."""

Ends = tuple[bool, bool]
"""(whether a stage begins the model and has the embedding, whether it ends the model and has the head)."""


class StageSharing:
    """Shares of all stages of one fleet under one workload, and the work and bytes that they depend on."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        model: ModelSizes,
        workload: Workload,
        kv_streams: int,
        is_alone: bool,
        most_stages: int,
    ) -> None:
        """
        Args:
            fleet: the workers.
            model: sizes at the groups' precisions.
            workload: the load that times are for.
            kv_streams: streams whose KV all replicas together must hold, at least those of the workload.
            is_alone: whether only one worker of the fleet computes at a time, so that `alone` speeds apply.
            most_stages: the most stages of a replica.
        """
        self._fleet, self._model, self._workload, self._is_alone = fleet, model, workload, is_alone
        self._dealt_atoms = model.atoms.dealing_experts()
        self._most_stages = most_stages
        context = min(model.max_context, workload.prompt_tokens + workload.output_tokens)
        self._kv_tokens_per_stream, self._kv_streams = context, kv_streams
        self.work = cache(self._make_work)
        """Work of a worker by class, precision and rows of a micro-batch."""
        self.table = cache(self._make_table)
        """Bytes of all stages by precision and rows of a micro-batch."""
        self.usual_shares = cache(self._make_usual_shares)
        """Shares without memory limits, by group, ends of the stage and rows; None: there are none."""
        self._member = cache(self._make_member)
        self._deal = cache(deal)
        self._tight_shares = cache(self._make_tight_shares)

    def shares(self, group: Group, first: int, last: int, rows: int) -> GroupShares | None:
        """Atoms of each member of a tensor group for such a stage; None if they do not fit."""
        ends = (first == 0, last == self._model.num_layers)
        needed = self.table(group.precision, rows).of(first, last)
        usual = self.usual_shares(group, ends, rows)
        if usual is not None and self._fits(group, usual, needed):
            return usual
        tight = self._tight_shares(group, last - first, ends, rows)
        return tight if tight is not None and self._fits(group, tight, needed) else None

    def stage_bytes(self, group: Group, first: int, last: int, rows: int) -> tuple[int, ...]:
        """Bytes of weights and KV of each member."""
        needed = self.table(group.precision, rows).of(first, last)
        if group.is_single:
            return (needed.total,)
        shares = self.shares(group, first, last, rows)
        assert shares is not None
        return _member_bytes(shares, needed)

    def atoms(self, group: Group) -> ShardAtoms:
        """The atoms that are divided among the members of a group."""
        return self._dealt_atoms if group.deals_experts else self._model.atoms

    def _make_work(self, index: int, precision: Precision, rows: int) -> Work:
        one = self._fleet.classes[index]
        speed = (one.alone if self._is_alone else one.busy)[precision]
        return wave_work(speed, self._workload, requests=rows, chunk_tokens=prefill_chunk(_CHUNK_STAGES))

    def _make_table(self, precision: Precision, rows: int) -> StageBytesTable:
        """A replica holds at most one micro-batch per stage or, if it is the only replica, all streams."""
        streams = self._kv_streams
        if self._workload.streams > 1:
            streams = min(streams, rows * self._most_stages)
        return StageBytesTable(self._model, precision, streams * self._kv_tokens_per_stream)

    def _make_usual_shares(self, group: Group, ends: Ends, rows: int) -> GroupShares | None:
        """Shares without memory limits, which do not depend on the number of layers."""
        return roomy_shares(self._members(group, 1, ends, rows), self._num_pieces(group, ends), deal=self._deal)

    def _make_tight_shares(self, group: Group, num_layers: int, ends: Ends, rows: int) -> GroupShares | None:
        """Shares under memory limits, with each layer counted as large as the largest."""
        num_heads, num_columns, num_vocabulary = self._num_pieces(group, ends)
        return best_group_shares(
            self._members(group, num_layers, ends, rows),
            num_heads=num_heads,
            num_columns=num_columns,
            num_vocabulary=num_vocabulary,
        )

    def _num_pieces(self, group: Group, ends: Ends) -> tuple[int, int, int]:
        """The number of atoms of heads, columns (or whole experts) and vocabulary."""
        atoms = self.atoms(group)
        return atoms.num_kv_atoms, atoms.num_column_atoms, vocabulary_units(atoms)[0] if any(ends) else 0

    def _members(self, group: Group, num_layers: int, ends: Ends, rows: int) -> list[Member]:
        atoms = self.atoms(group)
        return [self._member(index, group.precision, num_layers, ends, rows, atoms) for index in group.members]

    def _make_member(
        self, index: int, precision: Precision, num_layers: int, ends: Ends, rows: int, atoms: ShardAtoms
    ) -> Member:
        work = self.work(index, precision, rows)
        table = self.table(precision, rows)
        needed = table.largest(num_layers, vocabulary=table.end_bytes(is_first=ends[0], is_last=ends[1]))
        num_units, _ = vocabulary_units(atoms)
        has_head = ends[1]
        head_s = work.head_s if has_head else _NEXT_TO_NOTHING_S
        return Member(
            head_s=num_layers * work.attention_s / atoms.num_kv_atoms + _NEXT_TO_NOTHING_S,
            head_fixed_s=num_layers * work.attention_fixed_s,
            column_s=num_layers * work.mlp_s / atoms.num_column_atoms + _NEXT_TO_NOTHING_S,
            column_fixed_s=num_layers * work.mlp_fixed_s,
            head_bytes=-(-needed.attention // atoms.num_kv_atoms),
            column_bytes=-(-needed.mlp // atoms.num_column_atoms),
            memory_bytes=self._fleet.classes[index].memory_bytes - needed.whole,
            vocabulary_s=head_s / num_units,
            vocabulary_fixed_s=work.head_fixed_s if has_head else 0.0,
            vocabulary_bytes=-(-needed.vocabulary // num_units),
        )

    def _fits(self, group: Group, shares: GroupShares, needed: StageBytes) -> bool:
        limits = [self._fleet.classes[index].memory_bytes for index in group.members]
        return all(own <= limit for own, limit in zip(_member_bytes(shares, needed), limits, strict=True))


def share_fractions(shares: GroupShares) -> list[tuple[float, float, float]]:
    """Each member's part of the KV heads, the columns and the vocabulary."""
    vocabulary = sum(shares.vocabulary)
    return [
        (heads / sum(shares.heads), columns / sum(shares.columns), rows / vocabulary if vocabulary else 0.0)
        for heads, columns, rows in zip(shares.heads, shares.columns, shares.vocabulary, strict=True)
    ]


def _member_bytes(shares: GroupShares, needed: StageBytes) -> tuple[int, ...]:
    return tuple(
        round(heads * needed.attention + columns * needed.mlp + rows * needed.vocabulary)
        + (needed.whole if heads else 0)
        for heads, columns, rows in share_fractions(shares)
    )
