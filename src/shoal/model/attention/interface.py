"""Attention of a flat batch over the paged KV cache: one interface, with a native and a NumPy implementation.

One call for each layer rotates queries and keys, appends keys and values to the cache, and attends. A batch mixes
prefill chunks and decode rows freely; sequence b owns rows query_starts[b]:query_starts[b+1].

Shapes: T rows, B sequences, M block-table width, N blocks, H kv heads, D head_dim, S block_size, Q fused width
(num_heads + 2 num_kv_heads) D, O num_heads D, C max_context, R rotary_dim / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I32
from shoal.model.decoder_config import DecoderConfig

KV = npt.NDArray[np.float32 | np.float16 | np.uint8]
"""Keys or values in the cache. Arithmetic is fp32: values are rounded to fp16 (to nearest even) when they are stored,
and widened exactly when they are read. Codes of 8 bits are multiplied exactly by codes of queries and weights, and only
their sums become fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """One layer's attention, or one shard's share of its heads."""

    num_heads: int
    """Query heads, a multiple of num_kv_heads."""
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    """Leading dimensions that rotate; even, at most head_dim."""
    scale: float
    """Factor on q.k."""
    window: int = 0
    """Tokens that a row sees, including its own; 0: all."""
    in_chunks: bool = False
    """Whether windows are fixed chunks: a row sees back to the last multiple of the window."""
    sees_all: bool = False
    """Whether a row sees its sequence's whole context, including later tokens (encoders)."""
    norm_epsilon: float = 0.0
    """Epsilon of the norms of rotated queries and keys."""
    softcap: float = 0.0
    """Scores become cap * tanh(score / cap); 0: they stay."""
    only_reads: bool = False
    """Whether keys and values belong to another layer, so that rows have only queries."""

    @classmethod
    def of(cls, config: DecoderConfig, layer: int) -> AttentionShape:
        """The whole attention of one layer of a model."""
        heads = config.layer_heads(layer)
        return cls(
            num_heads=config.num_heads,
            num_kv_heads=heads.num_kv_heads,
            head_dim=heads.head_dim,
            rotary_dim=0 if layer in config.no_rope_layers else config.layer_rope(layer).rotary_dim,
            scale=config.attention_scale,
            window=config.window(layer),
            in_chunks=config.in_chunks,
            sees_all=config.sees_all,
            norm_epsilon=config.norm_epsilon,
            softcap=config.attention_softcap,
            only_reads=config.kv_source(layer) != layer,
        )

    @property
    def qkv_width(self) -> int:
        """Columns of the fused projection: q heads, k heads, v heads."""
        return (self.num_heads + (0 if self.only_reads else 2 * self.num_kv_heads)) * self.head_dim

    @property
    def out_width(self) -> int:
        return self.num_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionVectors:
    """The vectors of a layer's attention; None for those it does not have."""

    sinks: F32 | None = None
    """[num_heads] for each head, a score that takes part in its softmax but has no value"""
    q_norm: F32 | None = None
    """[D] RMS norm of every rotated query head"""
    k_norm: F32 | None = None
    """[D] RMS norm of every rotated key head; both norms or neither"""
    query_scales: F32 | None = None
    """[C] a further factor on q.k, by the query's position"""
    key_scales: F32 | None = None
    """[N, H, S] factors on keys in codes; native only, for rows that see their whole context"""
    value_scales: F32 | None = None
    """[N, H, S] factors on values in codes; both or neither"""


NO_VECTORS = AttentionVectors()


class AttentionStep(Protocol):
    """One step's checked metadata, shared by all layers."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...


class AttentionLayer(Protocol):
    """The attention of one layer over its part of the cache."""

    def run(self, qkv: F32, out: F32, step: AttentionStep, /) -> None:
        """Rotate, append keys and values, attend.

        Shapes: qkv [T, Q] before rotation (q heads, k heads, v heads), out [T, O]; both C-contiguous.
        Mutates: out, and the cache's slots of the step's rows.
        Raises: ValueError for a wrong shape or a step made for another cache, TypeError for a wrong type.
        """
        ...


class Attention(Protocol):
    """Makes layers and steps that fit each other. A worker has one, which owns the compute threads."""

    @property
    def is_native(self) -> bool: ...

    def layer(
        self,
        shape: AttentionShape,
        keys: KV,
        values: KV,
        cos: F32,
        sin: F32,
        vectors: AttentionVectors = NO_VECTORS,
    ) -> AttentionLayer:
        """The attention of one layer, which keeps the arrays alive.

        Shapes: keys [N, H, D, S], values [N, H, S, D] (see `kv_storage`), cos and sin [C, R].
        Raises: ValueError if shapes do not fit each other, TypeError if keys and values are not both float32, both
        float16 or both codes.
        """
        ...

    def step(
        self,
        *,
        positions: I32,
        query_starts: I32,
        context_lens: I32,
        block_tables: I32,
        angles: tuple[F32, F32] | None = None,
        ends_seen: I32 | None = None,
    ) -> AttentionStep:
        """Check and copy one step's metadata; the arrays may change afterwards.

        Args:
            positions: [T]
            query_starts: [B+1]
            context_lens: [B]
            block_tables: [B, M], -1 beyond the last block.
            angles: cosine and sine [T, R] by which rows are rotated in every layer; None: those of their positions.
            ends_seen: [T] the position before which each row sees tokens; None: a row sees up to its own token.

        Raises: ValueError for anything that would read or write outside a sequence's own blocks.
        """
        ...
