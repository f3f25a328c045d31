"""The plan for a split that the user gave, on one machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from shoal.core.plan.language import Block, Plan, ReplicaPlan, ShardPlan, StagePlan, held_bytes, stage_blocks
from shoal.core.plan.state_room import num_state_slots, state_notes
from shoal.errors import CapacityError, ConfigError
from shoal.planner.split.balance import balance_layers, check_first_layers, last_cut, stage_costs
from shoal.planner.split.cores import deal_cores
from shoal.planner.split.shares import attention_notes
from shoal.planner.split.split_spec import SplitSpec
from shoal.protocol.stage_config import Precision, ShardPart

ShardBlocks = Sequence[Sequence[Block]]
"""[rank of a stage]: embedding, layers and head as that shard holds them."""


def plan_from_spec(
    *,
    model: str,
    shard_blocks: ShardBlocks,
    parts: Sequence[ShardPart],
    spec: SplitSpec,
    precision: Precision,
    threads: int | None,
    cores: Sequence[int],
    kv_memory_bytes: int,
    block_size: int,
    max_context: int,
    max_seqs: int,
    max_step_tokens: int,
) -> Plan:
    """Make the plan of a split: layers and their parts, threads, cores and KV blocks of every worker.

    Args:
        model: the model as the user named it.
        shard_blocks: the blocks of every rank of a stage, with the sizes and the arithmetic of its own part.
        parts: the part of every rank, from which its blocks were made.
        spec: the split.
        precision: auto | fp32 | int8 | int4, already applied to the blocks' sizes.
        threads: threads of each worker; None: the cores divided by the workers, at least 1.
        cores: CPU ids to use. Workers are pinned to disjoint ones if there are enough, otherwise not at all.
        kv_memory_bytes: KV memory of all workers together.
        block_size: tokens in a KV block.
        max_context: the longest sequence in tokens.
        max_seqs: sequences of one replica that run at once.
        max_step_tokens: rows of the largest step.

    Raises:
        ConfigError: the model's layers do not allow the split, or `threads` is less than 1.
        CapacityError: the KV memory holds less than one block.
    """
    layers = _layers_per_stage(shard_blocks, spec)
    num_blocks = _count_kv_blocks(
        shard_blocks,
        spec,
        kv_memory_bytes=kv_memory_bytes,
        block_size=block_size,
        enough_tokens=(max_seqs, max_context),
    )
    num_states = num_state_slots((block for blocks in shard_blocks for block in blocks), max_seqs)
    threads, pinned = deal_cores(cores, spec.num_workers, threads)
    per_replica = spec.num_stages * spec.num_shards
    replicas: list[ReplicaPlan] = []
    for first in range(0, spec.num_workers, per_replica):
        replica_cores = pinned[first : first + per_replica]
        stages = _plan_stages(
            shard_blocks,
            parts,
            layers,
            replica_cores,
            threads=threads,
            kv_tokens=num_blocks * block_size,
            num_states=num_states,
            precision=precision,
        )
        replicas.append(ReplicaPlan(stages=stages, num_blocks=num_blocks, num_states=num_states))
    said = replace(spec, num_stages=len(layers), stage_layers=layers)
    return Plan(
        model=model,
        split=str(said),
        precision=precision,
        block_size=block_size,
        max_context=max_context,
        max_step_tokens=max_step_tokens,
        max_seqs=max_seqs,
        replicas=tuple(replicas),
        notes=(*attention_notes(parts), *state_notes(shard_blocks, num_states)),
    )


def _layers_per_stage(shard_blocks: ShardBlocks, spec: SplitSpec) -> tuple[int, ...]:
    """Layers of each stage, given or balanced. A stage counts as slow as the shard with the most work for its share."""
    if spec.stage_layers is None:
        of_ranks = [
            [cost / share for cost in stage_costs(blocks)]
            for blocks, share in zip(shard_blocks, spec.shares, strict=True)
        ]
        costs = [max(costs) for costs in zip(*of_ranks, strict=True)]
        return balance_layers(costs, spec.num_stages, last_cut=last_cut(shard_blocks[0]))
    num_layers = len(shard_blocks[0]) - 2
    if sum(spec.stage_layers) != num_layers:
        given = ":".join(map(str, spec.stage_layers))
        raise ConfigError(f"--split pp={given} gives {sum(spec.stage_layers)} layers, but the model has {num_layers}")
    check_first_layers(shard_blocks[0], spec.stage_layers)
    return spec.stage_layers


def _count_kv_blocks(
    shard_blocks: ShardBlocks,
    spec: SplitSpec,
    *,
    kv_memory_bytes: int,
    block_size: int,
    enough_tokens: tuple[int, int],
) -> int:
    """KV blocks of one replica: its part of the memory, but no more than its sequences can use.

    `enough_tokens`: (number of sequences, length of each).
    """
    max_seqs, max_context = enough_tokens
    enough = max_seqs * -(-max_context // block_size)
    block_bytes = block_size * sum(block.kv_bytes_per_token for blocks in shard_blocks for block in blocks)
    if block_bytes == 0:
        return enough
    affordable = kv_memory_bytes // spec.num_replicas // block_bytes
    if affordable < 1:
        raise CapacityError(
            f"{kv_memory_bytes} bytes of KV memory are too few for a block of {block_size} tokens in each of "
            f"{spec.num_replicas} replicas; give at least {block_bytes * spec.num_replicas} with --kv-memory"
        )
    return min(enough, affordable)


def _plan_stages(
    shard_blocks: ShardBlocks,
    parts: Sequence[ShardPart],
    layers: tuple[int, ...],
    cores: Sequence[tuple[int, ...]],
    *,
    threads: int,
    kv_tokens: int,
    num_states: int,
    precision: Precision,
) -> tuple[StagePlan, ...]:
    """The stages of one replica. `cores`: those of each worker, stage by stage, rank by rank."""
    stages: list[StagePlan] = []
    for stage, (first, last) in enumerate(pairwise(accumulate(layers, initial=0))):
        shards = tuple(
            ShardPlan(
                part=part,
                threads=threads,
                cores=cores[stage * len(parts) + rank],
                weight_bytes=held_bytes(stage_blocks(blocks, first, last)),
                kv_bytes=kv_tokens * sum(block.kv_bytes_per_token for block in stage_blocks(blocks, first, last)),
                state_bytes=num_states * sum(block.state_bytes for block in stage_blocks(blocks, first, last)),
            )
            for rank, (part, blocks) in enumerate(zip(parts, shard_blocks, strict=True))
        )
        stages.append(StagePlan(first_layer=first, last_layer=last, precision=precision, shards=shards))
    return tuple(stages)
