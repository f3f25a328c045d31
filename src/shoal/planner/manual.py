"""A plan for a split that the user has said by hand, on one machine."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan import Block, Plan, ReplicaPlan, StagePlan
from shoal.errors import CapacityError, ConfigError
from shoal.planner.balance import balance_layers, stage_costs
from shoal.planner.cores import deal_cores
from shoal.planner.split_spec import SplitSpec


def plan_from_spec(
    *,
    model: str,
    blocks: Sequence[Block],
    spec: SplitSpec,
    precision: str,
    threads: int | None,
    cores: Sequence[int],
    kv_memory_bytes: int,
    block_size: int,
    max_context: int,
    max_seqs: int,
    max_step_tokens: int,
) -> Plan:
    """Spell a split out: layers, threads, cores and KV blocks of every worker.

    Args:
        model: as the user named it.
        blocks: embedding, layers, head.
        spec: the split.
        precision: auto | fp32 | int8 | int4, already applied to the blocks' sizes.
        threads: of each worker; None: the cores divided by the workers, at least 1.
        cores: CPU ids to use. Workers are pinned to disjoint ones where there are enough, otherwise not at all.
        kv_memory_bytes: of all replicas together.
        block_size: tokens in a KV block.
        max_context: longest sequence in tokens.
        max_seqs: sequences of one replica that run at once.
        max_step_tokens: rows of the largest step.

    Raises:
        ConfigError: a split that the model's layers do not allow, or fewer than one thread.
        CapacityError: KV memory for less than one block.
    """
    layers = _layers_per_stage(blocks, spec)
    num_blocks = _count_kv_blocks(
        blocks, spec, kv_memory_bytes=kv_memory_bytes, block_size=block_size, enough_tokens=(max_seqs, max_context)
    )
    num_workers = spec.num_replicas * len(layers)
    threads, pinned = deal_cores(cores, num_workers, threads)
    replicas: list[ReplicaPlan] = []
    for replica in range(spec.num_replicas):
        replica_cores = pinned[replica * len(layers) : (replica + 1) * len(layers)]
        stages = _plan_stages(blocks, layers, replica_cores, threads=threads, kv_tokens=num_blocks * block_size)
        replicas.append(ReplicaPlan(stages=stages, num_blocks=num_blocks))
    said = SplitSpec(num_replicas=spec.num_replicas, num_stages=len(layers), stage_layers=layers)
    return Plan(
        model=model,
        split=str(said),
        precision=precision,
        block_size=block_size,
        max_context=max_context,
        max_step_tokens=max_step_tokens,
        max_seqs=max_seqs,
        replicas=tuple(replicas),
    )


def _layers_per_stage(blocks: Sequence[Block], spec: SplitSpec) -> tuple[int, ...]:
    if spec.stage_layers is None:
        return balance_layers(stage_costs(blocks), spec.num_stages)
    num_layers = len(blocks) - 2
    if sum(spec.stage_layers) != num_layers:
        given = ":".join(map(str, spec.stage_layers))
        raise ConfigError(f"--split pp={given} gives {sum(spec.stage_layers)} layers, but the model has {num_layers}")
    return spec.stage_layers


def _count_kv_blocks(
    blocks: Sequence[Block],
    spec: SplitSpec,
    *,
    kv_memory_bytes: int,
    block_size: int,
    enough_tokens: tuple[int, int],
) -> int:
    """KV blocks of one replica: its part of the memory, but no more than its sequences (count, length) can ever use."""
    max_seqs, max_context = enough_tokens
    enough = max_seqs * -(-max_context // block_size)
    block_bytes = block_size * sum(block.kv_bytes_per_token for block in blocks)
    if block_bytes == 0:
        return enough
    affordable = kv_memory_bytes // spec.num_replicas // block_bytes
    if affordable < 1:
        raise CapacityError(
            f"{kv_memory_bytes} bytes of KV memory hold no block of {block_size} tokens in each of {spec.num_replicas} "
            f"replicas; give at least {block_bytes * spec.num_replicas} with --kv-memory"
        )
    return min(enough, affordable)


def _plan_stages(
    blocks: Sequence[Block],
    layers: tuple[int, ...],
    cores: Sequence[tuple[int, ...]],
    *,
    threads: int,
    kv_tokens: int,
) -> tuple[StagePlan, ...]:
    """Block 0 is the embedding, block i + 1 is layer i, the last is the head."""
    stages: list[StagePlan] = []
    first = 0
    for stage, num_layers in enumerate(layers):
        last = first + num_layers
        is_last = stage == len(layers) - 1
        own = blocks[first + 1 if first else 0 : len(blocks) if is_last else last + 1]
        stages.append(
            StagePlan(
                first_layer=first,
                last_layer=last,
                threads=threads,
                cores=cores[stage],
                weight_bytes=sum(block.weight_bytes for block in own),
                kv_bytes=kv_tokens * sum(block.kv_bytes_per_token for block in own),
            )
        )
        first = last
    return tuple(stages)
