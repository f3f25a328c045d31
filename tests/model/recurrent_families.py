"""Settings of tiny models of families with recurrent layers."""

from __future__ import annotations

from typing import Any

_CONVOLUTIONS = {"layer_types": ["conv", "full_attention", "conv", "conv"]}
_DELTA = {
    "head_dim": 16,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
}
_EXPERTS = {"moe_intermediate_size": 96, "num_experts": 8, "num_experts_per_tok": 3}
_SHARED = {"shared_expert_intermediate_size": 128}
RECURRENT_FAMILIES: dict[str, dict[str, Any]] = {
    "lfm2": {**_CONVOLUTIONS, "block_auto_adjust_ff_dim": False, "tie_word_embeddings": False},
    "lfm2_moe": {**_CONVOLUTIONS, **_EXPERTS, "num_dense_layers": 1},
    "qwen3_next": {**_DELTA, **_EXPERTS, **_SHARED},
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe_text": {**_DELTA, **_EXPERTS, **_SHARED},
    "granitemoehybrid": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 96,
        "mamba_n_heads": 8,
        "mamba_d_state": 18,
        "mamba_chunk_size": 32,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.7,
        "logits_scaling": 1.5,
    },
    "nemotron_h": {
        "head_dim": 16,
        "ssm_state_size": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 24,
        "n_groups": 4,
        "chunk_size": 32,
        "time_step_min": 1e-6,
        "time_step_max": 2.0,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 96,
        "moe_shared_expert_intermediate_size": 128,
        "routed_scaling_factor": 1.5,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention", "moe"],
    },
}
"""by model type"""
