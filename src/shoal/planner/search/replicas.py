"""How to divide a fleet's workers and streams among replicas so that all streams together advance fastest.

Small fleets are solved exactly (`partition`), others as a configuration LP with generated columns (`configuration`).
Both give an upper bound for all plans whose replicas have rows from `counts_to_try`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shoal.planner.search.configuration import Configuration, generate_columns
from shoal.planner.search.fleet_states import count_states
from shoal.planner.search.partition import best_partition
from shoal.planner.search.pipeline import Pipeline, timed_pipeline
from shoal.planner.search.problem import ReplicaProblem
from shoal.planner.search.replica import best_replica, is_exact

MAX_EXACT_STATES = 64
"""The most states with which `partition` searches until its result is proven best: six workers, all different."""
MAX_PARTITION_STATES = 256
"""The most states with which `partition` is used, with a limited number of searches: eight workers, all different."""
_MAX_SEARCHES = 64
"""The limit of searches, of a few milliseconds each. Source: `benchmarks/planner_large_models.py`, eight unlike
machines: 64 find plans up to 3 % better than 24 and stay within its goal."""
_MOST_STREAMS = 1024
"""The most streams of one replica that are tried. With so many, reading the weights no longer matters."""
_MAX_RAISES = 16
"""How many times remaining streams are given to some replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """The best set of replicas that was found."""

    pipelines: tuple[Pipeline, ...]
    """The replicas, the one with the most streams per second first; empty: nothing fits."""
    bound_streams_per_s: float
    """An upper bound on the streams per second of any plan."""

    @property
    def streams_per_s(self) -> float:
        """Streams per second of all replicas together."""
        return sum(pipeline.streams_per_s for pipeline in self.pipelines)

    @property
    def num_streams(self) -> int:
        """Streams of all replicas together."""
        return sum(pipeline.num_streams for pipeline in self.pipelines)

    @property
    def gap(self) -> float:
        """The share of the bound that was not reached; 0: proven best."""
        bound = self.bound_streams_per_s
        return (bound - self.streams_per_s) / bound if bound > 0 else 0.0


def best_replicas(problem: ReplicaProblem, num_streams: int, *, stream_counts: Sequence[int] | None = None) -> Replicas:
    """Find the best set of replicas.

    Args:
        problem: workers and times. If its `max_stages` is neither 1 nor ineffective, the bound of large fleets is
            loose.
        num_streams: the most streams of all replicas together, >= 1; a huge number if there is no limit.
        stream_counts: the streams that a replica (in large fleets: a micro-batch) may have; None: `counts_to_try`.
    """
    if num_streams == 1 and is_exact(problem):  # one stream runs on one replica, whose best is found exactly
        pipelines = [one for one in [best_replica(problem, 1)] if one is not None]
        return Replicas(pipelines=tuple(pipelines), bound_streams_per_s=sum(one.streams_per_s for one in pipelines))
    counts = counts_to_try(num_streams) if stream_counts is None else sorted(set(stream_counts))
    num_states = count_states(problem)
    if num_states <= MAX_PARTITION_STATES:
        max_searches = len(counts) * num_states if num_states <= MAX_EXACT_STATES else _MAX_SEARCHES
        pipelines, bound = best_partition(problem, num_streams, counts, max_searches=max_searches)
    else:
        pipelines, bound = _configured(problem, num_streams, counts)
    pipelines = _raised(problem, pipelines, num_streams)
    found = sum(pipeline.streams_per_s for pipeline in pipelines)
    pipelines.sort(key=lambda pipeline: (-pipeline.streams_per_s, pipeline.used, pipeline.stages))
    return Replicas(pipelines=tuple(pipelines), bound_streams_per_s=max(bound, found))


def counts_to_try(num_streams: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, ... and num_streams: from 2 on each is at most 1.5 times the one before."""
    counts = {min(num_streams, _MOST_STREAMS)}
    count = 1
    while count < min(num_streams, _MOST_STREAMS):
        counts |= {count, count * 3 // 2}
        count *= 2
    return sorted(count for count in counts if count <= num_streams)


def _configured(problem: ReplicaProblem, num_streams: int, rows: Sequence[int]) -> tuple[list[Pipeline], float]:
    compact, group_ids = problem.compact()
    configuration = Configuration(problem=compact, num_streams=num_streams)
    bound = generate_columns(configuration, rows)
    pipelines = configuration.whole()
    stages = [
        tuple(replace(stage, group=int(group_ids[stage.group])) for stage in pipeline.stages) for pipeline in pipelines
    ]
    return [replace(pipeline, stages=told) for pipeline, told in zip(pipelines, stages, strict=True)], bound


def _raised(problem: ReplicaProblem, pipelines: list[Pipeline], num_streams: int) -> list[Pipeline]:
    """Give the remaining streams to the replicas that gain most from them, all or an even part at a time."""
    pipelines = list(pipelines)
    left = num_streams - sum(pipeline.num_streams for pipeline in pipelines)
    for _ in range(_MAX_RAISES):
        parts = {left, -(-left // max(1, len(pipelines)))} if 0 < left <= _MOST_STREAMS else set[int]()
        options = [
            (raised.streams_per_s - pipeline.streams_per_s, -index, raised)
            for index, pipeline in enumerate(pipelines)
            for part in sorted(parts)
            if (raised := timed_pipeline(problem, pipeline.stages, pipeline.num_streams + part)).period_s > 0
        ]
        gain, index, raised = max(options, key=lambda option: option[:2], default=(0.0, 0, None))
        if raised is None or gain <= 0:
            break
        left -= raised.num_streams - pipelines[-index].num_streams
        pipelines[-index] = raised
    return pipelines
