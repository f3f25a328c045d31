"""One replica: stages in order, how many streams it carries, and what that takes.

n streams travel in m = min(stages, n) micro-batches of r = ceil(n / m) rows. A wave of one of them passes all stages
and hops one after the other, so no micro-batch comes round faster than their sum; and the slowest stage or hop serves
all m. The period in which every stream advances by a wave is therefore at least max(sum, m * longest), and the
schedule that starts a micro-batch as soon as its stage is free reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from shoal.planner.search.problem import ReplicaProblem


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PlacedStage:
    """Contiguous blocks and the group that holds them."""

    group: int
    first: int
    last: int
    """exclusive"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A replica under a certain load."""

    stages: tuple[PlacedStage, ...]
    used: tuple[int, ...]
    """workers of each class"""
    num_streams: int
    """requests that it works on at once"""
    num_micro_batches: int
    rows: int
    """of a micro-batch, the last one perhaps fewer"""
    sum_s: float
    """of all stages and hops: a wave's way through"""
    longest_s: float
    """of the slowest stage or hop"""

    @property
    def period_s(self) -> float:
        """Seconds in which each stream advances by one wave."""
        return max(self.sum_s, self.num_micro_batches * self.longest_s)

    @property
    def streams_per_s(self) -> float:
        return self.num_streams / self.period_s

    @property
    def num_workers(self) -> int:
        return sum(self.used)


def micro_batches(num_stages: int, num_streams: int) -> tuple[int, int]:
    """How many micro-batches there are and the rows of each: as many as keep all stages busy, if there are streams."""
    num_micro_batches = min(num_stages, num_streams)
    return num_micro_batches, -(-num_streams // num_micro_batches)


def timed_pipeline(problem: ReplicaProblem, stages: Sequence[PlacedStage], num_streams: int) -> Pipeline:
    """What these stages take for so many streams; infinite where they do not fit. `num_streams`: >= 1."""
    num_micro_batches, rows = micro_batches(len(stages), num_streams)
    times = problem.times(rows)
    work_s = [times.stage_s(stage.group, stage.first, stage.last) for stage in stages]
    hops_s = [float(times.hop_s[one.group, other.group]) for one, other in pairwise(stages)]
    groups = [problem.groups[stage.group] for stage in stages]
    return Pipeline(
        stages=tuple(stages),
        used=tuple(map(sum, zip(*groups, strict=True))),
        num_streams=num_streams,
        num_micro_batches=num_micro_batches,
        rows=rows,
        sum_s=sum(work_s) + sum(hops_s),
        longest_s=max(work_s + hops_s),
    )
