"""What the workers of a plan take beside weights and KV memory."""

from __future__ import annotations

from dataclasses import replace

from shoal.core.plan import Plan, StagePlan
from shoal.model.decoder.blocks import process_bytes
from shoal.model.decoder_config import DecoderConfig


def with_process_bytes(plan: Plan, config: DecoderConfig) -> Plan:
    """The plan with what each worker's process takes beside weights and KV. `config`: of the whole model."""
    num_bytes = process_bytes(config, max_step_tokens=plan.max_step_tokens)

    def stage_with(stage: StagePlan) -> StagePlan:
        return replace(stage, shards=tuple(replace(shard, process_bytes=num_bytes) for shard in stage.shards))

    replicas = tuple(
        replace(replica, stages=tuple(stage_with(stage) for stage in replica.stages)) for replica in plan.replicas
    )
    return replace(plan, replicas=replicas)
