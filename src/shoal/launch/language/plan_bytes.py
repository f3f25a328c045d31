"""What the workers of a plan take beside weights and KV memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from shoal.core.plan.language import Plan, StagePlan
from shoal.model.decoder.blocks import process_bytes
from shoal.model.decoder_config import DecoderConfig

_HALF_TO_FLOAT = 2


def with_exact_activations(plan: Plan) -> Plan:
    """The plan computed with exact activations, whose keys and values are held in fp32 at any precision."""
    if plan.exact_activations:
        return plan

    def stage_with(stage: StagePlan) -> StagePlan:
        factor = 1 if stage.precision == "fp32" else _HALF_TO_FLOAT
        return replace(stage, shards=tuple(replace(shard, kv_bytes=shard.kv_bytes * factor) for shard in stage.shards))

    return replace(_with_stages(plan, stage_with), exact_activations=True)


def with_process_bytes(plan: Plan, config: DecoderConfig) -> Plan:
    """The plan with what each worker's process takes beside weights and KV. `config`: of the whole model."""
    num_bytes = process_bytes(config, max_step_tokens=plan.max_step_tokens)

    def stage_with(stage: StagePlan) -> StagePlan:
        return replace(stage, shards=tuple(replace(shard, process_bytes=num_bytes) for shard in stage.shards))

    return _with_stages(plan, stage_with)


def _with_stages(plan: Plan, stage_with: Callable[[StagePlan], StagePlan]) -> Plan:
    replicas = (replace(replica, stages=tuple(map(stage_with, replica.stages))) for replica in plan.replicas)
    return replace(plan, replicas=tuple(replicas))
