"""A plan as input of the prediction: class and shares of each worker, and the number of layers of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shoal.core.plan.language import Plan, ReplicaPlan, ShardPlan, StagePlan
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.protocol.stage_config import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedShard:
    """One worker's part of a stage."""

    worker_class: int
    """The worker's class in the fleet."""
    attention: float = 1.0
    """Share of the KV heads, 0 to 1."""
    mlp: float = 1.0
    """Share of the columns or of whole experts, in (0, 1]."""
    vocabulary: float = 1.0
    """Share of the vocabulary's rows, in (0, 1]."""
    memory_bytes: int = 0
    """Bytes of weights and KV."""

    @property
    def shares(self) -> tuple[float, float, float]:
        """The shares as an argument of `work.group_seconds`."""
        return self.attention, self.mlp, self.vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedStage:
    """A stage: its layers and the workers that compute them."""

    num_layers: int
    precision: Precision
    shards: tuple[PlacedShard, ...]
    deals_experts: bool = False
    """Whether shards have whole experts."""

    @property
    def is_group(self) -> bool:
        """Whether its layers are divided among several shards."""
        return len(self.shards) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """A pipeline of stages. The first one has the embedding, the last one the head."""

    stages: tuple[PredictedStage, ...]

    @property
    def shards(self) -> tuple[PlacedShard, ...]:
        """All workers, stage by stage, rank by rank."""
        return tuple(shard for stage in self.stages for shard in stage.shards)


def place(plan: Plan, worker_classes: Sequence[int], atoms: ShardAtoms) -> tuple[PlacedReplica, ...]:
    """Place every replica of a plan.

    Args:
        plan: a plan from any source.
        worker_classes: the class of each worker in the fleet, replica by replica, in the order of `ReplicaPlan.shards`.
        atoms: sizes of the whole model, from which the shards' shares follow.
    """
    assert len(worker_classes) == plan.num_workers
    classes = iter(worker_classes)
    return tuple(_place_replica(replica, classes, atoms) for replica in plan.replicas)


def _place_replica(replica: ReplicaPlan, classes: Iterator[int], atoms: ShardAtoms) -> PlacedReplica:
    return PlacedReplica(
        stages=tuple(
            PredictedStage(
                num_layers=stage.num_layers,
                precision=stage.precision,
                shards=tuple(_place_shard(shard, next(classes), atoms, stage) for shard in stage.shards),
                deals_experts=any(shard.part.experts for shard in stage.shards),
            )
            for stage in replica.stages
        )
    )


def _place_shard(shard: ShardPlan, worker_class: int, atoms: ShardAtoms, stage: StagePlan) -> PlacedShard:
    part = shard.part
    held = part.experts[stage.first_layer : stage.last_layer] or part.experts
    experts = sum(span.row_share for layer in held for span in layer) / max(1, len(held) * atoms.num_experts)
    return PlacedShard(
        worker_class=worker_class,
        attention=_length(part.kv_heads) / atoms.num_kv_heads,
        mlp=experts if held else _length(part.columns) / atoms.intermediate_size,
        vocabulary=_length(part.vocabulary) / atoms.vocab_size,
        memory_bytes=shard.weight_bytes + shard.kv_bytes + shard.state_bytes,
    )


def _length(span: tuple[int, int]) -> int:
    return span[1] - span[0]
