"""Memory of a language model's plan (weights, KV and processes), and the default size of the KV cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from shoal.core.plan.language import Plan, ReplicaPlan, ShardPlan, StagePlan
from shoal.core.plan.placement import WorkerPlacement
from shoal.protocol.stage_config import ShardPart

_HALF_TO_FLOAT = 2
KV_SHARE_OF_FREE_MEMORY = 0.5
"""The largest share of the memory left by the weights that the KV cache may take."""
_LONG_SEQS = 4
_USUAL_TOKENS = 1024
"""Judgments: the default KV cache holds all sequences at a usual length, or a few of the longest. A replica that runs
out of it recomputes its youngest sequence later; unused parts of it take address space but no memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeededMemory:
    """Memory of all workers of one machine together, in bytes."""

    weight_bytes: int
    kv_bytes: int
    state_bytes: int
    """Bytes of the slots for recurrent states."""
    process_bytes: int
    """Other bytes of the workers' processes, and of the process from which they are forked."""

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weight_bytes + self.kv_bytes + self.state_bytes + self.process_bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    """The kept weights that a worker maps; workers with equal values map the same copy."""

    stage: tuple[int, int]
    """The first layer, and the one after the last."""
    precision: str
    part: ShardPart


def needed_memory(plan: Plan, *, shares_weights: bool, tied_bytes: int = 0) -> NeededMemory:
    """The memory that a plan needs if all of its workers run on one machine.

    Args:
        plan: the plan, with the bytes of each worker.
        shares_weights: whether workers with the same part of the same layers map one kept copy of it.
        tied_bytes: bytes of the embedding if the head is the same matrix; otherwise 0.
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
    """Bytes of a tied embedding that are counted more than once: in first stages, and in last stages as their head."""
    num_layers = max(kept.stage[1] for kept in held)
    vocab_size = max(kept.part.vocabulary[1] for kept in held)
    holders = Counter(
        (kept.precision, kept.part.vocabulary) for kept in held if kept.stage[0] == 0 or kept.stage[1] == num_layers
    )
    return sum(
        (count - 1) * tied_bytes * (last - first) // max(1, vocab_size) for (_, (first, last)), count in holders.items()
    )


def default_kv_tokens(max_seqs: int, max_context: int, at_least: int = 0) -> int:
    """The default number of tokens in a replica's KV cache, if memory allows.

    Args:
        max_seqs: sequences that may run at once.
        max_context: tokens of the longest sequence.
        at_least: tokens that the expected load needs.
    """
    return max(at_least, min(max_seqs, _LONG_SEQS) * max_context, max_seqs * min(max_context, _USUAL_TOKENS))


def default_kv_bytes(kv_tokens: int, bytes_per_token: int, *, num_replicas: int, free_bytes: int) -> int:
    """The default KV bytes of all replicas of one machine together.

    Args:
        kv_tokens: tokens that each replica should hold, if memory allows.
        bytes_per_token: KV bytes of a token in one replica.
        num_replicas: the number of replicas, >= 1.
        free_bytes: memory left by the weights, which may be negative.
    """
    return min(num_replicas * kv_tokens * bytes_per_token, int(max(0, free_bytes) * KV_SHARE_OF_FREE_MEMORY))


def with_exact_activations(plan: Plan) -> Plan:
    """The plan with exact activations, for which keys and values are kept in fp32 at any precision."""
    if plan.exact_activations:
        return plan

    def in_floats(replica: ReplicaPlan, stage: StagePlan, shard: ShardPlan) -> ShardPlan:
        return replace(shard, kv_bytes=shard.kv_bytes * (1 if stage.precision == "fp32" else _HALF_TO_FLOAT))

    return replace(_with_shards(plan, in_floats), exact_activations=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forks:
    """Workers that are forked from one process, which has imported their modules."""

    includes: Callable[[WorkerPlacement], bool]
    """Tells whether a worker is forked."""
    python_bytes: int
    """Bytes of Python and its modules in the process that forks, and in a worker that is not forked."""
    own_bytes: int
    """Bytes that a forked worker takes instead of `python_bytes`."""


def with_process_bytes(
    plan: Plan, num_bytes: Callable[[ReplicaPlan, StagePlan, ShardPlan], int], forks: Forks | None = None
) -> Plan:
    """The plan with the bytes that each worker's process takes beside weights and KV.

    Args:
        plan: the plan.
        num_bytes: bytes of a worker that is not forked.
        forks: the forked workers; None: none is forked.
    """

    def with_bytes(replica: ReplicaPlan, stage: StagePlan, shard: ShardPlan) -> ShardPlan:
        shared = forks.python_bytes - forks.own_bytes if forks and forks.includes(shard) else 0
        return replace(shard, process_bytes=num_bytes(replica, stage, shard) - shared)

    forking_bytes = forks.python_bytes if forks and any(map(forks.includes, plan.shards)) else 0
    return replace(_with_shards(plan, with_bytes), forking_bytes=forking_bytes)


def _with_shards(plan: Plan, changed: Callable[[ReplicaPlan, StagePlan, ShardPlan], ShardPlan]) -> Plan:
    def stages(replica: ReplicaPlan) -> tuple[StagePlan, ...]:
        return tuple(
            replace(stage, shards=tuple(changed(replica, stage, shard) for shard in stage.shards))
            for stage in replica.stages
        )

    return replace(plan, replicas=tuple(replace(replica, stages=stages(replica)) for replica in plan.replicas))
