"""The memory that the processes of a language model's plan take beside weights and KV cache."""

from __future__ import annotations

from shoal.comm.groups.group_memory import group_bytes
from shoal.core.generation.scheduler_config import usual_rows
from shoal.core.generation.steps.micro_batches import decode_share
from shoal.core.plan.language import Plan, ReplicaPlan, ShardPlan, StagePlan
from shoal.executor.process.fork_server import will_be_forked
from shoal.model.decoder.process_bytes import FORK_BYTES, PROCESS_BYTES, StageWork
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.memory.plan_memory import Forks, with_process_bytes

_FORKS = Forks(includes=will_be_forked, python_bytes=PROCESS_BYTES, own_bytes=FORK_BYTES)


def with_processes(plan: Plan, model: ModelOnDisk, *, keeps_weights: bool, are_forked: bool) -> Plan:
    """The plan with the bytes of its processes.

    Args:
        plan: the plan.
        model: of the plan.
        keeps_weights: whether workers with the same weights map one kept copy of them.
        are_forked: whether workers of this machine are forked from one process.
    """
    beside = 0
    if keeps_weights:  # copies share the model's weights, but have adapters of their own
        beside = model.total_adapter_bytes * (len(plan.replicas) - 1) // plan.num_workers

    def num_bytes(replica: ReplicaPlan, stage: StagePlan, shard: ShardPlan) -> int:
        num_shards = len(stage.shards)
        sums = group_bytes(num_shards) // num_shards if num_shards > 1 else 0
        part = shard.part if num_shards > 1 else None
        return beside + sums + model.process_bytes(_work(plan, replica, stage), part)

    return with_process_bytes(plan, num_bytes, _FORKS if are_forked else None)


def step_rows(plan: Plan) -> int:
    """The most rows of a step of any replica, unless it has to hold a picture whole."""
    return max(_rows(plan, replica) for replica in plan.replicas)


def _rows(plan: Plan, replica: ReplicaPlan) -> int:
    return usual_rows(len(replica.stages), max_seqs=plan.max_seqs, max_step_tokens=plan.max_step_tokens)


def _work(plan: Plan, replica: ReplicaPlan, stage: StagePlan) -> StageWork:
    return StageWork(
        first_layer=stage.first_layer,
        last_layer=stage.last_layer,
        num_rows=_rows(plan, replica),
        num_outputs=decode_share(plan.max_seqs, len(replica.stages)),
        num_positions=min(plan.max_context, replica.num_blocks * plan.block_size),
        num_shards=len(stage.shards),
        exact_activations=plan.exact_activations,
    )
