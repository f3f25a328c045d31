"""Settings of tiny models of families that differ from a Llama in norms, MLPs or the order of their parts."""

from __future__ import annotations

from typing import Any

_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0}
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
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "ernie4_5": {"head_dim": 16, "use_bias": True},
    "ernie4_5_moe": {"moe_num_experts": 8, "moe_k": 3, "moe_intermediate_size": 96},
    "hunyuan_v1_dense": {"head_dim": 16, "attention_bias": True},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 8, "moe_topk": 3},
    "ministral3": {
        "head_dim": 16,
        "rope_parameters": {**_YARN, "original_max_position_embeddings": 32, "llama_4_scaling_beta": 0.1},
    },
    "llama4_text": {
        "head_dim": 16,
        "num_local_experts": 4,
        "intermediate_size_mlp": 160,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 24,
        "floor_scale": 8,
    },
    "arcee": {"head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "granitemoeshared": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 96,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.7,
        "logits_scaling": 1.5,
    },
    "phimoe": {"num_local_experts": 8, "attention_bias": True, "lm_head_bias": True},
    "minimax_m2": {"head_dim": 16, "num_local_experts": 8, "num_experts_per_tok": 3, "rotary_dim": 8},
}
"""by model type"""
