"""One way to split a graph, and what is predicted of it.

Every replica has as many micro-batches under way as it has stages, so that its slowest stage decides:

    period = max over stages of (computing + bytes in and out / bandwidth) + a worker's turn between two micro-batches
    rows/s = replicas * rows of a micro-batch / period

A stage computes its nodes' part of the measured whole; a shard of it what shards of the whole graph were measured to
compute, in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from shoal.planner.choice.goal import Goal
from shoal.planner.choice.kinds import Kind, kind_of_split
from shoal.planner.graph_choice.speeds import GraphSpeeds, LayoutSpeed, ShardSpeed
from shoal.planner.graph_cut import LINK
from shoal.planner.split.split_spec import SplitSpec

_WHOLE = ShardSpeed(relative=1.0, weight_share=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPrediction:
    """What a split is expected to reach."""

    rows_per_s: float
    """with as many micro-batches under way as there are stages and copies"""
    latency_s: float
    """of one micro-batch alone"""
    loaded_latency_s: float
    """of one among so many"""
    memory_bytes: tuple[int, ...]
    """weights of every worker, replica by replica, stage by stage"""
    bottleneck: str
    """what the slowest stage waits for, in words"""

    def score(self, goal: Goal) -> float:
        """How good it is; the higher the better."""
        return goal.score(self.rows_per_s, self.latency_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCandidate:
    """A whole plan for one graph, but for the names of tensors and cores."""

    spec: SplitSpec
    threads: int
    """of each worker"""
    boundaries: tuple[int, ...]
    """nodes with which stages begin, the first stage's left out"""
    stage_s: tuple[float, ...]
    """computing of each stage, while all workers compute"""
    prediction: RowPrediction

    @property
    def kind(self) -> Kind:
        """Which kind of split it is."""
        return kind_of_spec(self.spec)

    @property
    def split(self) -> str:
        """The split as `--split` says it."""
        return str(self.spec)

    @property
    def num_workers(self) -> int:
        """Workers of all replicas."""
        return self.spec.num_workers

    @property
    def loaded_s(self) -> float:
        """Seconds of a micro-batch among as many as keep all workers busy."""
        return self.prediction.loaded_latency_s

    def score(self, goal: Goal) -> float:
        """How good it is; the higher the better."""
        return self.prediction.score(goal)


def kind_of_spec(spec: SplitSpec) -> Kind:
    """One word for a split."""
    return kind_of_split(num_replicas=spec.num_replicas, is_cut=spec.num_stages > 1, is_sharded=spec.num_shards > 1)


def make_candidate(
    speeds: GraphSpeeds, layout: LayoutSpeed, spec: SplitSpec, boundaries: tuple[int, ...], shard: ShardSpeed = _WHOLE
) -> GraphCandidate:
    """A split over all workers of a layout.

    Args:
        speeds: of the graph.
        layout: with as many workers as `spec` has.
        spec: the split.
        boundaries: one for each stage but the first.
        shard: of a stage with `spec.num_shards` shards.
    """
    node_s = speeds.node_s.get(layout.threads, ())
    edges = (0, *boundaries, len(node_s))
    parts = [sum(node_s[first:last]) / sum(node_s) for first, last in pairwise(edges)] if boundaries else [1.0]
    stage_s = tuple(part * layout.compute_s * shard.relative for part in parts)
    moved_s = [LINK.seconds(num_bytes) for num_bytes in _crossing_bytes(speeds, boundaries)]
    loads_s = _loads_s(stage_s, moved_s)
    period_s = max(loads_s) + layout.turn_s
    alone_s = layout.lone_compute_s if spec.num_shards == 1 else layout.compute_s * shard.relative
    return GraphCandidate(
        spec=spec,
        threads=layout.threads,
        boundaries=boundaries,
        stage_s=stage_s,
        prediction=RowPrediction(
            rows_per_s=spec.num_replicas * speeds.rows / period_s,
            latency_s=alone_s + layout.message_s + sum(moved_s),
            loaded_latency_s=max(len(stage_s) * period_s, alone_s + layout.message_s + sum(moved_s)),
            memory_bytes=_memory_bytes(speeds, spec, boundaries, shard),
            bottleneck=_bottleneck(loads_s, layout.turn_s, spec),
        ),
    )


def _crossing_bytes(speeds: GraphSpeeds, boundaries: Sequence[int]) -> list[int]:
    crossing = {place.node: place.num_bytes for place in speeds.places}
    return [crossing[node] for node in boundaries]


def _loads_s(stage_s: Sequence[float], moved_s: Sequence[float]) -> list[float]:
    """Computing, taking in and handing on: a worker does all of it. Waking up for a hop it need not, being busy."""
    carried_s = [0.0, *(seconds - LINK.latency_s for seconds in moved_s), 0.0]
    return [own_s + carried_s[index] + carried_s[index + 1] for index, own_s in enumerate(stage_s)]


def _memory_bytes(
    speeds: GraphSpeeds, spec: SplitSpec, boundaries: Sequence[int], shard: ShardSpeed
) -> tuple[int, ...]:
    own = 1.0 - shard.weight_share * (1.0 - 1.0 / spec.num_shards)
    edges = (0, *boundaries, speeds.num_nodes)
    stages = [round(own * speeds.weight_bytes(first, last)) for first, last in pairwise(edges)]
    return tuple(size for _ in range(spec.num_replicas) for size in stages for _ in range(spec.num_shards))


def _bottleneck(loads_s: Sequence[float], turn_s: float, spec: SplitSpec) -> str:
    if turn_s > max(loads_s):
        return "messages between the head and the workers"
    doing = "computing" if spec.num_shards == 1 else "computing and summing"
    return doing if len(loads_s) == 1 else f"{doing} in stage {loads_s.index(max(loads_s))}"
