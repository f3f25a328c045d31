"""How quick a tensor group can be at most where memory decides on its shares, for many sizes of a stage at once.

Heads are few and are dealt out in whole numbers, in all ways; columns and vocabulary may be divided at will. For given
heads, the members' columns are limited by the time T that the slowest may take and by the memory that is left. Of
those whose memory is the limit, call them S, and any other set of members gives a bound too:

    columns <= sum over S of (room) + sum over the others of ((T - fixed seconds) / seconds of a column)

which is a bound on T. The sets tried are those of the members that run out of memory first. Vocabulary is handled
likewise: where there is no room for both, it is columns or vocabulary that take longer, whichever costs less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.planner.search.problem import Bools, Floats, Ints
from shoal.planner.search.shares.head_deals import all_deals

_ROUNDING = 1e-12
"""Part of a sum of sizes that may be lost in doubles."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pieces:
    """What a layer and the ends of a model are cut into. Shapes: N sizes of a stage."""

    num_heads: int
    num_columns: int
    num_vocabulary: int
    """0: the stage has no vocabulary"""
    head_bytes: Ints
    """[N] of a head in all layers of the stage"""
    column_bytes: Ints
    """[N] likewise"""
    vocabulary_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemberCosts:
    """Seconds of each member. Shapes: [n] members."""

    head_s: Floats
    """of a head of one layer"""
    head_fixed_s: Floats
    """of any heads of one layer"""
    column_s: Floats
    """of a column of one layer, above 0"""
    column_fixed_s: Floats
    """of any columns of one layer"""
    vocabulary_s: Floats
    """of a piece of the vocabulary, above 0 unless all of it takes no time"""
    vocabulary_fixed_s: Floats
    """of any vocabulary"""
    memory_bytes: Ints


def least_seconds(costs: MemberCosts, pieces: Pieces, num_layers: Ints, *, vocabulary_s: float) -> Floats:
    """[N]: no shares that fit are quicker; infinite where none fit.

    Shapes: N sizes of a stage, X ways to deal out heads, n members.

    Args:
        costs: of the members.
        pieces: to be dealt out; the ways to deal out the heads `are_few`.
        num_layers: [N].
        vocabulary_s: the slowest member's vocabulary takes at least that; 0: it takes no time.
    """
    heads_Xn = all_deals(pieces.num_heads, len(costs.memory_bytes))
    attention_X = np.where(heads_Xn > 0, costs.head_fixed_s + heads_Xn * costs.head_s, 0.0).max(axis=1)
    rooms = _Rooms.of(costs, pieces, heads_Xn)
    column_NX = np.maximum((costs.column_fixed_s + costs.column_s).max(), _column_seconds(costs, pieces, rooms))
    least_NX = num_layers[:, np.newaxis] * (attention_X + column_NX) + vocabulary_s
    if vocabulary_s > 0:
        least_NX += _extra_seconds(costs, pieces, rooms, num_layers, column_NX, vocabulary_s)
    return np.where(rooms.suffice(pieces), least_NX, np.inf).min(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rooms:
    """What memory is left for beside the heads. Shapes: N sizes of a stage, X ways to deal out heads, n members."""

    columns_NXn: Ints
    """with one piece of the vocabulary at least"""
    all_NXn: Floats
    """columns with none, parts of them included"""
    unit_N1: Floats
    """columns that take as much memory as a piece of the vocabulary; 0 where there is none"""
    first_full_NXn: Ints
    """members in the order in which they run out of memory"""

    @staticmethod
    def of(costs: MemberCosts, pieces: Pieces, heads_Xn: Ints) -> _Rooms:
        free_NXn = costs.memory_bytes - pieces.head_bytes[:, np.newaxis, np.newaxis] * heads_Xn
        column_bytes_N = np.maximum(1, pieces.column_bytes)
        unit_bytes = pieces.vocabulary_bytes if pieces.num_vocabulary else 0
        columns_NXn = (free_NXn - unit_bytes) // column_bytes_N[:, np.newaxis, np.newaxis]
        columns_NXn = np.minimum(columns_NXn, pieces.num_columns)
        return _Rooms(
            columns_NXn=columns_NXn,
            all_NXn=free_NXn / column_bytes_N[:, np.newaxis, np.newaxis],
            unit_N1=(unit_bytes / column_bytes_N)[:, np.newaxis],
            first_full_NXn=np.argsort(costs.column_fixed_s + costs.column_s * columns_NXn, axis=2),
        )

    def suffice(self, pieces: Pieces) -> Bools:
        """[N, X]: whether there is room for everything, if vocabulary may be divided at will."""
        for_columns_NX = self.columns_NXn.sum(axis=2) >= pieces.num_columns
        for_all_NX = self.all_NXn.sum(axis=2) >= self.needed_N1(pieces)
        return (self.columns_NXn >= 1).all(axis=2) & for_columns_NX & for_all_NX

    def needed_N1(self, pieces: Pieces) -> Floats:
        """In columns, for everything; a little less, lest it be rounded up."""
        return (pieces.num_columns + self.unit_N1 * pieces.num_vocabulary) * (1 - _ROUNDING)

    def of_full(self, values_NXn: Floats | Ints) -> Floats:
        """[N, X, n]: the sum over no members, over the first that runs out of memory, the first two, ... not all."""
        in_order_NXn = np.take_along_axis(values_NXn, self.first_full_NXn, axis=2)
        sums_NXn = np.zeros(in_order_NXn.shape)
        np.cumsum(in_order_NXn[:, :, :-1], axis=2, out=sums_NXn[:, :, 1:])
        return sums_NXn

    def of_others(self, values_n: Floats) -> Floats:
        """[N, X, n]: the sum over the other members."""
        return np.cumsum(values_n[self.first_full_NXn][:, :, ::-1], axis=2)[:, :, ::-1]


def _column_seconds(costs: MemberCosts, pieces: Pieces, rooms: _Rooms) -> Floats:
    """[N, X]: the slowest member's columns of one layer take at least that."""
    missing_NXn = pieces.num_columns - rooms.of_full(rooms.columns_NXn)
    missing_NXn += rooms.of_others(costs.column_fixed_s / costs.column_s)
    return (missing_NXn / rooms.of_others(1 / costs.column_s)).max(axis=2)


def _extra_seconds(
    costs: MemberCosts, pieces: Pieces, rooms: _Rooms, num_layers: Ints, column_NX: Floats, vocabulary_s: float
) -> Floats:
    """[N, X]: what columns of all layers and vocabulary take more because they share the memory.

    Args:
        costs, pieces, rooms, num_layers: see `least_seconds`.
        column_NX: seconds that the columns of one layer take at least.
        vocabulary_s: and the vocabulary.
    """
    per_column_s_NXn = rooms.of_others(1 / costs.column_s)
    per_unit_s_NXn = rooms.unit_N1[:, np.newaxis] * rooms.of_others(1 / costs.vocabulary_s)
    missing_NXn = rooms.needed_N1(pieces)[:, np.newaxis] - rooms.of_full(rooms.all_NXn)
    missing_NXn += rooms.of_others(costs.column_fixed_s / costs.column_s)
    missing_NXn += rooms.unit_N1[:, np.newaxis] * rooms.of_others(costs.vocabulary_fixed_s / costs.vocabulary_s)
    missing_NXn -= per_column_s_NXn * column_NX[:, :, np.newaxis] + per_unit_s_NXn * vocabulary_s
    cheaper_NXn = np.maximum(per_column_s_NXn / num_layers[:, np.newaxis, np.newaxis], per_unit_s_NXn)
    return np.maximum(0.0, missing_NXn / cheaper_NXn).max(axis=2)
