"""Groups of workers that may hold a stage: single workers, and tensor groups of several."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

from shoal.core.collectives import MAX_RANKS
from shoal.protocol.stage_config import Precision

_MOST_MIXED_GROUPS = 260
"""All groups of unlike workers are tried if there are at most this many: the subsets of 8 different workers."""
_LIKE_SIZES = (2, 3, 4, 6, 8, 12, 16)
"""Sizes of groups of like workers if the fleet is too large to try every mix. Source: the sizes that engines with even
splits offer, and thirds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The workers that hold a stage, by class, and the precision of its matrices."""

    members: tuple[int, ...]
    """The class of each rank, ascending."""
    precision: Precision
    deals_experts: bool = False
    """Whether whole experts are divided among the members, instead of columns."""

    @property
    def is_single(self) -> bool:
        return len(self.members) == 1

    def used(self, num_classes: int) -> tuple[int, ...]:
        """The number of workers of each class in the group."""
        return tuple(self.members.count(index) for index in range(num_classes))


def make_groups(
    counts: Sequence[int],
    precisions: Sequence[Precision],
    *,
    max_shards: int,
    max_expert_shards: int = 0,
    whole_only: Collection[int] = (),
) -> tuple[Group, ...]:
    """List single workers first, then groups by size, each at every precision.

    Args:
        counts: workers of each class.
        precisions: the precisions that a stage may have.
        max_shards: the most shards of the model.
        max_expert_shards: the most shards among which its experts can be divided; 0: it has none.
        whole_only: classes whose workers take no shards.
    """
    singles: Iterator[tuple[int, ...]] = ((index,) for index in range(len(counts)))
    sharing = [0 if index in whole_only else count for index, count in enumerate(counts)]
    members = [*singles, *_tensor_groups(sharing, min(max_shards, MAX_RANKS))]
    dealt = _tensor_groups(sharing, min(max_expert_shards, MAX_RANKS))
    ways = [*((group, False) for group in members), *((group, True) for group in dealt)]
    return tuple(
        Group(members=group, precision=precision, deals_experts=deals)
        for group, deals in ways
        for precision in precisions
    )


def _tensor_groups(counts: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    num_workers, num_classes = sum(counts), len(counts)
    sizes = range(2, min(num_workers, limit) + 1)
    if sum(comb(num_classes + size - 1, size) for size in sizes) > _MOST_MIXED_GROUPS:
        for size in _LIKE_SIZES:
            for index, count in enumerate(counts):
                if size <= min(count, limit):
                    yield (index,) * size
        return
    for size in sizes:
        for group in combinations_with_replacement(range(num_classes), size):
            if all(group.count(index) <= counts[index] for index in group):
                yield group
