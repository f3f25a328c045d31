"""Unequal shares of a tensor group: how many heads, columns and vocabulary pieces each member gets.

Attention, MLP and head each wait for their slowest member, so a stage takes the sum of three maxima. Without memory
limits the three are independent and each is solved greedily, piece by piece (`deal`); with equal fixed costs that is
D'Hondt's rule, as in `core.plan.share_rounding`. If these shares do not fit, memory couples the three. There are few
heads, so without vocabulary all ways to divide them are tried, and for each the columns are divided greedily within the
remaining memory. Otherwise a small integer program decides (three whole numbers per member): HiGHS, exact except for
its tolerance of a millionth of the memory, and about 100 times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shoal.arrays import F64, I64
from shoal.planner.search.highs import least_cost
from shoal.planner.search.shares.deal import deal
from shoal.planner.search.shares.head_deals import all_deals, are_few

_MARGIN = 1e-6
"""The share of memory that is set aside if HiGHS' rounded answer exceeds it; HiGHS' feasibility tolerance."""


Deal = Callable[..., tuple[int, ...]]
"""`deal`, or a cached form of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker of a tensor group, for one stage. Times are in any unit, for one layer or for all."""

    head_s: float
    """Time of attention per head atom."""
    head_fixed_s: float
    """Fixed time of attention of a member that has any heads."""
    column_s: float
    """Time of the MLP per column atom."""
    column_fixed_s: float
    """Fixed time of the MLP of every member."""
    head_bytes: int
    """Bytes of a head atom in all layers of the stage: weights and KV."""
    column_bytes: int
    """Bytes of a column atom in all layers of the stage."""
    memory_bytes: int
    """Memory for all of its atoms."""
    vocabulary_s: float = 0.0
    """Time of embedding or head per vocabulary atom."""
    vocabulary_fixed_s: float = 0.0
    """Fixed time of embedding or head of every member, if the stage has one."""
    vocabulary_bytes: int = 0
    """Bytes of a vocabulary atom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShares:
    """The atoms that each member gets."""

    heads: tuple[int, ...]
    """Head atoms; 0 for a member without attention."""
    columns: tuple[int, ...]
    vocabulary: tuple[int, ...]
    """Vocabulary atoms; all 0 if the stage has no vocabulary."""
    seconds: float
    """Time of the slowest attention, the slowest MLP and the slowest vocabulary part, summed."""


def roomy_shares(members: Sequence[Member], totals: tuple[int, int, int], *, deal: Deal = deal) -> GroupShares | None:
    """The shares with the least time without memory limits; None if there are too few atoms.

    Args:
        members: the members, at least one.
        totals: atoms of heads, columns and vocabulary, as for `best_group_shares`.
        deal: `deal`, or a cached form of it.
    """
    num_heads, num_columns, num_vocabulary = totals
    if num_columns < len(members) or 0 < num_vocabulary < len(members):
        return None
    heads = deal(num_heads, tuple((member.head_s, member.head_fixed_s) for member in members), at_least=0)
    columns = deal(num_columns, tuple((member.column_s, member.column_fixed_s) for member in members), at_least=1)
    rows = tuple((member.vocabulary_s, member.vocabulary_fixed_s) for member in members)
    vocabulary = deal(num_vocabulary, rows, at_least=min(1, num_vocabulary))
    return _timed(members, heads, columns, vocabulary)


def best_group_shares(
    members: Sequence[Member], *, num_heads: int, num_columns: int, num_vocabulary: int = 0
) -> GroupShares | None:
    """The shares with the least time; None if memory does not suffice or there are too few atoms.

    Args:
        members: the members, at least one.
        num_heads: all head atoms; a member may have any number of them.
        num_columns: all column atoms; every member gets at least one.
        num_vocabulary: all vocabulary atoms; every member gets at least one. 0: the stage has none.
    """
    totals = (num_heads, num_columns, num_vocabulary)
    shares = roomy_shares(members, totals)
    if shares is None or fits(members, shares):
        return shares
    if num_vocabulary == 0 and are_few(num_heads, len(members)):
        return _by_heads(members, num_heads, num_columns)
    for margin in (0.0, _MARGIN):
        counts = _solve(members, totals, memory_part=1 - margin)
        if counts is None:
            return None
        shares = _timed(members, *counts)
        if fits(members, shares):
            return shares
    return None


def _by_heads(members: Sequence[Member], num_heads: int, num_columns: int) -> GroupShares | None:
    """Try all ways to divide the heads. Shapes: X ways, n members."""
    heads_Xn = all_deals(num_heads, len(members))
    free_Xn = np.array([member.memory_bytes for member in members]) - heads_Xn * [m.head_bytes for m in members]
    room_Xn = np.minimum(free_Xn // [max(1, member.column_bytes) for member in members], num_columns)
    room_Xn = np.where((np.array([m.column_bytes for m in members]) == 0) & (free_Xn >= 0), num_columns, room_Xn)
    possible = (room_Xn >= 1).all(axis=1) & (room_Xn.sum(axis=1) >= num_columns)
    heads_Xn, room_Xn = heads_Xn[possible], room_Xn[possible]
    if not len(heads_Xn):
        return None
    attention_Xn = heads_Xn * [member.head_s for member in members] + [member.head_fixed_s for member in members]
    attention_s = np.where(heads_Xn > 0, attention_Xn, 0.0).max(axis=1)
    way = int((attention_s + _column_seconds(members, room_Xn, num_columns)).argmin())
    costs = tuple((member.column_s, member.column_fixed_s) for member in members)
    columns = deal(num_columns, costs, at_least=1, caps=tuple(room_Xn[way].tolist()))
    return _timed(members, tuple(heads_Xn[way].tolist()), columns, (0,) * len(members))


def _column_seconds(members: Sequence[Member], room_Xn: I64, num_columns: int) -> F64:
    """[X]: time of the slowest MLP if each column goes to the member that would finish first and has room."""
    counts: I64 = np.arange(1, num_columns + 1)
    each_s: F64 = np.array([m.column_fixed_s + m.column_s * counts for m in members], np.float64)
    levels: F64 = np.unique(each_s)
    done_Tn: I64 = np.stack([np.searchsorted(each_s[index], levels, "right") for index in range(len(members))], axis=1)
    low = np.full(len(room_Xn), int(np.searchsorted(levels, float(each_s[:, 0].max()))))  # every member has one
    high = np.full(len(room_Xn), len(levels) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        enough = np.minimum(room_Xn, done_Tn[middle]).sum(axis=1) >= num_columns
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return levels[low]


def _timed(
    members: Sequence[Member], heads: tuple[int, ...], columns: tuple[int, ...], vocabulary: tuple[int, ...]
) -> GroupShares:
    pairs = zip(members, heads, strict=True)
    attention_s = max(member.head_fixed_s + member.head_s * count if count else 0.0 for member, count in pairs)
    pairs = zip(members, columns, strict=True)
    mlp_s = max(member.column_fixed_s + member.column_s * count for member, count in pairs)
    pairs = zip(members, vocabulary, strict=True)
    ends_s = max(member.vocabulary_fixed_s + member.vocabulary_s * count if count else 0.0 for member, count in pairs)
    seconds = float(attention_s + mlp_s + ends_s)
    return GroupShares(heads=heads, columns=columns, vocabulary=vocabulary, seconds=seconds)


def fits(members: Sequence[Member], shares: GroupShares) -> bool:
    """Whether each member's memory holds its share."""
    return all(
        heads * member.head_bytes + columns * member.column_bytes + rows * member.vocabulary_bytes
        <= member.memory_bytes
        for member, heads, columns, rows in zip(members, shares.heads, shares.columns, shares.vocabulary, strict=True)
    )


def _solve(
    members: Sequence[Member], totals: tuple[int, int, int], *, memory_part: float
) -> tuple[tuple[int, ...], ...] | None:
    """The integer program. Variables: heads, columns, vocabulary and "has heads" of each member, then three maxima."""
    n = len(members)
    scale = max(member.column_fixed_s + member.column_s * totals[1] for member in members) or 1.0
    parts = [
        ([member.head_s / scale for member in members], [member.head_fixed_s / scale for member in members]),
        ([member.column_s / scale for member in members], [member.column_fixed_s / scale for member in members]),
        (
            [member.vocabulary_s / scale for member in members],
            [member.vocabulary_fixed_s / scale for member in members],
        ),
    ]
    sizes = [
        [member.head_bytes, member.column_bytes, member.vocabulary_bytes, max(member.memory_bytes, 1)]
        for member in members
    ]
    rows: list[F64] = []
    lows: list[float] = []
    highs: list[float] = []

    def require(low: float, high: float, **terms: dict[int, float]) -> None:
        row = np.zeros(4 * n + 3)
        for index, factor in terms["terms"].items():
            row[index] = factor
        rows.append(row)
        lows.append(low)
        highs.append(high)

    for kind, total in enumerate(totals):
        require(total, total, terms={kind * n + i: 1.0 for i in range(n)})
        each, fixed = parts[kind]
        for i in range(n):
            terms = {kind * n + i: each[i], 4 * n + kind: -1.0}
            if kind == 0:
                terms[3 * n + i] = fixed[i]
            require(-np.inf, -fixed[i] if kind == 1 or (kind == 2 and total) else 0.0, terms=terms)
    for i in range(n):
        require(-np.inf, 0.0, terms={i: 1.0, 3 * n + i: -float(totals[0])})
        terms = {kind * n + i: sizes[i][kind] / sizes[i][3] for kind in range(3)}
        require(-np.inf, members[i].memory_bytes / sizes[i][3] * memory_part, terms=terms)
    at_least = np.array([0] * n + [1] * n + [min(1, totals[2])] * n + [0] * (n + 3), np.float64)
    at_most = np.array([totals[0]] * n + [totals[1]] * n + [totals[2]] * n + [1] * n + [np.inf] * 3)
    values = least_cost(
        np.array([0.0] * (4 * n) + [1.0] * 3),
        rows=(np.array(rows), np.array(lows), np.array(highs)),
        bounds=(at_least, at_most),
        whole=np.array([1] * (4 * n) + [0] * 3),
        relative_gap=0.0,
    )
    if values is None:
        return None
    counts = [int(count) for count in np.rint(values[: 3 * n])]
    return tuple(counts[:n]), tuple(counts[n : 2 * n]), tuple(counts[2 * n :])
