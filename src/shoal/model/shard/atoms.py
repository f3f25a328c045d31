"""The smallest pieces into which a model can be cut, and the part that is the whole model."""

from __future__ import annotations

from fractions import Fraction
from math import gcd, lcm

from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import BLOCK
from shoal.protocol.stage_config import ShardPart

VOCAB_ATOM = 32
"""Vocabulary rows in a piece: a whole number of vector registers of logits on all processors (16 fp32 in AVX-512)."""


def shard_atoms(config: DecoderConfig) -> ShardAtoms:
    """The smallest pieces that a shard of a model can have, whatever its quantization. The columns of a model with an
    encoder are one piece."""
    return ShardAtoms(
        num_kv_heads=config.num_head_groups,
        kv_heads_per_atom=_heads_together(config),
        intermediate_size=config.share_columns,
        column_atom=BLOCK if config.encoder is None else config.share_columns,
        vocab_size=config.vocab_size,
        vocab_atom=VOCAB_ATOM,
        num_experts=config.experts.num_experts if config.experts is not None else 0,
    )


def _heads_together(config: DecoderConfig) -> int:
    """Number of head groups that must stay on one shard: all, if queries and keys have norms over all heads. If some
    layers have fewer KV heads, as many as make up a whole one of those."""
    if config.joins_qk_norm:
        return config.num_kv_heads
    together = _heads_of_whole_blocks(config.result_columns, config.num_head_groups)
    if config.full_heads is None:
        return together
    of_full = _heads_of_whole_blocks(config.num_heads * config.full_heads.head_dim, config.full_heads.num_kv_heads)
    ratio = Fraction(config.num_kv_heads * of_full, config.full_heads.num_kv_heads).numerator
    return min(lcm(together, ratio), config.num_kv_heads)


def _heads_of_whole_blocks(result_columns: int, num_groups: int) -> int:
    """Number of head groups whose columns of `o` are whole quantization blocks."""
    if result_columns % BLOCK:
        return 1  # `o` is dense at any precision
    return BLOCK // gcd(BLOCK, result_columns // num_groups)


def whole_part(config: DecoderConfig) -> ShardPart:
    """The whole model: the part of the only shard of a stage."""
    return ShardPart(
        kv_heads=(0, config.num_head_groups), columns=(0, config.share_columns), vocabulary=(0, config.vocab_size)
    )
