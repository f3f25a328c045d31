"""The part of every layer that each shard of a stage gets."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.core.plan.share_rounding import ranges_of, round_shares
from shoal.errors import ConfigError
from shoal.protocol.stage_config import ExpertSpan, LayerExperts, ShardPart


def shard_parts(
    atoms: ShardAtoms,
    shares: Sequence[float],
    *,
    kv_head_caps: Sequence[int] | None = None,
    column_caps: Sequence[int] | None = None,
    vocabulary_caps: Sequence[int] | None = None,
    expert_shares: Sequence[float] | None = None,
) -> tuple[ShardPart, ...]:
    """Divide KV heads, MLP columns and vocabulary rows by shares, contiguously, in rank order and without overlap.

    Every shard gets some columns (or experts, if these are divided whole) and some rows of the vocabulary. If there are
    fewer KV heads than shards, some shards get none.

    Args:
        atoms: the sizes to divide and their atoms.
        shares: the share of each shard, positive, in any unit.
        kv_head_caps: the most KV heads for which each shard has memory; None: no limit.
        column_caps: the same for columns.
        vocabulary_caps: the same for rows of the vocabulary.
        expert_shares: shares of whole experts; None: every shard has columns of all experts.

    Raises:
        ConfigError: there are more shards than pieces of the MLP or the vocabulary, or the model has no experts.
        CapacityError: the caps do not suffice for everything.
    """
    experts = None if expert_shares is None else deal_experts(atoms, expert_shares)
    if experts is None and len(shares) > atoms.max_shards:
        raise ConfigError(
            f"{len(shares)} shards are more than this model can be cut into: {atoms.intermediate_size} MLP columns in "
            f"pieces of {atoms.column_atom}, {atoms.vocab_size} vocabulary rows in pieces of {atoms.vocab_atom}; "
            f"give at most tp={atoms.max_shards}"
        )

    def cut(
        num_atoms: int, atom: int, total: int, caps: Sequence[int] | None, at_least: int
    ) -> tuple[tuple[int, int], ...]:
        in_atoms = None if caps is None else [cap // atom for cap in caps]
        counts = round_shares(num_atoms, shares, at_least=at_least, caps=in_atoms)
        return ranges_of(counts, atom=atom, total=total)

    kv_heads = cut(atoms.num_kv_atoms, atoms.kv_heads_per_atom, atoms.num_kv_heads, kv_head_caps, 0)
    least_columns = 1 if len(shares) <= atoms.num_column_atoms else 0
    columns = cut(atoms.num_column_atoms, atoms.column_atom, atoms.intermediate_size, column_caps, least_columns)
    vocabulary = cut(atoms.num_vocab_atoms, atoms.vocab_atom, atoms.vocab_size, vocabulary_caps, 1)
    return tuple(
        ShardPart(kv_heads=heads, columns=cols, vocabulary=rows, experts=() if experts is None else (experts[rank],))
        for rank, (heads, cols, rows) in enumerate(zip(kv_heads, columns, vocabulary, strict=True))
    )


def deal_experts(atoms: ShardAtoms, shares: Sequence[float]) -> tuple[LayerExperts, ...]:
    """Divide whole experts by shares, at least one for each shard: contiguous, and the same in all layers.

    Raises:
        ConfigError: the model has no experts, or fewer than shards.
    """
    if atoms.num_experts == 0:
        raise ConfigError("this model has no experts to deal out with ep; use tp, which cuts every layer")
    if len(shares) > atoms.max_expert_shards:
        raise ConfigError(
            f"{len(shares)} shards are more than this model can be dealt out to: {atoms.num_experts} experts, "
            f"{atoms.vocab_size} vocabulary rows in pieces of {atoms.vocab_atom}; give at most "
            f"ep={atoms.max_expert_shards}"
        )
    spans = ranges_of(round_shares(atoms.num_experts, shares, at_least=1))
    return tuple((ExpertSpan(first, last),) for first, last in spans)


def attention_notes(parts: Sequence[ShardPart]) -> tuple[str, ...]:
    """A note for the user about shards without KV heads: one line, or none."""
    without = [rank for rank, part in enumerate(parts) if part.kv_heads[0] == part.kv_heads[1]]
    if not without:
        return ()
    num_kv_heads = max(part.kv_heads[1] for part in parts)
    ranks = ", ".join(map(str, without))
    return (
        f"shard {ranks} of {len(parts)}: no attention, only MLP and vocabulary (the model has {num_kv_heads} KV heads, "
        "which are not divided)",
    )
