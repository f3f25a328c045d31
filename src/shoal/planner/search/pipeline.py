"""One replica: its stages in order, its streams, and its times.

n streams form m = min(stages, n) micro-batches of r = ceil(n / m) rows. A wave of one of them passes all stages and
hops one after the other, so no micro-batch returns sooner than their sum; and the slowest stage or hop serves all m.
The period in which every stream advances by a wave is therefore at least max(sum, m * longest), and a schedule that
starts a micro-batch as soon as its stage is free reaches it.
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
    """The first block after the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A replica under a load, with its times."""

    stages: tuple[PlacedStage, ...]
    used: tuple[int, ...]
    """Used workers of each class."""
    num_streams: int
    """Concurrent requests."""
    num_micro_batches: int
    rows: int
    """Rows of a micro-batch; the last one may have fewer."""
    sum_s: float
    """Seconds of a wave through all stages and hops."""
    longest_s: float
    """Seconds of the slowest stage or hop."""

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
    """The number of micro-batches, one per stage if there are enough streams, and the rows of each."""
    num_micro_batches = min(num_stages, num_streams)
    return num_micro_batches, -(-num_streams // num_micro_batches)


def timed_pipeline(problem: ReplicaProblem, stages: Sequence[PlacedStage], num_streams: int) -> Pipeline:
    """The pipeline of these stages with its times for so many streams, >= 1; times are infinite if they do not fit."""
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
