"""Lower bounds on a tensor group's time when memory limits its shares, from the members' work and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shoal.arrays import F64, I64
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.planner.choice.costs.model_sizes import StageBytesTable, vocabulary_units
from shoal.planner.predict.work import Work
from shoal.planner.search.shares.bound import MemberCosts, Pieces, least_seconds
from shoal.planner.search.shares.head_deals import are_few

_NO_TIME_S = 1e-18
"""The least seconds of any work, so that a division by it is safe."""


def least_share_seconds(
    works: Sequence[Work],
    memory_bytes: Sequence[int],
    atoms: ShardAtoms,
    table: StageBytesTable,
    num_layers: I64,
    end_bytes: I64,
    vocabulary_s: F64,
) -> F64:
    """[N]: lower bounds on the seconds of the members' attention, MLP and head; infinite where nothing fits.

    Args:
        works: the work of each member.
        memory_bytes: the memory of each member.
        atoms: the atoms of the model.
        table: bytes of the model's stages.
        num_layers: [N] layers of each stage; each layer counts as large as the largest.
        end_bytes: [N] bytes of the embedding and the head, if the stage has them.
        vocabulary_s: [N] the least seconds of the head, 0 without one. Looking up embeddings takes no time.
    """
    if not are_few(atoms.num_kv_atoms, len(works)):
        return np.zeros(len(num_layers))
    costs = _member_costs(works, memory_bytes, atoms)
    return least_seconds(costs, _pieces(atoms, table, num_layers, end_bytes), num_layers, vocabulary_s)


def _member_costs(works: Sequence[Work], memory_bytes: Sequence[int], atoms: ShardAtoms) -> MemberCosts:
    def of_each(seconds: Callable[[Work], float]) -> F64:
        return np.maximum(_NO_TIME_S, [seconds(work) for work in works])

    num_units, _ = vocabulary_units(atoms)
    return MemberCosts(
        head_s=of_each(lambda work: work.attention_s / atoms.num_kv_atoms),
        head_fixed_s=of_each(lambda work: work.attention_fixed_s),
        column_s=of_each(lambda work: work.mlp_s / atoms.num_column_atoms),
        column_fixed_s=of_each(lambda work: work.mlp_fixed_s),
        vocabulary_s=of_each(lambda work: work.head_s / num_units),
        vocabulary_fixed_s=of_each(lambda work: work.head_fixed_s),
        memory_bytes=np.array(memory_bytes, np.int64),
    )


def _pieces(atoms: ShardAtoms, table: StageBytesTable, num_layers: I64, end_bytes: I64) -> Pieces:
    layer = table.largest(1, vocabulary=0)
    num_units, _ = vocabulary_units(atoms)
    return Pieces(
        num_heads=atoms.num_kv_atoms,
        num_columns=atoms.num_column_atoms,
        num_vocabulary=num_units,
        head_bytes=-(-num_layers * layer.attention // atoms.num_kv_atoms),
        column_bytes=-(-num_layers * layer.mlp // atoms.num_column_atoms),
        vocabulary_bytes=-(-end_bytes // num_units),
    )
