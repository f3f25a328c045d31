"""Random models and fleets for the planner's search: seeded, so that a failing one can be looked at again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement

import numpy as np

from shoal.arrays import F64
from shoal.planner.search.problem import ReplicaProblem, StageTimes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RandomFleet:
    """What a random problem is made of. Shapes: G groups, L blocks."""

    block_s: F64
    """[L]: seconds of each block on a worker of speed 1 and for one row"""
    block_bytes: F64
    """[L]"""
    speeds: F64
    """[G]"""
    memory_bytes: F64
    """[G]"""
    fixed_s: F64
    """[G]: of every stage, whatever its blocks"""
    rows_share: F64
    """[G]: part of a block's time that grows with the rows"""
    hop_s: F64
    """[G, G]: for one row; infinite: no link"""
    row_bytes: float
    """of each block, for every row that it works on: KV memory"""

    def times(self, rows: int) -> StageTimes:
        """Seconds of all stages at so many rows."""
        sum_s = np.concatenate([[0.0], np.cumsum(self.block_s)])
        sum_bytes = np.concatenate([[0.0], np.cumsum(self.block_bytes + self.row_bytes * rows)])
        stage_s, stage_bytes = (sums[np.newaxis, :] - sums[:, np.newaxis] for sums in (sum_s, sum_bytes))
        slower = (1 - self.rows_share + self.rows_share * rows) / self.speeds
        work_s = self.fixed_s[:, np.newaxis, np.newaxis] + stage_s * slower[:, np.newaxis, np.newaxis]
        fits = (stage_bytes <= self.memory_bytes[:, np.newaxis, np.newaxis]) & ~np.tri(len(sum_s), dtype=np.bool_)
        return StageTimes(work_s=np.where(fits, work_s, np.inf), hop_s=self.hop_s * (0.5 + 0.5 * rows))


def random_problem(
    seed: int,
    *,
    counts: Sequence[int],
    num_blocks: int,
    group_size: int = 2,
    hop_share: float = 0.0005,
    dead_links: float = 0.0,
    memory_share: float = 0.5,
    even_blocks: bool = True,
) -> ReplicaProblem:
    """Workers of unequal speed and memory, tensor groups of like and unlike ones, links of unequal speed.

    Args:
        seed: of everything random.
        counts: workers of each class.
        num_blocks: of the model; the first and the last are dearer, as if they had the embedding and the head.
        group_size: of the largest tensor group.
        hop_share: mean hop, as a part of the whole model's time on a worker of speed 1.
        dead_links: part of the pairs of classes that have none.
        memory_share: mean memory of a worker, as a part of the whole model.
        even_blocks: all other blocks alike; otherwise each has a size of its own.
    """
    rng = np.random.default_rng(seed)
    sizes = np.ones(num_blocks) if even_blocks else rng.uniform(0.2, 2.0, num_blocks)
    sizes[0] += rng.uniform(0, 0.5)
    sizes[-1] += rng.uniform(0, 3)
    speeds = rng.choice([1.0, 1.5, 2.0, 4.0, 8.0], len(counts)) * rng.uniform(0.8, 1.2, len(counts))
    memory_bytes = memory_share * sizes.sum() * rng.choice([0.25, 0.5, 1.0, 2.0], len(counts))
    groups = _groups(counts, group_size)
    of_group = [np.repeat(np.arange(len(counts)), group) for group in groups]
    link_s = hop_share * sizes.sum() * rng.uniform(0.1, 2.0, (len(counts), len(counts)))
    link_s[rng.uniform(size=link_s.shape) < dead_links] = np.inf
    hop_s = np.array([[link_s[np.ix_(one, other)].max() for other in of_group] for one in of_group])
    fleet = RandomFleet(
        block_s=sizes,
        block_bytes=sizes,
        speeds=np.array([speeds[workers].sum() * 0.8 ** (len(workers) - 1) for workers in of_group]),
        memory_bytes=np.array([memory_bytes[workers].sum() for workers in of_group]),
        fixed_s=rng.uniform(0.0, 0.3, len(groups)),
        rows_share=rng.uniform(0.1, 0.9, len(groups)),
        hop_s=hop_s,
        row_bytes=0.01 * float(rng.uniform()),
    )
    return ReplicaProblem(num_blocks=num_blocks, counts=tuple(counts), groups=groups, times=cache(fleet.times))


def _groups(counts: Sequence[int], group_size: int) -> tuple[tuple[int, ...], ...]:
    """All multisets of workers up to a size for which there are workers: one, two, ..."""
    groups: list[tuple[int, ...]] = []
    for size in range(1, group_size + 1):
        for classes in combinations_with_replacement(range(len(counts)), size):
            group = tuple(classes.count(index) for index in range(len(counts)))
            if all(use <= count for use, count in zip(group, counts, strict=True)):
                groups.append(group)
    return tuple(groups)


def small_problem(seed: int) -> ReplicaProblem:
    """One to six workers in one to six classes and one to twelve blocks: small enough for every plan to be tried."""
    rng = np.random.default_rng(seed)
    num_workers = int(rng.integers(1, 7))
    classes = rng.integers(0, rng.integers(1, num_workers + 1), num_workers)
    counts = [int(np.sum(classes == index)) for index in np.unique(classes)]
    return random_problem(
        seed,
        counts=counts,
        num_blocks=int(rng.integers(1, 13)),
        group_size=int(rng.integers(1, 4)) if num_workers < 6 else int(rng.integers(1, 3)),
        hop_share=float(rng.choice([0.0, 0.001, 0.02, 0.1])),
        dead_links=float(rng.choice([0.0, 0.3])),
        memory_share=float(rng.choice([0.4, 1.0, 10.0])),
        even_blocks=bool(rng.integers(2)),
    )


def mixed_fleet(counts: Sequence[int], *, seed: int = 0, group_size: int = 2) -> ReplicaProblem:
    """Up to eight classes from 8 GB cards to 80 GB ones, a model of 80 layers and 42 GB, links of 10 Gbit/s.

    A wave is 64 outputs: for each, the weights are read once and every row costs arithmetic. 4 MB of KV memory for a
    stream in a layer. The figures are round ones, varied by up to a fifth with the seed.
    """
    rng = np.random.default_rng(seed)
    memory_gb = np.array([8.0, 12.0, 16.0, 24.0, 24.0, 48.0, 64.0, 80.0])[: len(counts)]
    gb_per_s = np.array([100.0, 360.0, 450.0, 930.0, 300.0, 860.0, 400.0, 2000.0])[: len(counts)]
    gb_per_s = gb_per_s * rng.uniform(0.8, 1.2, len(counts))
    block_gb = np.full(80, 0.5)
    block_gb[[0, -1]] += 1.0
    groups = _groups(counts, group_size)
    of_group = [np.repeat(np.arange(len(counts)), group) for group in groups]
    rate = np.array([gb_per_s[workers].sum() * 0.85 ** (len(workers) - 1) for workers in of_group])
    memory = np.array([0.9 * memory_gb[workers].sum() for workers in of_group])
    sum_gb = np.concatenate([[0.0], np.cumsum(block_gb)])

    def times(rows: int) -> StageTimes:
        before = np.arange(len(sum_gb))
        num_blocks = before[np.newaxis, :] - before[:, np.newaxis]
        stage_gb = sum_gb[np.newaxis, :] - sum_gb[:, np.newaxis]
        work_s = 64 * (2e-4 + stage_gb * (1 + 0.05 * rows) / rate[:, np.newaxis, np.newaxis])
        fits = (stage_gb + num_blocks * 0.004 * rows <= memory[:, np.newaxis, np.newaxis]) & (num_blocks > 0)
        hop_s = np.full((len(groups), len(groups)), 64 * (1e-4 + rows * 16e3 / 1.25e9))
        return StageTimes(work_s=np.where(fits, work_s, np.inf), hop_s=hop_s)

    return ReplicaProblem(num_blocks=80, counts=tuple(counts), groups=groups, times=cache(times))
