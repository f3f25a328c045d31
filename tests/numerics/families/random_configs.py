"""Random settings of every family, over what its configuration class has: for sweeps against transformers."""

from __future__ import annotations

import random
from typing import Any

from tests.model.tiny_models import FAMILIES

CONTEXT = 96
"""tokens: longer than every window and every original context below"""
LLAMA_ROPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")

YARN_OPTIONS: tuple[dict[str, float], ...] = (
    {},
    {"beta_fast": 8.0, "beta_slow": 2.0},
    {"attention_factor": 1.3},
    {"mscale": 0.7, "mscale_all_dim": 1.2},
)


def random_config(seed: int) -> tuple[str, dict[str, Any]]:
    """A family, each in turn, and settings for `make_tiny_model`."""
    rng, family = random.Random(seed), FAMILIES[seed % len(FAMILIES)]
    kv_heads = rng.choice((1, 2, 3))
    heads = kv_heads * rng.choice((1, 2, 3))
    head_dim = rng.choice((8, 12, 16, 20, 36, 100))
    settings: dict[str, Any] = {
        "num_hidden_layers": rng.choice((1, 2, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": heads * rng.choice((8, 20, 32)) if family != "phi3" else heads * head_dim,
        "intermediate_size": rng.choice((40, 96)),
        "rms_norm_eps": rng.choice((1e-6, 1e-5, 1e-3)),
        "tie_word_embeddings": rng.random() < 0.5,
        "max_position_embeddings": rng.choice((CONTEXT, 512)),
    }
    if family != "phi3":
        settings["head_dim"] = head_dim
    return family, settings | _own_settings(family, rng, head_dim)


def _own_settings(family: str, rng: random.Random, head_dim: int) -> dict[str, Any]:
    window = rng.choice((None, 1, 17, 24))
    own: dict[str, Any] = {"hidden_act": rng.choice(("silu", "silu", "gelu", "gelu_pytorch_tanh"))}
    match family:
        case "llama":
            own |= {"attention_bias": rng.random() < 0.5, "mlp_bias": rng.random() < 0.5, "sliding_window": 5}
        case "mistral":
            own["sliding_window"] = window
        case "qwen2" | "qwen3":
            own |= {
                "use_sliding_window": window is not None,
                "sliding_window": window,
                "max_window_layers": rng.choice((0, 1, 2)),
            }
            if family == "qwen3":
                own["attention_bias"] = rng.random() < 0.5
        case "gemma3_text":
            return _gemma3_settings(rng, own.pop("hidden_act"), window or 9)
        case _:
            return own | _phi3_settings(rng, window, head_dim)
    return own | {"rope_parameters": _rope(rng, rng.choice(LLAMA_ROPES), head_dim)}


def _gemma3_settings(rng: random.Random, activation: str, window: int) -> dict[str, Any]:
    return {
        "hidden_activation": activation,
        "attention_bias": rng.random() < 0.5,
        "sliding_window": window,
        "layer_types": None,
        "sliding_window_pattern": rng.choice((1, 2, 6)),
        "query_pre_attn_scalar": rng.choice((16, 20)),
        "attn_logit_softcapping": rng.choice((None, 5.0)),
        "final_logit_softcapping": rng.choice((None, 3.0)),
        "rope_parameters": {
            "full_attention": _rope(rng, rng.choice(("default", "linear")), 0, theta=1e6),
            "sliding_attention": _rope(rng, "default", 0),
        },
    }


def _phi3_settings(rng: random.Random, window: int | None, head_dim: int) -> dict[str, Any]:
    kind = rng.choice(("default", "longrope"))
    share = rng.choice((1.0, 0.5)) if head_dim % 4 == 0 else 1.0
    rope = {**_rope(rng, kind, int(head_dim * share)), "partial_rotary_factor": share}
    return {"sliding_window": window, "original_max_position_embeddings": 64, "rope_parameters": rope}


def _rope(rng: random.Random, kind: str, rotary_dim: int, *, theta: float = 1e4) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": theta * rng.choice((1.0, 3.0))}
    original = {"original_max_position_embeddings": 64}
    match kind:
        case "linear" | "dynamic":
            rope["factor"] = 2.5
        case "llama3":
            rope |= {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **original}
        case "yarn":
            rope |= {"factor": 4.0, **original}
            rope |= rng.choice(
                (
                    {},
                    {"beta_fast": 8.0, "beta_slow": 2.0},
                    {"attention_factor": 1.3},
                    {"mscale": 0.7, "mscale_all_dim": 1.2},
                )
            )
        case "longrope":
            pairs = rotary_dim // 2
            rope |= {
                "short_factor": [1.0 + 0.05 * pair for pair in range(pairs)],
                "long_factor": [1.0 + 0.3 * pair for pair in range(pairs)],
                "factor": 8.0,
                **original,
            }
    return rope
