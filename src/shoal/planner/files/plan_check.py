"""Whether a plan that came from a file, perhaps edited, says something that can be run."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.language import Plan, ReplicaPlan, StagePlan
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.errors import ConfigError

Span = tuple[int, int]


def check_plan(plan: Plan, *, num_layers: int, atoms: ShardAtoms) -> None:
    """Every layer in one stage of each replica, every head, column and vocabulary row in one shard of each stage.

    Raises:
        ConfigError: naming the place and what is wrong there.
    """
    if not plan.replicas:
        raise ConfigError("the plan has no replicas")
    for index, replica in enumerate(plan.replicas):
        place = f"replica {index}"
        _check_covered([(s.first_layer, s.last_layer) for s in replica.stages], num_layers, f"{place}: layers")
        if replica.num_blocks < 1 or plan.block_size < 1:
            raise ConfigError(f"{place}: it needs at least one KV block of at least one token")
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


def _check_covered(spans: Sequence[Span], total: int, what: str) -> None:
    """The spans must follow each other from 0 to total."""
    reached = 0
    for first, last in spans:
        if first != reached or last < first:
            raise ConfigError(f"{what} {first} to {last} do not follow on {reached}")
        reached = last
    if reached != total:
        raise ConfigError(f"{what} end at {reached}, but the model has {total}")
