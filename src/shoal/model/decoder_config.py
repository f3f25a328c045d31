"""A decoder-only language model as data: one builder serves every family, the family is only this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Activation = Literal["silu", "gelu", "gelu_tanh"]
"""of the MLP's gate; `gelu_tanh` is the approximation by a hyperbolic tangent"""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Everything the graph builder, the KV storage and the planner need to know about a model."""

    family: Literal["llama", "qwen2", "qwen3", "gemma3", "phi3"]
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_context: int
    """longest sequence in tokens that the model was made for"""
    norm_epsilon: float
    rope: RopeConfig
    local_rope: RopeConfig | None = None
    """of sliding-window layers where it differs (Gemma 3)"""
    tied_embeddings: bool = False
    """the head is the embedding matrix"""
    qkv_bias: bool = False
    o_bias: bool = False
    """after attention's output projection"""
    mlp_bias: bool = False
    """of gate, up and down"""
    qk_norm: bool = False
    """RMS norm of every query and key head before the rotary embedding (Qwen3, Gemma 3)"""
    post_norms: bool = False
    """norms after attention and after the MLP, before each residual sum (Gemma 3)"""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    attention_scale: float
    """factor on q.k, usually head_dim ** -0.5"""
    attention_softcap: float = 0.0
    """cap * tanh(score / cap); 0 for none"""
    final_softcap: float = 0.0
    """the same on the logits"""
    layer_windows: tuple[int, ...] = ()
    """sliding window in tokens per layer, 0 for full attention; empty means full everywhere"""
    eos_token_ids: tuple[int, ...] = ()

    def window(self, layer: int) -> int:
        """Sliding window of a layer in tokens, 0 for none."""
        return self.layer_windows[layer] if self.layer_windows else 0

    def layer_rope(self, layer: int) -> RopeConfig:
        """The rotary embedding that a layer uses."""
        return self.local_rope if self.local_rope is not None and self.window(layer) else self.rope
