"""What one stage of a language model, or one shard of it, holds and may use: the head says it, the worker builds it.

Plain dataclasses, which travel inside messages as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

BLOCK_SIZE = 16
"""Tokens in a KV block. Source: arXiv 2309.06180, section 7.2: 16 loses little to fragmentation at any length."""
Precision = Literal["auto", "fp32", "int8", "int4"]
"""of matrices; `auto` keeps that of a quantized file"""


MAX_TURNS = 64
"""Of the shards that hold the same expert. Source: native/stage/runners/experts.h, bits of a word."""


class ExpertSpan(NamedTuple):
    """Neighboring experts that a shard holds whole, and which of their rows it computes."""

    first: int
    last: int
    """The first expert after them."""
    num_turns: int = 1
    """1 to 64. More than one where several shards hold the same experts."""
    turns: int = 1
    """Bits: the shard computes rows whose position in their sequence is t modulo `num_turns`, where bit t is set. So
    the shard that computes a row depends on nothing but the row."""

    @property
    def row_share(self) -> float:
        """As many experts' rows as these have here, if all experts have as many."""
        return (self.last - self.first) * self.turns.bit_count() / self.num_turns


LayerExperts = tuple[ExpertSpan, ...]
"""The experts of one layer that a shard holds, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPart:
    """Which part of every matrix of a stage one shard holds, as [first, last) ranges.

    Embedding and head by vocabulary rows, attention by whole KV-head groups (a KV head and the query heads that
    read it), the MLP by columns. Experts are either cut by columns, as an MLP is, or dealt out whole: then `columns`
    are those of the other MLPs. Empty ranges are allowed for KV heads, and for columns where experts are dealt out.
    """

    kv_heads: tuple[int, int]
    columns: tuple[int, int]
    vocabulary: tuple[int, int]
    experts: tuple[LayerExperts, ...] = ()
    """Experts that the shard holds whole: of each layer of the model, or once for all layers alike. Empty: the shard
    has its columns of every expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What one stage holds and how much of everything it may use."""

    first_layer: int
    last_layer: int
    """exclusive"""
    precision: Precision
    threads: int
    """compute threads"""
    num_blocks: int
    """KV blocks"""
    block_size: int
    """tokens in a KV block"""
    max_step_tokens: int
    """rows of the largest flat batch"""
    max_context: int
    """longest sequence in tokens"""
    num_states: int = 0
    """slots for the state of recurrent layers; 0: the model has none"""
    num_memories: int = 0
    """slots for what an encoder gave for a sequence; 0: the model has none"""
    exact_activations: bool = False
    """at least 15 bits an activation in the place of 8: slower, and closer to what fp32 would say"""
    part: ShardPart | None = None
    """of every matrix; None: all of it"""

    @property
    def num_positions(self) -> int:
        """Positions of the longest sequence that the KV cache can hold.

        A file may claim a context of any length, and rotary tables would be made for all of it.
        """
        return min(self.max_context, self.num_blocks * self.block_size)

    @property
    def first_token_id(self) -> int:
        """Token of the first vocabulary row."""
        return self.part.vocabulary[0] if self.part else 0
