"""Tiny random models that between them have whatever a native stage computes: biases, gates that fit no common panel,
norms of heads and after sublayers, soft caps, windows, activations, and sizes that fill no block, tile or register."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind

from tests.model.tiny_models import VOCAB_SIZE, make_tiny_model, write_gguf
from tests.native.gemm.raw_blocks import raw_rows

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama-odd": (
        "llama",
        {"hidden_size": 84, "head_dim": 22, "intermediate_size": 75, "mlp_bias": True},
    ),
    "mistral": ("mistral", {"head_dim": 100, "num_key_value_heads": 1}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2}),
    "qwen3": ("qwen3", {"hidden_size": 100, "head_dim": 36, "attention_bias": True, "intermediate_size": 96}),
    "gemma3": ("gemma3_text", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "mixtral": ("mixtral", {"hidden_size": 84, "head_dim": 22, "intermediate_size": 75, "hidden_act": "gelu"}),
    "shared-expert": ("qwen2_moe", {"moe_intermediate_size": 64, "num_experts": 11, "num_experts_per_tok": 1}),
    "gpt-oss": ("gpt_oss", {}),
    "glm": ("glm4_moe", {"moe_intermediate_size": 72, "n_shared_experts": 1}),
    "granite": ("granite", {"attention_bias": True, "mlp_bias": True}),
    "smollm3": ("smollm3", {}),
    "olmo2": ("olmo2", {"attention_bias": True}),
    "exaone4": ("exaone4", {}),
    "llama4": ("llama4_text", {"head_dim": 22, "intermediate_size": 75}),
    "cohere": ("cohere", {"hidden_size": 88, "intermediate_size": 75, "use_qk_norm": True, "attention_bias": True}),
    "gpt-neox": ("gpt_neox", {"hidden_size": 96, "intermediate_size": 75}),
    "lfm2": ("lfm2", {"hidden_size": 84, "head_dim": 22, "num_attention_heads": 2, "num_key_value_heads": 2}),
    "qwen3.5": ("qwen3_5_text", {"hidden_size": 84, "linear_key_head_dim": 20, "linear_value_head_dim": 72}),
    "nemotron-h": ("nemotron_h", {"hidden_size": 84, "mamba_head_dim": 36, "ssm_state_size": 18, "head_dim": 22}),
    "phi3": ("phi3", {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3}),
}
GGUF_KINDS = {
    "attn_q": Kind.Q4_K,
    "attn_k": Kind.Q5_K,
    "attn_v": Kind.F16,
    "attn_output": Kind.Q3_K,
    "ffn_gate": Kind.Q2_K,
    "ffn_up": Kind.IQ4_XS,
    "ffn_down": Kind.Q6_K,
}
NAMES = (*MODELS, "gguf")
NATIVE_ONLY = ("lfm2", "qwen3.5", "nemotron-h")
"""of which there is no ONNX form"""


def write_native_model(name: str, folder: Path) -> Path:
    """One of NAMES."""
    if name == "gguf":
        return write_mixed_gguf(folder / "mixed.gguf")
    family, settings = MODELS[name]
    return make_tiny_model(family, folder, **settings)


def write_mixed_gguf(path: Path) -> Path:
    """Two layers, each matrix of another kind: floats beside blocks, and parts of 16 inputs beside those of 32."""
    hidden, columns, kv_width, rng = 256, 512, 128, np.random.default_rng(0)
    shapes = {
        "attn_q": (hidden, hidden),
        "attn_k": (kv_width, hidden),
        "attn_v": (kv_width, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (columns, hidden),
        "ffn_up": (columns, hidden),
        "ffn_down": (hidden, columns),
    }
    tensors: dict[str, np.ndarray] = {"token_embd.weight": rng.standard_normal((VOCAB_SIZE, hidden), np.float32)}
    kinds = {"token_embd.weight": "Q8_0"}
    for layer in range(2):
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{norm}.weight"] = 1 + 0.1 * rng.standard_normal(hidden, np.float32)
        for leaf, shape in shapes.items():
            name = f"blk.{layer}.{leaf}.weight"
            rows = raw_rows(GGUF_KINDS[leaf], *shape, seed=layer)
            tensors[name], kinds[name] = rows, GGUF_KINDS[leaf].name
    tensors["output_norm.weight"] = 1 + 0.1 * rng.standard_normal(hidden, np.float32)
    metadata = {
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": columns,
        "llama.rope.dimension_count": hidden // 4,
    }
    return write_gguf(path, "llama", tensors, quant=kinds, metadata=metadata)
