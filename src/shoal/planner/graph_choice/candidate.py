"""A candidate split of a graph, with its predicted speed.

Every replica has as many micro-batches in flight as stages, so its slowest stage sets the pace:

    period = max over stages of (computing + bytes in and out / bandwidth) + a worker's turn between two micro-batches
    rows/s = replicas * rows of a micro-batch / period

The time of a stage is its nodes' part of the measured time of the whole graph; the time of a shard of it is scaled by
what shards of the whole graph were measured to take.
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
    """The predicted speed of a split."""

    rows_per_s: float
    """Rows per second with as many micro-batches in flight as all replicas have stages."""
    latency_s: float
    """Seconds of a single micro-batch without others."""
    loaded_latency_s: float
    """Seconds of a micro-batch when so many are in flight."""
    memory_bytes: tuple[int, ...]
    """Bytes of weights of each worker, replica by replica, stage by stage, rank by rank."""
    bottleneck: str
    """What limits the slowest stage, in words."""

    def score(self, goal: Goal) -> float:
        """The score by a goal; higher is better."""
        return goal.score(self.rows_per_s, self.latency_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphCandidate:
    """A complete plan for a graph, except the names of tensors and the cores."""

    spec: SplitSpec
    threads: int
    """Compute threads of each worker."""
    boundaries: tuple[int, ...]
    """The first node of each stage but the first."""
    stage_s: tuple[float, ...]
    """Seconds of computing of each stage while all workers compute."""
    prediction: RowPrediction

    @property
    def kind(self) -> Kind:
        """The kind of split."""
        return kind_of_spec(self.spec)

    @property
    def split(self) -> str:
        """The split in the notation of `--split`."""
        return str(self.spec)

    @property
    def num_workers(self) -> int:
        """Workers of all replicas."""
        return self.spec.num_workers

    @property
    def loaded_s(self) -> float:
        """Seconds of a micro-batch while all workers are busy."""
        return self.prediction.loaded_latency_s

    def score(self, goal: Goal) -> float:
        """The score by a goal; higher is better."""
        return self.prediction.score(goal)


def kind_of_spec(spec: SplitSpec) -> Kind:
    """The kind of a split."""
    return kind_of_split(num_replicas=spec.num_replicas, is_cut=spec.num_stages > 1, is_sharded=spec.num_shards > 1)


def make_candidate(
    speeds: GraphSpeeds, layout: LayoutSpeed, spec: SplitSpec, boundaries: tuple[int, ...], shard: ShardSpeed = _WHOLE
) -> GraphCandidate:
    """Make the candidate of a split over all workers of a layout.

    Args:
        speeds: the measured speeds of the graph.
        layout: a layout with as many workers as `spec`.
        spec: the split.
        boundaries: the first node of each stage but the first.
        shard: the speed of a stage with `spec.num_shards` shards.
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
    """Seconds of each stage for computing, receiving and sending. A busy worker need not wake up for a message, so the
    latency of hops is left out."""
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
