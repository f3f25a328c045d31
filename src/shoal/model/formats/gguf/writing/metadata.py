"""The metadata of a GGUF file for a model. This is the reverse of `formats/gguf/config.py`, with which the written file
is read again to check it.

Source of the keys: GGUF specification; gguf-py/gguf/constants.py; llama.cpp, convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import numpy as np

from shoal.arrays import F32
from shoal.errors import ModelLoadError
from shoal.model.attention.rope import plain_frequencies, scaled_frequencies
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.architectures import ARCHITECTURES as KNOWN
from shoal.model.formats.gguf.settings.experts import SIGMOID
from shoal.model.formats.gguf.writing.recurrent import layer_keys
from shoal.model.layer_config.attention import RopeConfig
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.recurrence.delta_net import DeltaNetConfig

ARCHITECTURES = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "ministral"), "llama"),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen2vl"), "qwen2"),
    **dict.fromkeys(("qwen3_vl", "qwen3vl"), "qwen3"),
    **dict.fromkeys(("qwen3_vl_moe", "qwen3vlmoe"), "qwen3moe"),
    **{
        name: name for name in ("qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "granite", "smollm3", "seed_oss")
    },
    **{"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "glm4_moe": "glm4moe", "gpt_oss": "gpt-oss"},
    "gemma3_text": "gemma3",
    **dict.fromkeys(("gemma3n", "gemma3n_text"), "gemma3n"),
    **dict.fromkeys(("gemma4", "gemma4_text"), "gemma4"),
    **{name: name for name in ("arcee", "olmo2", "olmoe", "exaone4", "ernie4_5", "internlm2", "glm4", "cohere2")},
    **{name: name for name in ("stablelm", "starcoder2", "nemotron", "falcon", "gpt2", "phimoe", "mistral3")},
    **dict.fromkeys(("granitemoe", "granitemoeshared"), "granitemoe"),
    **dict.fromkeys(("llama4", "llama4_text"), "llama4"),
    **{"internlm3": "llama", "ministral3": "mistral3", "olmo3": "olmo2", "ernie4_5_moe": "ernie4_5-moe"},
    **{"glm": "chatglm", "cohere": "command-r", "phi": "phi2", "gpt_neox": "gptneox", "minimax_m2": "minimax-m2"},
    **{"hunyuan_v1_dense": "hunyuan-dense", "hunyuan_v1_moe": "hunyuan-moe"},
    **{"lfm2": "lfm2", "lfm2_moe": "lfm2moe", "qwen3_next": "qwen3next", "granitemoehybrid": "granitehybrid"},
    **dict.fromkeys(("qwen3_5", "qwen3_5_text"), "qwen35"),
    **dict.fromkeys(("qwen3_5_moe", "qwen3_5_moe_text"), "qwen35moe"),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"), "deepseek2"),
    **{"nemotron_h": "nemotron_h", "nemotron_h_moe": "nemotron_h_moe"},
}
"""GGUF architectures by the `model_type` of a config.json; models from a GGUF file have their architecture as family.
Text parts of vision models are written as the text models that compute the same."""
_TOLERANCE = 1e-6
"""Relative tolerance for numbers that GGUF holds in fp32."""
_WITH_SHARED_COUNT = ("glm4moe", "ernie4_5-moe", "hunyuan-moe", "deepseek2")
_WITH_WEIGHTS_KEYS = ("glm4moe", "deepseek2", "nemotron_h_moe")
"""Architectures whose files say how the weights of a token's experts are computed."""


def architecture_of(config: DecoderConfig) -> str:
    """The GGUF architecture of a model. Raises ModelLoadError for a family that cannot be written as GGUF."""
    if config.family == "nemotron_h" and config.experts is not None:
        return "nemotron_h_moe"
    if config.family in ARCHITECTURES.values():
        return config.family
    if config.family not in ARCHITECTURES:
        raise ModelLoadError(
            f"a model of the family {config.family} cannot be written as GGUF; those of {', '.join(ARCHITECTURES)} can"
        )
    return ARCHITECTURES[config.family]


def metadata_of(config: DecoderConfig, architecture: str) -> dict[str, Any]:
    """Metadata by keys without the architecture's name: whole numbers, floats, booleans and lists of them."""
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
        f"attention.{_norm_kind(architecture)}_epsilon": float(config.norm_epsilon),
        **dict(_numbers(config, architecture)),
        **dict(_windows(config, architecture)),
        **dict(_rope(config, architecture)),
        **dict(_experts(config, architecture)),
        **dict(layer_keys(config, architecture)),
    }


def _norm_kind(architecture: str) -> str:
    is_centered = KNOWN[architecture].centers_norms and architecture != "phimoe"  # llama.cpp uses RMS norms there
    return "layer_norm" if is_centered else "layer_norm_rms"


def rope_tensors(config: DecoderConfig) -> dict[str, F32]:
    """Divisors of rotary frequencies, which no key holds."""
    scaling = config.rope.scaling
    if config.rope.divisors or _kind(config.rope) == "llama3":
        frequencies_R, _ = scaled_frequencies(config.rope, config.max_context)
        return {"rope_freqs.weight": (plain_frequencies(config.rope) / frequencies_R).astype(np.float32)}
    if _kind(config.rope) == "longrope":
        return {f"rope_factors_{name}.weight": np.array(scaling[f"{name}_factor"], np.float32) for name in _LISTS}
    return {}


def differences(meant: DecoderConfig, written: DecoderConfig) -> list[str]:
    """Names of the settings that a file does not express as they are meant."""
    has_dense = meant.experts is None or len(meant.experts.dense_layers) > 0
    if not has_dense:
        meant = replace(meant, intermediate_size=written.intermediate_size)
    meant = replace(meant, family=written.family, eos_token_ids=written.eos_token_ids)
    meant, written = _without_what_counts_for_nothing(meant), _without_what_counts_for_nothing(written)
    names = [field.name for field in fields(DecoderConfig)]
    return [name for name in names if not _are_same(getattr(meant, name), getattr(written, name), meant.max_context)]


def _without_what_counts_for_nothing(config: DecoderConfig) -> DecoderConfig:
    """The settings without those that have no effect: windows of 0, the ranking of expert groups if there is only one
    group, the order of value heads, rows of a table that all equal the first one."""
    experts = config.experts
    if experts is not None and experts.num_groups == 1:
        experts = replace(experts, num_group_scores=1)
    recurrence = config.recurrence
    if isinstance(recurrence, DeltaNetConfig):
        recurrence = replace(recurrence, in_turn=False)
    inputs = config.layer_inputs
    if inputs is not None:
        inputs = replace(inputs, vocab_size=config.vocab_size)
    config = replace(config, recurrence=recurrence, layer_inputs=inputs)
    return replace(config, experts=experts, layer_windows=config.layer_windows if any(config.layer_windows) else ())


def _are_same(one: Any, other: Any, max_context: int) -> bool:
    if isinstance(one, RopeConfig) and isinstance(other, RopeConfig):
        if one.rotary_dim != other.rotary_dim:
            return False
        (first_R, factor), (second_R, other_factor) = (scaled_frequencies(rope, max_context) for rope in (one, other))
        return np.allclose([*first_R, factor], [*second_R, other_factor], rtol=_TOLERANCE, atol=0)
    if is_dataclass(one) and type(one) is type(other):
        return all(
            _are_same(getattr(one, field.name), getattr(other, field.name), max_context) for field in fields(one)
        )
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        pairs = zip(cast(tuple[Any, ...], one), cast(tuple[Any, ...], other), strict=True)
        return all(_are_same(mine, yours, max_context) for mine, yours in pairs)
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=_TOLERANCE, atol=0))
    return one == other


def _numbers(config: DecoderConfig, architecture: str) -> Iterator[tuple[str, float]]:
    if config.attention_softcap:
        yield "attn_logit_softcapping", float(config.attention_softcap)
    if config.final_softcap:
        yield "final_logit_softcapping", float(config.final_softcap)
    says_scale = config.latent is None and not KNOWN[architecture].has_variants
    if says_scale and not np.isclose(config.attention_scale, config.head_dim**-0.5, rtol=_TOLERANCE):
        yield "attention.scale", float(config.attention_scale)
    if architecture in ("granite", "granitemoe", "granitehybrid"):
        yield "embedding_scale", float(config.embedding_scale)
        yield "residual_scale", float(config.residual_scale)
    if KNOWN[architecture].logits_scale:
        is_divisor = KNOWN[architecture].logits_scale == "divisor"
        yield "logit_scale", 1.0 / config.logits_scale if is_divisor else float(config.logits_scale)
    if architecture in ("gptneox", "stablelm"):
        yield "use_parallel_residual", config.is_parallel
    if KNOWN[architecture].has_temperature and config.query_scaling is not None:
        yield "attention.temperature_scale", float(config.query_scaling.strength)


def _windows(config: DecoderConfig, architecture: str) -> Iterator[tuple[str, Any]]:
    window = max(config.layer_windows, default=0)
    if not window and architecture == "llama4":
        yield "attention.sliding_window", 0
    if not window:
        return
    yield "attention.sliding_window", window
    if KNOWN[architecture].slides == "some" and architecture != "llama4":
        yield "attention.sliding_window_pattern", [slides > 0 for slides in config.layer_windows]


_LISTS = ("short", "long")


def _kind(rope: RopeConfig) -> str:
    return str(rope.scaling.get("rope_type", rope.scaling.get("type", "default")))


def _rope(config: DecoderConfig, architecture: str) -> Iterator[tuple[str, Any]]:
    rope, scaling = config.rope, config.rope.scaling
    yield "rope.freq_base", float(rope.theta)
    yield "rope.dimension_count", rope.rotary_dim
    if config.local_rope is not None and config.local_rope.theta != rope.theta:
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
            if architecture != "deepseek2":
                yield "rope.scaling.yarn_attn_factor", float(factor)
            if "mscale_all_dim" in scaling:  # of which deepseek2 has a tenth
                share = 0.1 if architecture == "deepseek2" else 1.0
                yield "rope.scaling.yarn_log_multiplier", share * scaling["mscale_all_dim"]
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
    yield from _dense_layers(config.num_layers, experts, architecture)
    yield "expert_count", experts.num_experts
    yield "expert_used_count", experts.num_chosen
    if architecture != "llama":
        yield "expert_feed_forward_length", experts.columns
    if experts.shared_columns and not experts.has_own_norms:
        yield "expert_shared_feed_forward_length", experts.shared_columns
    if architecture in _WITH_SHARED_COUNT:
        yield "expert_shared_count", experts.shared_columns // experts.columns
    if experts.scoring == "sigmoid":
        yield "expert_gating_func", SIGMOID
    if architecture in _WITH_WEIGHTS_KEYS:
        yield "expert_weights_scale", float(experts.scale)
        yield "expert_weights_norm", experts.is_normalized
        yield "expert_group_count", experts.num_groups
        yield "expert_group_used_count", experts.num_chosen_groups


def _dense_layers(num_layers: int, experts: ExpertsConfig, architecture: str) -> Iterator[tuple[str, Any]]:
    """The layers without experts, which must be the first ones, or all but every n-th. Raises ModelLoadError for
    others."""
    dense, layers = experts.dense_layers, range(num_layers)
    if architecture == "llama4":
        for step in range(1, num_layers + 1):
            if dense == tuple(layer for layer in layers if (layer + 1) % step):
                yield "interleave_moe_layer_step", step
                return
    if KNOWN[architecture].has_single_halves:
        return
    if architecture in ("glm4moe", "ernie4_5-moe", "deepseek2", "lfm2moe") and dense == tuple(layers[: len(dense)]):
        yield "leading_dense_block_count", len(dense)
        if architecture == "ernie4_5-moe":
            yield "interleave_moe_layer_step", 1
        return
    if dense:
        raise ModelLoadError(f"llama.cpp knows no {architecture} model whose layers {dense} have no experts")


def described(differing: list[str], meant: DecoderConfig, written: DecoderConfig) -> str:
    """The settings that differ, with both values."""
    pairs = ((name, getattr(meant, name), getattr(written, name)) for name in differing)
    return "; ".join(f"{name} is {one!r:.200} and would be read as {other!r:.200}" for name, one, other in pairs)
