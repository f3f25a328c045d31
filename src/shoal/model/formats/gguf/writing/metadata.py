"""What a GGUF file says about a model: the reverse of `formats/gguf/config.py`, which is asked afterwards whether it
reads the same.

Source of the keys: GGUF specification; gguf-py/gguf/constants.py; llama.cpp, convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from shoal.arrays import F32
from shoal.errors import ModelLoadError
from shoal.model.attention.rope import plain_frequencies, scaled_frequencies
from shoal.model.decoder_config import DecoderConfig, RopeConfig
from shoal.model.formats.gguf.config import SIGMOID

ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral", "mixtral"), "llama"),
    **{
        name: name for name in ("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "granite", "smollm3", "seed_oss")
    },
    **{"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "glm4_moe": "glm4moe", "gpt_oss": "gpt-oss"},
    "gemma3_text": "gemma3",
}
"""of GGUF, by the `model_type` of config.json; a GGUF file's own is its family"""
_TOLERANCE = 1e-6
"""of numbers that GGUF holds in fp32"""
_WITH_PATTERN = ("gemma2", "gemma3", "gpt-oss")


def architecture_of(config: DecoderConfig) -> str:
    """Raises ModelLoadError for a family that GGUF files are not written of."""
    if config.family in ARCHITECTURES.values():
        return config.family
    if config.family not in ARCHITECTURES:
        raise ModelLoadError(
            f"a model of the family {config.family} cannot be written as GGUF; those of {', '.join(ARCHITECTURES)} can"
        )
    return ARCHITECTURES[config.family]


def metadata_of(config: DecoderConfig, architecture: str) -> dict[str, Any]:
    """Keys below the architecture's, without its name. Whole numbers, floats, booleans and lists of them."""
    experts = config.experts
    is_mixtral = architecture == "llama" and experts is not None
    return {
        "block_count": config.num_layers,
        "context_length": config.max_context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": experts.columns if is_mixtral and experts is not None else config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_epsilon),
        **dict(_numbers(config, architecture)),
        **dict(_windows(config, architecture)),
        **dict(_rope(config)),
        **dict(_experts(config, architecture)),
    }


def rope_tensors(config: DecoderConfig) -> dict[str, F32]:
    """Divisors of frequencies that no key says."""
    scaling = config.rope.scaling
    if config.rope.divisors or _kind(config.rope) == "llama3":
        frequencies_R, _ = scaled_frequencies(config.rope, config.max_context)
        return {"rope_freqs.weight": (plain_frequencies(config.rope) / frequencies_R).astype(np.float32)}
    if _kind(config.rope) == "longrope":
        return {f"rope_factors_{name}.weight": np.array(scaling[f"{name}_factor"], np.float32) for name in _LISTS}
    return {}


def differences(meant: DecoderConfig, written: DecoderConfig) -> list[str]:
    """Settings that a file does not say as they are meant, by name."""
    has_dense = meant.experts is None or len(meant.experts.dense_layers) > 0
    if not has_dense:
        meant = replace(meant, intermediate_size=written.intermediate_size)
    meant = replace(meant, family=written.family, eos_token_ids=written.eos_token_ids)
    meant, written = _without_what_counts_for_nothing(meant), _without_what_counts_for_nothing(written)
    names = [field.name for field in fields(DecoderConfig)]
    return [name for name in names if not _are_same(getattr(meant, name), getattr(written, name), meant.max_context)]


def _without_what_counts_for_nothing(config: DecoderConfig) -> DecoderConfig:
    """Windows that are none, and how groups of experts are ranked where there is one."""
    experts = config.experts
    if experts is not None and experts.num_groups == 1:
        experts = replace(experts, num_group_scores=1)
    return replace(config, experts=experts, layer_windows=config.layer_windows if any(config.layer_windows) else ())


def _are_same(one: Any, other: Any, max_context: int) -> bool:
    if isinstance(one, RopeConfig) and isinstance(other, RopeConfig):
        if one.rotary_dim != other.rotary_dim:
            return False
        (first_R, factor), (second_R, other_factor) = (scaled_frequencies(rope, max_context) for rope in (one, other))
        return np.allclose([*first_R, factor], [*second_R, other_factor], rtol=_TOLERANCE, atol=0)
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=_TOLERANCE, atol=0))
    return one == other


def _numbers(config: DecoderConfig, architecture: str) -> Iterator[tuple[str, float]]:
    if config.attention_softcap:
        yield "attn_logit_softcapping", float(config.attention_softcap)
    if config.final_softcap:
        yield "final_logit_softcapping", float(config.final_softcap)
    if not np.isclose(config.attention_scale, config.head_dim**-0.5, rtol=_TOLERANCE):
        yield "attention.scale", float(config.attention_scale)
    if architecture == "granite":
        yield "embedding_scale", float(config.embedding_scale)
        yield "residual_scale", float(config.residual_scale)
        yield "logit_scale", 1.0 / config.logits_scale


def _windows(config: DecoderConfig, architecture: str) -> Iterator[tuple[str, Any]]:
    window = max(config.layer_windows, default=0)
    if not window:
        return
    yield "attention.sliding_window", window
    if architecture in _WITH_PATTERN:
        yield "attention.sliding_window_pattern", [slides > 0 for slides in config.layer_windows]


_LISTS = ("short", "long")


def _kind(rope: RopeConfig) -> str:
    return str(rope.scaling.get("rope_type", rope.scaling.get("type", "default")))


def _rope(config: DecoderConfig) -> Iterator[tuple[str, Any]]:
    rope, scaling = config.rope, config.rope.scaling
    yield "rope.freq_base", float(rope.theta)
    yield "rope.dimension_count", rope.rotary_dim
    if config.local_rope is not None:
        yield "rope.freq_base_swa", float(config.local_rope.theta)
    _, factor = scaled_frequencies(rope, config.max_context)
    match _kind(rope):
        case "linear":
            yield "rope.scaling.type", "linear"
            yield "rope.scaling.factor", float(scaling["factor"])
        case "yarn":
            yield "rope.scaling.type", "yarn"
            yield "rope.scaling.factor", float(scaling["factor"])
            yield "rope.scaling.original_context_length", int(scaling["original_max_position_embeddings"])
            yield "rope.scaling.yarn_beta_fast", float(scaling.get("beta_fast") or 32)
            yield "rope.scaling.yarn_beta_slow", float(scaling.get("beta_slow") or 1)
            yield "rope.scaling.yarn_attn_factor", float(factor)
        case "longrope":
            yield "rope.scaling.original_context_length", int(scaling["original_max_position_embeddings"])
            yield "rope.scaling.attn_factor", float(factor)
        case "default" | "llama3":
            return
        case kind:
            raise ModelLoadError(f"rope scaling {kind!r} cannot be written as GGUF")


def _experts(config: DecoderConfig, architecture: str) -> Iterator[tuple[str, Any]]:
    experts = config.experts
    if experts is None:
        return
    leading = tuple(range(len(experts.dense_layers))) if architecture == "glm4moe" else ()
    if experts.dense_layers != leading:
        layers = experts.dense_layers
        raise ModelLoadError(f"llama.cpp knows no {architecture} model whose layers {layers} have no experts")
    yield "expert_count", experts.num_experts
    yield "expert_used_count", experts.num_chosen
    if architecture != "llama":
        yield "expert_feed_forward_length", experts.columns
    if experts.shared_columns:
        yield "expert_shared_feed_forward_length", experts.shared_columns
    if architecture == "glm4moe":
        yield "expert_shared_count", experts.shared_columns // experts.columns
        yield "leading_dense_block_count", len(experts.dense_layers)
        yield "expert_gating_func", SIGMOID
        yield "expert_weights_scale", float(experts.scale)
        yield "expert_weights_norm", experts.is_normalized
        yield "expert_group_count", experts.num_groups
        yield "expert_group_used_count", experts.num_chosen_groups


def described(differing: list[str], meant: DecoderConfig, written: DecoderConfig) -> str:
    """Settings that differ, with both values."""
    pairs = ((name, getattr(meant, name), getattr(written, name)) for name in differing)
    return "; ".join(f"{name} is {one!r:.200} and would be read as {other!r:.200}" for name, one, other in pairs)
