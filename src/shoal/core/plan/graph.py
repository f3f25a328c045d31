"""The plan for an ONNX graph: which worker runs which nodes and where each tensor goes. Plain data.

A stage is a contiguous run of the graph's nodes in the file's (topological) order, so tensors always flow from a lower
stage to a higher one. A tensor that several stages read goes straight from its producer to each of them.

The shards of a stage run the same nodes, each with its own part of the weights. All have the same inputs and the same
outputs: shard `r` of a stage receives from shard `r % size` of the producing stage, and the first shard of a stage
answers the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shoal.core.plan.placement import WorkerPlacement
from shoal.protocol.stage_interface import StageInterface, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAxes:
    """The axis along which each input and output of a graph holds independent rows."""

    inputs: Mapping[str, int | None]
    """Batch axis of each input; None: the input is shared by all rows (a sampling rate, for example)."""
    outputs: Mapping[str, int | None]
    """Batch axis of each output; None: the output cannot be divided into rows."""
    rows: int | None
    """The number of rows that the graph requires in every run; None: any number."""

    @property
    def is_batched(self) -> bool:
        """Whether several requests can share a run, and one request can be divided into rows."""
        return any(axis is not None for axis in self.inputs.values()) and None not in self.outputs.values()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """How much of a stage's weights and arithmetic is split over its shards."""

    weight_bytes: int
    """Bytes of the whole stage."""
    split_weight_bytes: int
    """Those of `weight_bytes` of which each shard holds only a part."""
    flops: float
    """Floating-point operations of one run, as far as sizes are known; dimensions that are not fixed count as small."""
    split_flops: float
    """Those of `flops` that are divided among the shards."""
    num_sums: int
    """All-reduces in one run."""
    num_gathers: int
    """All-gathers in one run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphShardPlan(WorkerPlacement):
    """One worker: a stage's nodes with all of their weights or a part of them."""

    weight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStagePlan(StageInterface):
    """Contiguous nodes and the workers that compute them together."""

    shards: tuple[GraphShardPlan, ...]
    """The stage's workers in the order of their ranks; one if the stage is not split further."""
    shares: tuple[int, ...]
    """The relative share of the work that each shard is meant to have."""
    split: SplitReport | None
    """What the shards divide among them; None if there is one shard."""
    compute_s: float | None
    """Measured seconds of its nodes in the sample run, on one worker; None: not measured."""

    @property
    def interface(self) -> StageInterface:
        """The part of the plan that a worker needs: nodes, inputs and outputs."""
        return StageInterface(
            first_node=self.first_node, last_node=self.last_node, inputs=self.inputs, outputs=self.outputs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReplicaPlan:
    """One replica: a pipeline of stages that together hold the whole graph."""

    stages: tuple[GraphStagePlan, ...]

    @property
    def shards(self) -> tuple[GraphShardPlan, ...]:
        """All workers, stage by stage, rank by rank."""
        return tuple(shard for stage in self.stages for shard in stage.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRows:
    """The predicted speed of a plan that always has enough work."""

    rows_per_s: float
    latency_s: float
    """Seconds for a single micro-batch without others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """The complete plan for a graph."""

    model: str
    """The model as the user named it."""
    split: str
    """The canonical split, such as `dp=2,pp=3:1,tp=2`; `1`: none."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchAxes
    replicas: tuple[GraphReplicaPlan, ...]
    shape: str = ""
    """A description of the graph, for the user and to recognize whether a stored plan belongs to it."""
    predicted: PredictedRows | None = None
    """The speed that `auto` predicted; None if the user gave the split."""

    @property
    def num_workers(self) -> int:
        """Workers of all replicas."""
        return len(self.shards)

    @property
    def shards(self) -> tuple[GraphShardPlan, ...]:
        """All workers, replica by replica, stage by stage, rank by rank."""
        return tuple(shard for replica in self.replicas for shard in replica.shards)

    @property
    def split_report(self) -> SplitReport | None:
        """The sums over all stages of one replica; None if no stage is split over shards."""
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
