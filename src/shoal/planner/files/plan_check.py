"""Checks of a plan from a file, which may have been edited by hand."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.language import Plan, ReplicaPlan, StagePlan
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.errors import ConfigError
from shoal.protocol.stage_config import MAX_TURNS, ShardPart

Span = tuple[int, int]


def check_plan(plan: Plan, *, num_layers: int, atoms: ShardAtoms) -> None:
    """Check that each replica has every layer in one stage, and each stage every head, column and row in one shard.

    Raises:
        ConfigError: the plan is invalid. The message names the place and the error.
    """
    if not plan.replicas:
        raise ConfigError("the plan has no replicas")
    for index, replica in enumerate(plan.replicas):
        place = f"replica {index}"
        _check_covered([(s.first_layer, s.last_layer) for s in replica.stages], num_layers, f"{place}: layers")
        if replica.num_blocks < 1 or plan.block_size < 1:
            raise ConfigError(f"{place}: it needs at least one KV block of at least one token")
        if replica.num_states and replica.num_states < plan.max_seqs:
            raise ConfigError(f"{place}: {replica.num_states} states are too few for {plan.max_seqs} sequences")
        _check_stages(replica, atoms, place)


def _check_stages(replica: ReplicaPlan, atoms: ShardAtoms, place: str) -> None:
    for number, stage in enumerate(replica.stages):
        where = f"{place} stage {number}"
        if stage.first_layer == stage.last_layer:
            raise ConfigError(f"{where} has no layers")
        _check_shards(stage, atoms, where)


def _check_shards(stage: StagePlan, atoms: ShardAtoms, where: str) -> None:
    parts = [shard.part for shard in stage.shards]
    _check_cut([part.kv_heads for part in parts], atoms.num_kv_heads, atoms.kv_heads_per_atom, f"{where}: KV heads")
    _check_cut([part.columns for part in parts], atoms.intermediate_size, atoms.column_atom, f"{where}: MLP columns")
    _check_experts(parts, atoms.num_experts, where)
    _check_cut([part.vocabulary for part in parts], atoms.vocab_size, atoms.vocab_atom, f"{where}: vocabulary rows")
    for rank, shard in enumerate(stage.shards):
        if shard.threads < 1:
            raise ConfigError(f"{where} shard {rank}: a worker needs at least 1 thread")
        if shard.cpu_quota is not None and not 0.0 < shard.cpu_quota <= 1.0:
            raise ConfigError(f"{where} shard {rank}: cpu_quota is a share in (0, 1]")


def _check_cut(spans: Sequence[Span], total: int, atom: int, what: str) -> None:
    _check_covered(spans, total, what)
    for _, last in spans[:-1]:
        if last % atom:
            raise ConfigError(f"{what} can be cut at multiples of {atom} only, not at {last}")


def _check_experts(parts: Sequence[ShardPart], num_experts: int, where: str) -> None:
    """Check that every row of every expert is computed by exactly one shard, if experts are divided."""
    if not any(part.experts for part in parts):
        return
    if len({len(part.experts) for part in parts}) > 1:
        raise ConfigError(f"{where}: either all shards list their experts (once, or for every layer) or none does")
    for layer in range(len(parts[0].experts)):
        turns: dict[int, list[tuple[int, int]]] = {}
        for span in (span for part in parts for span in part.experts[layer]):
            if not 0 <= span.first < span.last <= num_experts or not 1 <= span.num_turns <= MAX_TURNS:
                raise ConfigError(f"{where}: there are no experts {list(span)}; the model has {num_experts}")
            for expert in range(span.first, span.last):
                turns.setdefault(expert, []).append((span.num_turns, span.turns))
        for expert in range(num_experts):
            if not _is_whole(turns.get(expert, [])):
                raise ConfigError(f"{where}: each row of expert {expert} must be computed by exactly one shard")


def _is_whole(turns: Sequence[tuple[int, int]]) -> bool:
    """Whether shards with these turns (number of turns, bits of their own) together compute an expert's rows."""
    if len({num_turns for num_turns, _ in turns}) != 1:
        return False
    taken = 0
    for _, own in turns:
        if own < 0 or own & taken:
            return False
        taken |= own
    return taken == (1 << turns[0][0]) - 1


def _check_covered(spans: Sequence[Span], total: int, what: str) -> None:
    """Check that the spans follow each other from 0 to total."""
    reached = 0
    for first, last in spans:
        if first != reached or last < first:
            raise ConfigError(f"{what} {first} to {last} do not follow {reached}")
        reached = last
    if reached != total:
        raise ConfigError(f"{what} end at {reached}, but the model has {total}")
