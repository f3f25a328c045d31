"""What the workers of a language model's plan take of memory: weights, KV, and their processes; and how much KV cache
a replica is given where nobody has said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from shoal.core.plan.language import Plan, ShardPlan, StagePlan
from shoal.core.plan.placement import WorkerPlacement
from shoal.protocol.stage_config import ShardPart

_HALF_TO_FLOAT = 2
KV_SHARE_OF_FREE_MEMORY = 0.5
"""Of the memory that weights leave, what the KV cache may take at most."""
_LONG_SEQS = 4
_USUAL_TOKENS = 1024
"""Judgments: room for all sequences at a usual length, and for a few of the longest. A replica that runs out of it
computes its youngest sequence again later; one that never needs it has reserved address space, and no memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededMemory:
    """Bytes of all workers of one machine together."""

    weight_bytes: int
    kv_bytes: int
    state_bytes: int
    """Bytes of slots for recurrent state."""
    process_bytes: int
    """Bytes of workers' processes beside these, and of the process that they are forked from."""

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.weight_bytes + self.kv_bytes + self.state_bytes + self.process_bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a worker maps of kept weights: other workers that hold the same map the same copy."""

    stage: tuple[int, int]
    """first layer, and the one after the last"""
    precision: str
    part: ShardPart


def needed_memory(plan: Plan, *, shares_weights: bool, tied_bytes: int = 0) -> NeededMemory:
    """The memory that a plan takes, as if all of its workers ran on one machine.

    Args:
        plan: with the bytes of every worker.
        shares_weights: whether workers that hold the same part of the same layers map one kept copy of it.
        tied_bytes: of the embedding, where the head is the same matrix; 0: it is not.
    """
    held: dict[_Kept, int] = {}
    weight_bytes = 0
    for replica in plan.replicas:
        for stage in replica.stages:
            for shard in stage.shards:
                weight_bytes += shard.weight_bytes
                held[_Kept((stage.first_layer, stage.last_layer), stage.precision, shard.part)] = shard.weight_bytes
    if shares_weights:
        weight_bytes = sum(held.values()) - _counted_again(held.keys(), tied_bytes)
    return NeededMemory(
        weight_bytes=weight_bytes,
        kv_bytes=sum(shard.kv_bytes for shard in plan.shards),
        state_bytes=sum(shard.state_bytes for shard in plan.shards),
        process_bytes=plan.forking_bytes + sum(shard.process_bytes for shard in plan.shards),
    )


def _counted_again(held: Collection[_Kept], tied_bytes: int) -> int:
    """Bytes of the embedding that are counted more than once: in stages that begin the model, and in stages that end it
    with the same matrix as their head."""
    num_layers = max(kept.stage[1] for kept in held)
    vocab_size = max(kept.part.vocabulary[1] for kept in held)
    holders = Counter(
        (kept.precision, kept.part.vocabulary) for kept in held if kept.stage[0] == 0 or kept.stage[1] == num_layers
    )
    return sum(
        (count - 1) * tied_bytes * (last - first) // max(1, vocab_size) for (_, (first, last)), count in holders.items()
    )


def default_kv_tokens(max_seqs: int, max_context: int, at_least: int = 0) -> int:
    """Tokens of all sequences together that a replica has room for, if memory allows.

    Args:
        max_seqs: sequences that may run at once.
        max_context: tokens of the longest.
        at_least: tokens that the expected load takes.
    """
    return max(at_least, min(max_seqs, _LONG_SEQS) * max_context, max_seqs * min(max_context, _USUAL_TOKENS))


def default_kv_bytes(kv_tokens: int, bytes_per_token: int, *, num_replicas: int, free_bytes: int) -> int:
    """KV memory of all replicas of one machine together.

    Args:
        kv_tokens: what each replica has room for, if memory allows.
        bytes_per_token: of one replica.
        num_replicas: >= 1.
        free_bytes: what the weights leave, which may be less than nothing.
    """
    return min(num_replicas * kv_tokens * bytes_per_token, int(max(0, free_bytes) * KV_SHARE_OF_FREE_MEMORY))


def with_exact_activations(plan: Plan) -> Plan:
    """The plan computed with exact activations, whose keys and values are held in fp32 at any precision."""
    if plan.exact_activations:
        return plan

    def stage_with(stage: StagePlan) -> StagePlan:
        factor = 1 if stage.precision == "fp32" else _HALF_TO_FLOAT
        return replace(stage, shards=tuple(replace(shard, kv_bytes=shard.kv_bytes * factor) for shard in stage.shards))

    return replace(_with_stages(plan, stage_with), exact_activations=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forks:
    """Workers that are forked from one process, which has imported what they need."""

    includes: Callable[[WorkerPlacement], bool]
    """Whether a worker is one of them."""
    python_bytes: int
    """Bytes that Python and its modules take: of a worker that is no fork, and of the process that forks."""
    own_bytes: int
    """Bytes that a fork takes in the place of these."""


def with_process_bytes(plan: Plan, num_bytes: int, forks: Forks | None = None) -> Plan:
    """The plan with what each worker's process takes beside weights and KV.

    Args:
        plan: of any workers.
        num_bytes: of a worker that is a program of its own.
        forks: which workers are none; None: all are programs of their own.
    """

    def own_bytes(shard: ShardPlan) -> int:
        return num_bytes - (forks.python_bytes - forks.own_bytes if forks and forks.includes(shard) else 0)

    def stage_with(stage: StagePlan) -> StagePlan:
        return replace(stage, shards=tuple(replace(shard, process_bytes=own_bytes(shard)) for shard in stage.shards))

    forking_bytes = forks.python_bytes if forks and any(map(forks.includes, plan.shards)) else 0
    return replace(_with_stages(plan, stage_with), forking_bytes=forking_bytes)


def _with_stages(plan: Plan, stage_with: Callable[[StagePlan], StagePlan]) -> Plan:
    replicas = (replace(replica, stages=tuple(map(stage_with, replica.stages))) for replica in plan.replicas)
    return replace(plan, replicas=tuple(replicas))
