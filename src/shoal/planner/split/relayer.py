"""New numbers of layers for the stages of a replica, from the observed speed of its workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from shoal.core.plan.language import Block, ReplicaPlan, ShardPlan, StagePlan, held_bytes, stage_blocks
from shoal.planner.split.balance import balance_layers, last_cut, observed_speeds, stage_costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayering:
    """The best layers for a pipeline whose workers have certain speeds."""

    layers: tuple[int, ...]
    """Layers of each stage."""
    stage_s: tuple[float, ...]
    """Seconds that each stage would take for the observed step."""


def relayer(blocks: Sequence[Block], layers: Sequence[int], stage_s: Sequence[float]) -> Relayering:
    """Move layers from slow stages to fast ones.

    Args:
        blocks: embedding, layers and head of the whole model.
        layers: the present layers of each stage.
        stage_s: present seconds of each stage for the same steps.
    """
    costs = stage_costs(blocks)
    speeds = observed_speeds(costs, layers, stage_s)
    moved = balance_layers(costs, len(layers), speeds=speeds, last_cut=last_cut(blocks))
    per_second = observed_speeds(costs, moved, [1.0] * len(moved))
    return Relayering(layers=moved, stage_s=tuple(cost / speed for cost, speed in zip(per_second, speeds, strict=True)))


def with_layers(
    replica: ReplicaPlan, layers: Sequence[int], blocks: Sequence[Block], *, block_size: int
) -> ReplicaPlan:
    """The replica with the same workers and KV blocks but other layers.

    Args:
        replica: a replica with one worker in each stage.
        layers: the new layers of each stage.
        blocks: embedding, layers and head of the whole model.
        block_size: tokens in a KV block.
    """
    kv_tokens = replica.num_blocks * block_size

    def shard(old: ShardPlan, held: Sequence[Block]) -> ShardPlan:
        return replace(
            old,
            weight_bytes=held_bytes(held),
            kv_bytes=kv_tokens * sum(block.kv_bytes_per_token for block in held),
            state_bytes=replica.num_states * sum(block.state_bytes for block in held),
        )

    def moved(stage: StagePlan, first: int, last: int) -> StagePlan:
        shards = tuple(shard(one, stage_blocks(blocks, first, last)) for one in stage.shards)
        return replace(stage, first_layer=first, last_layer=last, shards=shards)

    spans = pairwise(accumulate(layers, initial=0))
    stages = tuple(moved(stage, *span) for stage, span in zip(replica.stages, spans, strict=True))
    return replace(replica, stages=stages)
