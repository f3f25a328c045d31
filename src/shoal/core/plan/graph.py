"""A plan for an ONNX graph: which worker runs which nodes and where each tensor goes. Plain data.

A stage is a contiguous run of the graph's nodes in the file's (topological) order, so that tensors only ever flow
from a lower stage to a higher one. A tensor that several stages read goes straight from its producer to each of them.
The shards of a stage run the same nodes, each with its own part of the weights. All take the same inputs, and all end
with the same outputs: shard `r` of a stage takes what shard `r % size` of the producing stage hands on, and the first
shard of a stage answers the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.protocol.stage_interface import StageInterface, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAxes:
    """Along which axis each input and output of a graph holds independent rows."""

    inputs: Mapping[str, int | None]
    """None: the input is shared by all rows (a sampling rate, say)"""
    outputs: Mapping[str, int | None]
    """None: the output cannot be cut into rows"""
    rows: int | None
    """rows that every run must have, where the graph fixes them; None: any number"""

    @property
    def is_batched(self) -> bool:
        """Whether runs of several requests can be put together, or one run cut into rows."""
        return any(axis is not None for axis in self.inputs.values()) and None not in self.outputs.values()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """What became of a stage's weights and arithmetic when it was split over shards."""

    weight_bytes: int
    """of the whole stage"""
    split_weight_bytes: int
    """of these, bytes of which every shard holds only its part"""
    flops: float
    """floating-point operations of one run, as far as sizes are known, with a small size for dimensions that are not
    fixed"""
    split_flops: float
    """of these, what the shards share among them"""
    num_sums: int
    """all-reduces of one run"""
    num_gathers: int
    """all-gathers of one run"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphShardPlan(WorkerPlacement):
    """One worker: a stage's nodes, with all of their weights or a part."""

    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStagePlan(StageInterface):
    """Contiguous nodes and the workers that compute them together."""

    shards: tuple[GraphShardPlan, ...]
    """one where the stage is not split further; the order is that of the ranks in the stage's group"""
    shares: tuple[int, ...]
    """what each shard is meant to hold and compute, relative to each other"""
    split: SplitReport | None
    """None where there is one shard"""
    compute_s: float | None
    """measured seconds of its nodes for the sample run, on one worker; None where nothing was measured"""

    @property
    def interface(self) -> StageInterface:
        """What a worker needs to know of the stage."""
        return StageInterface(
            first_node=self.first_node, last_node=self.last_node, inputs=self.inputs, outputs=self.outputs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReplicaPlan:
    """A pipeline of stages that together hold the whole graph."""

    stages: tuple[GraphStagePlan, ...]

    @property
    def shards(self) -> tuple[GraphShardPlan, ...]:
        """All workers, stage by stage, rank by rank."""
        return tuple(shard for stage in self.stages for shard in stage.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRows:
    """What a plan is expected to reach when it always has enough to do."""

    rows_per_s: float
    latency_s: float
    """of one micro-batch alone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """The whole decision."""

    model: str
    """as the user named it"""
    split: str
    """canonical split, such as `dp=2,pp=3:1,tp=2`; `1` for none"""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchAxes
    replicas: tuple[GraphReplicaPlan, ...]
    shape: str = ""
    """what the graph looks like, for a person and to tell whether a stored plan belongs to a graph"""
    predicted: PredictedRows | None = None
    """None where the split was said by hand"""

    @property
    def num_workers(self) -> int:
        """Over all replicas."""
        return len(self.shards)

    @property
    def shards(self) -> tuple[GraphShardPlan, ...]:
        """All workers, replica by replica, stage by stage, rank by rank."""
        return tuple(shard for replica in self.replicas for shard in replica.shards)

    @property
    def split_report(self) -> SplitReport | None:
        """All stages of one replica together; None where no stage is split over shards."""
        reports = [stage.split for stage in self.replicas[0].stages if stage.split is not None]
        if not reports:
            return None
        return SplitReport(
            weight_bytes=sum(one.weight_bytes for one in reports),
            split_weight_bytes=sum(one.split_weight_bytes for one in reports),
            flops=sum(one.flops for one in reports),
            split_flops=sum(one.split_flops for one in reports),
            num_sums=sum(one.num_sums for one in reports),
            num_gathers=sum(one.num_gathers for one in reports),
        )
