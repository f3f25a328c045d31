"""How quick a tensor group can be at most where memory decides on its shares: works and bytes, told to the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.planner.choice.model_sizes import StageBytesTable, vocabulary_units
from shoal.planner.predict.work import Work
from shoal.planner.search.problem import Floats, Ints
from shoal.planner.search.shares.bound import MemberCosts, Pieces, least_seconds
from shoal.planner.search.shares.head_deals import are_few

_NO_TIME_S = 1e-18
"""Least seconds of anything, so that it can be divided by."""


def least_share_seconds(
    works: Sequence[Work],
    memory_bytes: Sequence[int],
    atoms: ShardAtoms,
    table: StageBytesTable,
    num_layers: Ints,
    *,
    is_first: bool,
    is_last: bool,
    vocabulary_s: float,
) -> Floats:
    """[N]: seconds that the members' attention, MLP and head take at least; infinite where nothing fits.

    Args:
        works: of each member.
        memory_bytes: of each member.
        atoms: of the model.
        table: bytes of its stages.
        num_layers: [N] of stages, each layer as large as the largest.
        is_first: whether the stages have the embedding.
        is_last: whether they have the head.
        vocabulary_s: that the head takes at least; 0 where there is none: looking rows up takes no time.
    """
    if not are_few(atoms.num_kv_atoms, len(works)):
        return np.zeros(len(num_layers))
    costs = _member_costs(works, memory_bytes, atoms)
    pieces = _pieces(atoms, table, num_layers, is_first=is_first, is_last=is_last)
    return least_seconds(costs, pieces, num_layers, vocabulary_s=vocabulary_s)


def _member_costs(works: Sequence[Work], memory_bytes: Sequence[int], atoms: ShardAtoms) -> MemberCosts:
    def of_each(seconds: Callable[[Work], float]) -> Floats:
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


def _pieces(atoms: ShardAtoms, table: StageBytesTable, num_layers: Ints, *, is_first: bool, is_last: bool) -> Pieces:
    vocabulary_bytes = table.end_bytes(is_first=is_first, is_last=is_last)
    largest = [table.largest(int(count), vocabulary=vocabulary_bytes) for count in num_layers]
    num_units, _ = vocabulary_units(atoms)
    return Pieces(
        num_heads=atoms.num_kv_atoms,
        num_columns=atoms.num_column_atoms,
        num_vocabulary=num_units if is_first or is_last else 0,
        head_bytes=np.array([-(-one.attention // atoms.num_kv_atoms) for one in largest], np.int64),
        column_bytes=np.array([-(-one.mlp // atoms.num_column_atoms) for one in largest], np.int64),
        vocabulary_bytes=-(-vocabulary_bytes // num_units),
    )
