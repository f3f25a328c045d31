"""What the workers of a plan take beside KV memory: counted once it is known how they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from shoal.core.plan import Plan, ReplicaPlan, ShardPlan, StagePlan
from shoal.model.decoder.blocks import decoder_blocks, process_bytes
from shoal.model.shard_source import ShardSource
from shoal.model.weights import Precision, WeightSource


def with_process_bytes(plan: Plan, source: WeightSource) -> Plan:
    """The plan with what each worker's process takes beside weights and KV."""

    def stage_with(stage: StagePlan) -> StagePlan:
        num_bytes = process_bytes(
            source,
            cast(Precision, stage.precision),
            stage.num_layers,
            wide_kernels=plan.wide_kernels and not plan.exact_activations,
            is_shard=len(stage.shards) > 1,
            max_step_tokens=plan.max_step_tokens,
        )
        return replace(stage, shards=tuple(replace(shard, process_bytes=num_bytes) for shard in stage.shards))

    return _with_stages(plan, [[stage_with(stage) for stage in replica.stages] for replica in plan.replicas])


def with_exact_activations(plan: Plan, source: WeightSource) -> Plan:
    """The plan computed without 8-bit activations: workers hold other forms of the weights, which may be larger."""

    def weight_bytes(stage: StagePlan, shard: ShardPlan) -> int:
        own = source if len(stage.shards) == 1 else ShardSource(source, shard.part)
        precision = cast(Precision, stage.precision)
        embedding, *layers, head = decoder_blocks(
            own, precision, wide_kernels=plan.wide_kernels, exact_activations=True
        )
        blocks = layers[stage.first_layer : stage.last_layer]
        blocks += [embedding] if stage.first_layer == 0 else []
        blocks += [head] if stage.last_layer == len(layers) else []
        return sum(block.weight_bytes for block in blocks)

    def stage_with(stage: StagePlan) -> StagePlan:
        shards = tuple(replace(shard, weight_bytes=weight_bytes(stage, shard)) for shard in stage.shards)
        return replace(stage, shards=shards)

    exact = replace(plan, exact_activations=True)
    exact = _with_stages(exact, [[stage_with(stage) for stage in replica.stages] for replica in plan.replicas])
    return with_process_bytes(exact, source)


def _with_stages(plan: Plan, stages: Sequence[Sequence[StagePlan]]) -> Plan:
    def replica_with(replica: ReplicaPlan, own: Sequence[StagePlan]) -> ReplicaPlan:
        return replace(replica, stages=tuple(own))

    return replace(plan, replicas=tuple(map(replica_with, plan.replicas, stages)))
