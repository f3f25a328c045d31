"""A plan as prediction sees it: for every worker its class and its shares, for every stage its number of layers."""

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
    """in the fleet"""
    attention: float = 1.0
    """share of the KV heads, 0 to 1"""
    mlp: float = 1.0
    """share of the columns or of whole experts, above 0, to 1"""
    vocabulary: float = 1.0
    """share of the vocabulary's rows, above 0, to 1"""
    memory_bytes: int = 0
    """weights and KV"""

    @property
    def shares(self) -> tuple[float, float, float]:
        """As `work.group_seconds` takes them."""
        return self.attention, self.mlp, self.vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedStage:
    """Layers and who computes them."""

    num_layers: int
    precision: Precision
    shards: tuple[PlacedShard, ...]
    deals_experts: bool = False
    """Whether shards have whole experts."""

    @property
    def is_group(self) -> bool:
        """Whether its layers are cut."""
        return len(self.shards) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """A pipeline. The first stage has the embedding, the last the head."""

    stages: tuple[PredictedStage, ...]

    @property
    def shards(self) -> tuple[PlacedShard, ...]:
        """All workers, stage by stage, rank by rank."""
        return tuple(shard for stage in self.stages for shard in stage.shards)


def place(plan: Plan, worker_classes: Sequence[int], atoms: ShardAtoms) -> tuple[PlacedReplica, ...]:
    """Every replica of a plan.

    Args:
        plan: whoever made it.
        worker_classes: of each worker in the fleet, replica by replica, in the order of `ReplicaPlan.shards`.
        atoms: the whole model's sizes, of which the shards' parts are shares.
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
