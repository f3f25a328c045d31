"""What one stage of a language model, or one shard of it, holds and may use.

Plain dataclasses, which are sent in messages as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

BLOCK_SIZE = 16
"""Tokens in a KV block. Source: arXiv 2309.06180, section 7.2: 16 loses little to fragmentation at any length."""
Precision = Literal["auto", "fp32", "int8", "int4"]
"""The precision of matrices; `auto` keeps that of a quantized file."""


MAX_TURNS = 64
"""The most turns of the shards that hold the same expert. Source: native/stage/runners/experts.h, bits of a word."""


class ExpertSpan(NamedTuple):
    """Consecutive whole experts of a shard, and which of their rows it computes."""

    first: int
    last: int
    """The first expert after the span."""
    num_turns: int = 1
    """The number of turns, 1 to MAX_TURNS; more than 1 if several shards hold the same experts."""
    turns: int = 1
    """Bit mask of turns: the shard computes rows whose position in their sequence is t modulo `num_turns` if bit t is
    set. The shard of a row therefore depends only on the row."""

    @property
    def row_share(self) -> float:
        """The rows that the shard computes for these experts, in units of one expert's rows, if all have equally
        many."""
        return (self.last - self.first) * self.turns.bit_count() / self.num_turns


LayerExperts = tuple[ExpertSpan, ...]
"""The experts of one layer that a shard holds, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPart:
    """The part of every matrix of a stage that one shard holds, as [first, last) ranges.

    Embedding and head are divided by vocabulary rows, attention by KV-head groups (a KV head and the query heads that
    read it), the MLP by columns. Experts are divided either by columns like an MLP, or as whole experts; then `columns`
    are those of the other MLPs. Ranges may be empty for KV heads, and for columns if experts are divided whole.
    """

    kv_heads: tuple[int, int]
    columns: tuple[int, int]
    vocabulary: tuple[int, int]
    experts: tuple[LayerExperts, ...] = ()
    """Whole experts of the shard, for each layer of the model or once for all layers. Empty: the shard has its columns
    of every expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """The contents of one stage and the limits of what it may use."""

    first_layer: int
    last_layer: int
    """The first layer after the stage."""
    precision: Precision
    threads: int
    """Compute threads."""
    num_blocks: int
    """KV blocks."""
    block_size: int
    """Tokens in a KV block."""
    max_step_tokens: int
    """Rows of the largest flat batch."""
    max_context: int
    """The longest sequence in tokens."""
    num_states: int = 0
    """Slots for states of recurrent layers; 0: the model has no such layers."""
    num_memories: int = 0
    """Slots for an encoder's outputs; 0: the model has no encoder."""
    exact_activations: bool = False
    """Whether activations have at least 15 bits instead of 8: slower, and closer to fp32."""
    part: ShardPart | None = None
    """The part of every matrix; None: all of it."""

    @property
    def num_positions(self) -> int:
        """Positions of the longest sequence that the KV cache can hold.

        Rotary tables are made for these only, since a file may claim a context of any length.
        """
        return min(self.max_context, self.num_blocks * self.block_size)

    @property
    def first_token_id(self) -> int:
        """The token of the shard's first vocabulary row."""
        return self.part.vocabulary[0] if self.part else 0
