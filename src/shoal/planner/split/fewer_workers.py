"""A plan for a replica without one of its workers, which cannot be started again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.core.plan.language import Block, Plan, ReplicaPlan, ShardPlan, StagePlan
from shoal.planner.split.manual import plan_from_spec
from shoal.planner.split.split_spec import SplitSpec
from shoal.protocol.stage_config import ShardPart


def plan_without(
    plan: Plan, replica: ReplicaPlan, worker: int, *, blocks: Sequence[Block], whole: ShardPart
) -> ReplicaPlan | None:
    """Plan the replica as a pipeline of whole stages over the other workers, with their cores and as much KV memory.

    Args:
        plan: the plan of the replica.
        replica: the replica as it was planned.
        worker: the index of the worker to leave out, counted stage by stage and rank by rank.
        blocks: embedding, layers and head of the whole model.
        whole: the part that stands for all of a layer.

    Returns:
        The new replica; None if there is no other worker.
    """
    others = [shard for index, shard in enumerate(replica.shards) if index != worker]
    if not others:
        return None
    num_stages = min(len(others), len(blocks) - 2)
    kv_token_bytes = sum(block.kv_bytes_per_token for block in blocks)
    fewer = plan_from_spec(
        model=plan.model,
        shard_blocks=[list(blocks)],
        parts=[whole],
        spec=SplitSpec(num_stages=num_stages),
        precision=plan.precision,
        threads=others[0].threads,
        cores=sorted({core for shard in others for core in shard.cores}),
        kv_memory_bytes=replica.num_blocks * plan.block_size * kv_token_bytes,
        block_size=plan.block_size,
        max_context=plan.max_context,
        max_seqs=plan.max_seqs,
        max_step_tokens=plan.max_step_tokens,
    )
    stages = fewer.replicas[0].stages
    if others[0].machine is not None:
        stages = tuple(_moved(stage, to) for stage, to in zip(stages, others, strict=False))
    return replace(replica, stages=stages)


def _moved(stage: StagePlan, to: ShardPlan) -> StagePlan:
    """The stage of one worker, moved to the machine and cores of another worker."""
    (shard,) = stage.shards
    own = replace(shard, **to.placement())
    return replace(stage, shards=(own,))
