"""Lower bounds on a tensor group's time when memory limits its shares, for many sizes of a stage at once.

There are few heads, so they are divided in whole numbers, in all ways; columns and vocabulary may be divided
arbitrarily. For given heads, the members' columns are limited by the time T that the slowest may take and by the
remaining memory. Let S be the members that are limited by memory; any other set of members gives a valid bound, too:

    columns <= sum over S of (room) + sum over the others of ((T - fixed seconds) / seconds of a column)

which is a bound on T. The sets tried are those of the members that run out of memory first. Vocabulary is handled
likewise: if there is no room for both, columns or vocabulary take longer, whichever costs less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.arrays import F64, I64, Bools
from shoal.planner.search.shares.head_deals import all_deals

_ROUNDING = 1e-12
"""The relative error that sums of sizes may have in doubles."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pieces:
    """The pieces into which a layer and the ends of a model are divided. Shapes: N sizes of a stage."""

    num_heads: int
    num_columns: int
    num_vocabulary: int
    """Pieces of the vocabulary in stages that have it."""
    head_bytes: I64
    """[N]: bytes of a head in all layers of the stage."""
    column_bytes: I64
    """[N]: bytes of a column in all layers of the stage."""
    vocabulary_bytes: I64
    """[N]: bytes of a piece of the vocabulary; 0: the stage has none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemberCosts:
    """Seconds of each member, each [n]. Shapes: n members."""

    head_s: F64
    """Seconds of a head of one layer."""
    head_fixed_s: F64
    """Fixed seconds of a member's heads of one layer."""
    column_s: F64
    """Seconds of a column of one layer, > 0."""
    column_fixed_s: F64
    """Fixed seconds of a member's columns of one layer."""
    vocabulary_s: F64
    """Seconds of a piece of the vocabulary, > 0 unless the vocabulary takes no time."""
    vocabulary_fixed_s: F64
    """Fixed seconds of a member's vocabulary."""
    memory_bytes: I64


def least_seconds(costs: MemberCosts, pieces: Pieces, num_layers: I64, vocabulary_s: F64) -> F64:
    """[N]: lower bounds on the seconds of all shares that fit; infinite where none fit.

    Shapes: N sizes of a stage, X ways to divide heads, P pairs of a size and a way that fits, n members.

    Args:
        costs: the members' costs.
        pieces: the pieces to divide; the ways to divide the heads must be few (`are_few`).
        num_layers: [N] layers of the stage.
        vocabulary_s: [N] lower bounds on the seconds of the slowest member's vocabulary; 0: it takes no time.
    """
    heads_nX = all_deals(pieces.num_heads, len(costs.memory_bytes)).T
    fixed_s, each_s = costs.head_fixed_s[:, np.newaxis], costs.head_s[:, np.newaxis]
    attention_X = np.where(heads_nX > 0, fixed_s + heads_nX * each_s, 0.0).max(axis=0)
    by_attention = np.argsort(attention_X)
    heads_nX, attention_X = heads_nX[:, by_attention], attention_X[by_attention]
    rooms = _RoomsByHeads.of(costs, pieces)
    size_P, way_P = np.nonzero(rooms.suffice(pieces, heads_nX))

    def seconds(kept: I64) -> F64:
        size, way = size_P[kept], way_P[kept]
        own = rooms.of_pairs(costs, size, heads_nX[:, way])
        return _pair_seconds(costs, pieces, own, num_layers[size], attention_X[way], vocabulary_s[size])

    least_N = np.full(len(num_layers), np.inf)
    _, quickest = np.unique(size_P, return_index=True)  # by the attention alone
    least_N[size_P[quickest]] = seconds(quickest)
    column_s = _roomy_column_seconds(costs, pieces)
    at_least_P = num_layers[size_P] * (attention_X[way_P] + column_s) + vocabulary_s[size_P]
    others = np.flatnonzero(at_least_P <= least_N[size_P] * (1 + _ROUNDING))
    np.minimum.at(least_N, size_P[others], seconds(others))
    return least_N


def _pair_seconds(
    costs: MemberCosts, pieces: Pieces, rooms: _Rooms, layers_P: I64, attention_P: F64, vocabulary_s_P: F64
) -> F64:
    """[P]: lower bounds on the seconds of each pair, see `least_seconds`."""
    column_P = np.maximum((costs.column_fixed_s + costs.column_s).max(), _column_seconds(costs, pieces, rooms))
    least_P = layers_P * (attention_P + column_P) + vocabulary_s_P
    extra_P = _extra_seconds(costs, pieces, rooms, layers_P, column_P, vocabulary_s_P)
    return least_P + np.where(vocabulary_s_P > 0, extra_P, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _RoomsByHeads:
    """The columns for which memory is left beside so many heads. Shapes: n members, N sizes of a stage, h heads of a
    member."""

    columns_nNh: I64
    """Whole columns beside at least one piece of the vocabulary."""
    all_nNh: F64
    """Columns without any vocabulary, including fractions."""
    unit_N: F64
    """Columns that take as much memory as a piece of the vocabulary; 0 if there is none."""
    needed_N: F64
    """Memory for everything in units of columns, slightly less so that rounding does not raise it."""

    @staticmethod
    def of(costs: MemberCosts, pieces: Pieces) -> _RoomsByHeads:
        memory_bytes = costs.memory_bytes[:, np.newaxis, np.newaxis]
        free_nNh = memory_bytes - pieces.head_bytes[:, np.newaxis] * np.arange(pieces.num_heads + 1)
        column_bytes = np.maximum(1, pieces.column_bytes)
        columns_nNh = (free_nNh - pieces.vocabulary_bytes[:, np.newaxis]) // column_bytes[:, np.newaxis]
        unit_N = pieces.vocabulary_bytes / column_bytes
        return _RoomsByHeads(
            columns_nNh=np.minimum(columns_nNh, pieces.num_columns),
            all_nNh=free_nNh / column_bytes[:, np.newaxis],
            unit_N=unit_N,
            needed_N=(pieces.num_columns + unit_N * pieces.num_vocabulary) * (1 - _ROUNDING),
        )

    def suffice(self, pieces: Pieces, heads_nX: I64) -> Bools:
        """[N, X]: whether there is room for everything, if vocabulary may be divided arbitrarily."""
        never = -pieces.num_columns * len(heads_nX)  # every member has a column
        columns_nNh = np.where(self.columns_nNh >= 1, self.columns_nNh, never)
        for_columns, for_all = (
            sum(of_heads[:, heads] for of_heads, heads in zip(rooms_nNh, heads_nX, strict=True))
            for rooms_nNh in (columns_nNh, self.all_nNh)
        )
        return (for_columns >= pieces.num_columns) & (for_all >= self.needed_N[:, np.newaxis])

    def of_pairs(self, costs: MemberCosts, size_P: I64, heads_nP: I64) -> _Rooms:
        """The room for pairs of sizes and heads."""
        member = np.arange(len(heads_nP))[:, np.newaxis]
        columns_nP = self.columns_nNh[member, size_P, heads_nP]
        full_s = costs.column_fixed_s[:, np.newaxis] + costs.column_s[:, np.newaxis] * columns_nP
        return _Rooms(
            columns_nP=columns_nP,
            all_nP=self.all_nNh[member, size_P, heads_nP],
            unit_P=self.unit_N[size_P],
            needed_P=self.needed_N[size_P],
            first_full_nP=np.argsort(full_s, axis=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rooms:
    """`_RoomsByHeads` for pairs of a size of a stage and a way to divide the heads. Shapes: n members, P pairs."""

    columns_nP: I64
    all_nP: F64
    unit_P: F64
    needed_P: F64
    first_full_nP: I64
    """The members in the order in which they run out of memory."""

    def of_full(self, values_nP: F64 | I64) -> F64:
        """[n, P]: sums over the first 0, 1, ... n - 1 members that run out of memory."""
        in_order_nP = np.take_along_axis(values_nP, self.first_full_nP, axis=0)
        sums_nP = np.zeros(in_order_nP.shape)
        np.cumsum(in_order_nP[:-1], axis=0, out=sums_nP[1:])
        return sums_nP

    def of_others(self, values_n: F64) -> F64:
        """[n, P]: sums over the other members."""
        return np.cumsum(values_n[self.first_full_nP][::-1], axis=0)[::-1]


def _roomy_column_seconds(costs: MemberCosts, pieces: Pieces) -> float:
    """`_column_seconds` without memory limits, which is never more."""
    missing = pieces.num_columns + float((costs.column_fixed_s / costs.column_s).sum())
    each_has_one_s = float((costs.column_fixed_s + costs.column_s).max())
    return max(each_has_one_s, missing / float((1 / costs.column_s).sum()))


def _column_seconds(costs: MemberCosts, pieces: Pieces, rooms: _Rooms) -> F64:
    """[P]: lower bounds on the seconds of the slowest member's columns of one layer."""
    missing_nP = pieces.num_columns - rooms.of_full(rooms.columns_nP)
    missing_nP += rooms.of_others(costs.column_fixed_s / costs.column_s)
    return (missing_nP / rooms.of_others(1 / costs.column_s)).max(axis=0)


def _extra_seconds(
    costs: MemberCosts, pieces: Pieces, rooms: _Rooms, layers_P: I64, column_P: F64, vocabulary_s_P: F64
) -> F64:
    """[P]: extra seconds of the columns of all layers and the vocabulary because they share the memory.

    Args:
        costs, pieces, rooms: see `least_seconds`.
        layers_P: layers of the stage.
        column_P: lower bounds on the seconds of the columns of one layer.
        vocabulary_s_P: lower bounds on the seconds of the vocabulary.
    """
    per_column_s_nP = rooms.of_others(1 / costs.column_s)
    per_unit_s_nP = rooms.unit_P * rooms.of_others(1 / costs.vocabulary_s)
    missing_nP = rooms.needed_P - rooms.of_full(rooms.all_nP)
    missing_nP += rooms.of_others(costs.column_fixed_s / costs.column_s)
    missing_nP += rooms.unit_P * rooms.of_others(costs.vocabulary_fixed_s / costs.vocabulary_s)
    missing_nP -= per_column_s_nP * column_P + per_unit_s_nP * vocabulary_s_P
    cheaper_nP = np.maximum(per_column_s_nP / layers_P, per_unit_s_nP)
    return np.maximum(0.0, missing_nP / cheaper_nP).max(axis=0)
