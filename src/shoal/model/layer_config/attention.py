"""Attention of a decoder's layers as data: rotary embeddings, scaled queries, compressed keys and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LATENT_EPSILON = 1e-6
"""Epsilon of the norms of latent rows, whatever a model's other norms have. Source: transformers, DeepseekV3RMSNorm's
default"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of one kind of layer. Source: RoFormer, arXiv 2104.09864, half-split form."""

    theta: float
    rotary_dim: int
    """Leading dimensions of a head that rotate; even, at most head_dim."""
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """Hugging Face's `rope_scaling` (rope_type linear, llama3, yarn, longrope); empty for none."""
    divisors: tuple[float, ...] = ()
    """Divisor of each frequency, in addition to the scaling (Llama 3 in GGUF); empty for none."""
    magnitude: float = 1.0
    """Factor on cosine and sine, in addition to the scaling's own."""
    axes: tuple[int, ...] = ()
    """For each frequency, which of a row's positions rotates it: 0 time, 1 height, 2 width; empty: rows have one
    position. Source: Qwen2-VL, arXiv 2409.12191, section 2.1"""


def score_factor(rope: RopeConfig) -> float:
    """YaRN's factor on the scores of latent attention, in addition to its factor on cosine and sine.

    Source: transformers, modeling_rope_utils.py, `yarn_apply_mscale`.
    """
    factor, over_all = rope.scaling.get("factor"), rope.scaling.get("mscale_all_dim")
    if rope.scaling.get("rope_type") != "yarn" or not over_all or not factor or factor <= 1:
        return 1.0
    return float((0.1 * over_all * math.log(factor) + 1.0) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryScaling:
    """A factor on queries that grows with their position p: 1 + strength * log(1 + floor((p + offset) / period)).

    Source: transformers, models/llama4 (`attn_temperature_tuning`) and ministral3 (`llama_4_scaling_beta`).
    """

    period: float
    """Period in tokens."""
    strength: float
    offset: int = 0
    """Offset in tokens."""
    only_unrotated: bool = False
    """Whether only layers without a rotary embedding have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig:
    """Attention whose keys and values are one compressed row for each token, over which all heads attend.

    The one key head of `DecoderConfig` consists of the rotating dimensions, followed by the latent ones.
    Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.
    """

    query_rank: int
    """Dimensions of compressed queries; 0: queries are computed directly from the hidden state."""
    latent_dim: int
    """Dimensions of the compressed row."""
    plain_dim: int
    """Dimensions of a head's query that do not rotate."""
    rotary_dim: int
    value_dim: int
    """Dimensions of a head's value."""
    norm_epsilon: float
    """Epsilon of the norms of compressed rows."""
    is_interleaved: bool = True
    """Whether neighboring dimensions rotate together in the file's weights."""

    @property
    def query_dim(self) -> int:
        """Dimensions of a head's query."""
        return self.plain_dim + self.rotary_dim

    @property
    def key_dim(self) -> int:
        """Numbers that are kept for each token."""
        return self.rotary_dim + self.latent_dim
