"""What the workers of a language model's plan take of memory: weights, KV, and their processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from shoal.core.plan.language import Plan, StagePlan
from shoal.protocol.stage_config import ShardPart

_HALF_TO_FLOAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededMemory:
    """Bytes of all workers of one machine together."""

    weight_bytes: int
    kv_bytes: int
    process_bytes: int

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.weight_bytes + self.kv_bytes + self.process_bytes


def needed_memory(plan: Plan, *, shares_weights: bool) -> NeededMemory:
    """The memory that a plan takes, as if all of its workers ran on one machine.

    Args:
        plan: with the bytes of every worker.
        shares_weights: whether workers that hold the same part of the same layers map one kept copy of it.
    """
    held: dict[tuple[int, int, str, ShardPart], int] = {}
    weight_bytes = 0
    for replica in plan.replicas:
        for stage in replica.stages:
            for shard in stage.shards:
                weight_bytes += shard.weight_bytes
                held[stage.first_layer, stage.last_layer, stage.precision, shard.part] = shard.weight_bytes
    return NeededMemory(
        weight_bytes=sum(held.values()) if shares_weights else weight_bytes,
        kv_bytes=sum(shard.kv_bytes for shard in plan.shards),
        process_bytes=sum(shard.process_bytes for shard in plan.shards),
    )


def with_exact_activations(plan: Plan) -> Plan:
    """The plan computed with exact activations, whose keys and values are held in fp32 at any precision."""
    if plan.exact_activations:
        return plan

    def stage_with(stage: StagePlan) -> StagePlan:
        factor = 1 if stage.precision == "fp32" else _HALF_TO_FLOAT
        return replace(stage, shards=tuple(replace(shard, kv_bytes=shard.kv_bytes * factor) for shard in stage.shards))

    return replace(_with_stages(plan, stage_with), exact_activations=True)


def with_process_bytes(plan: Plan, num_bytes: int) -> Plan:
    """The plan with what each worker's process takes beside weights and KV."""

    def stage_with(stage: StagePlan) -> StagePlan:
        return replace(stage, shards=tuple(replace(shard, process_bytes=num_bytes) for shard in stage.shards))

    return _with_stages(plan, stage_with)


def _with_stages(plan: Plan, stage_with: Callable[[StagePlan], StagePlan]) -> Plan:
    replicas = (replace(replica, stages=tuple(map(stage_with, replica.stages))) for replica in plan.replicas)
    return replace(plan, replicas=tuple(replicas))
