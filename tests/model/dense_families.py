"""Settings of tiny models of families that differ from a Llama in norms, MLPs or the order of their parts."""

from __future__ import annotations

from typing import Any

DENSE_FAMILIES: dict[str, dict[str, Any]] = {
    "starcoder2": {"sliding_window": 24},
    "stablelm": {"use_qkv_bias": True},
    "nemotron": {"head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.5},
    "cohere2": {"sliding_window": 24, "logit_scale": 0.5, "attention_bias": True},
    "gpt2": {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512, "n_inner": None},
    "gpt_neox": {},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True, "bias": True, "ffn_hidden_size": 128},
    "phi": {},
}
"""by model type"""
