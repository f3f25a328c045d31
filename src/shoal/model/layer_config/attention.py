"""Attention of a decoder's layers as data: rotary embeddings, queries that grow, compressed keys and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LATENT_EPSILON = 1e-6
"""Of the norms of compressed rows, whatever a model's others have. Source: transformers, DeepseekV3RMSNorm's default"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of one kind of layer. Source: RoFormer, arXiv 2104.09864, half-split form."""

    theta: float
    rotary_dim: int
    """leading dimensions of a head that rotate; even, at most head_dim"""
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """Hugging Face `rope_scaling` (rope_type linear, llama3, yarn, longrope); empty for none"""
    divisors: tuple[float, ...] = ()
    """of each frequency, beside the scaling (Llama 3 in GGUF); empty for none"""
    magnitude: float = 1.0
    """factor on cosine and sine, beside the scaling's own"""
    axes: tuple[int, ...] = ()
    """of each frequency, which of a row's positions turns it: 0 time, 1 height, 2 width; empty: rows have one position.
    Source: Qwen2-VL, arXiv 2409.12191, section 2.1"""


def score_factor(rope: RopeConfig) -> float:
    """What YaRN multiplies the scores of latent attention with, beside what it does to cosine and sine.

    Source: transformers, modeling_rope_utils.py, `yarn_apply_mscale`.
    """
    factor, over_all = rope.scaling.get("factor"), rope.scaling.get("mscale_all_dim")
    if rope.scaling.get("rope_type") != "yarn" or not over_all or not factor or factor <= 1:
        return 1.0
    return float((0.1 * over_all * math.log(factor) + 1.0) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryScaling:
    """Queries that grow with their position p: 1 + strength * log(1 + floor((p + offset) / period)).

    Source: transformers, models/llama4 (`attn_temperature_tuning`) and ministral3 (`llama_4_scaling_beta`).
    """

    period: float
    """in tokens"""
    strength: float
    offset: int = 0
    """in tokens"""
    only_unrotated: bool = False
    """whether only layers without a rotary embedding have it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentConfig:
    """Attention whose keys and values are one compressed row a token, over which all heads attend.

    The one key head of `DecoderConfig` has, as its dimensions, those that rotate and then the latent ones.
    Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.
    """

    query_rank: int
    """of the compressed queries; 0: queries come from the hidden state at once"""
    latent_dim: int
    """of the compressed row"""
    plain_dim: int
    """of a head's query, without those that rotate"""
    rotary_dim: int
    value_dim: int
    """of a head's value"""
    norm_epsilon: float
    """of the norms of compressed rows"""
    is_interleaved: bool = True
    """whether neighboring dimensions of the file's weights rotate together"""

    @property
    def query_dim(self) -> int:
        """Of a head."""
        return self.plain_dim + self.rotary_dim

    @property
    def key_dim(self) -> int:
        """What is kept of a token."""
        return self.rotary_dim + self.latent_dim
