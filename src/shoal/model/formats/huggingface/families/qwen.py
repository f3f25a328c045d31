"""Qwen 2 and 3, with and without experts.

Source: transformers, models/qwen2, qwen3, qwen2_moe, qwen3_moe, qwen2_vl, qwen3_vl, qwen3_vl_moe.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.family import EXPERT_NAMES, LAYER_NAMES, OTHER_MODALITIES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.rope_axes import axes_in_runs, axes_in_turn
from shoal.model.layer_config.experts import ExpertsConfig

_DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_MOE_DEFAULTS = {
    **_DEFAULTS,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1408,
    "decoder_sparse_step": 1,
}
_QWEN2_MOE_DEFAULTS = {
    **_MOE_DEFAULTS,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "qkv_bias": True,
}
_QWEN3_MOE_DEFAULTS = {
    **_MOE_DEFAULTS,
    "intermediate_size": 6144,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 8,
    "num_experts": 128,
    "moe_intermediate_size": 768,
}
_QWEN3_VL_MOE_DEFAULTS = {
    **_MOE_DEFAULTS,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 128000,
    "num_experts": 60,
    "norm_topk_prob": True,
    "rope_theta": 5e6,
}
_QWEN3_VL_MOE_NAMES = {
    **LAYER_NAMES,
    **EXPERT_NAMES,
    "experts.*.gate": "mlp.experts.gate_up_proj",
    "experts.*.up": "mlp.experts.gate_up_proj",
    "experts.*.down": "mlp.experts.down_proj",
}
_MOE_NAMES = {**LAYER_NAMES, **EXPERT_NAMES}


_SECTIONS = (16, 24, 24)
"""Source: transformers, Qwen2_5_VLRotaryEmbedding's default"""
_SECTIONS3 = (24, 20, 20)
"""Source: transformers, Qwen3VLTextRotaryEmbedding's default"""


def _read_qwen2(settings: Settings) -> DecoderConfig:
    return settings.decoder(qkv_bias=True, layer_windows=_last_slide(settings))


def _read_qwen2_vl(settings: Settings) -> DecoderConfig:
    config = _read_qwen2(settings)
    shares = _sections(settings, config.rope.rotary_dim // 2, _SECTIONS)
    return replace(config, rope=replace(config.rope, axes=axes_in_runs(shares)))


def _read_qwen3_vl(settings: Settings) -> DecoderConfig:
    return _with_turns(_read_qwen3(settings), settings)


def _read_qwen3_vl_moe(settings: Settings) -> DecoderConfig:
    return _with_turns(_read_qwen3_moe(settings), settings)


def _with_turns(config: DecoderConfig, settings: Settings) -> DecoderConfig:
    shares = _sections(settings, config.rope.rotary_dim // 2, _SECTIONS3)
    return replace(config, rope=replace(config.rope, axes=axes_in_turn(shares) if shares else ()))


def _sections(settings: Settings, num_frequencies: int, default: tuple[int, ...]) -> list[int]:
    """Number of rotary frequencies for each axis; empty if neither file nor default gives it. Raises ModelLoadError."""
    shares = settings.rope_parameters("full_attention").get("mrope_section")
    if shares is None:
        return list(default) if sum(default) == num_frequencies else []
    if not isinstance(shares, list) or len(shares) != 3 or any(type(one) is not int or one < 0 for one in shares):
        raise ModelLoadError(f"{settings.path}: 'mrope_section' is {shares!r:.200}, which are not counts")
    if sum(shares) != num_frequencies:
        raise ModelLoadError(f"{settings.path}: 'mrope_section' has {sum(shares)} of {num_frequencies} frequencies")
    return shares


def _read_qwen3(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("attention_bias")
    return settings.decoder(qkv_bias=has_bias, o_bias=has_bias, qk_norm=True, layer_windows=_last_slide(settings))


def _read_qwen2_moe(settings: Settings) -> DecoderConfig:
    return settings.decoder(
        qkv_bias=settings.flag("qkv_bias"),
        layer_windows=_first_slide(settings),
        **qwen_experts(settings, shared_columns=settings.positive("shared_expert_intermediate_size")),
    )


def _read_qwen3_moe(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        qkv_bias=has_bias,
        o_bias=has_bias,
        qk_norm=True,
        layer_windows=settings.all_slide() if settings.flag("use_sliding_window") else (),
        **qwen_experts(settings),
    )


def qwen_experts(settings: Settings, *, shared_columns: int = 0) -> dict[str, ExpertsConfig | int]:
    """Every `decoder_sparse_step`-th layer has experts, except those that the file lists as dense."""
    step, without = settings.positive("decoder_sparse_step"), settings.layers("mlp_only_layers")
    layers = range(settings.num_layers)
    dense = tuple(layer for layer in layers if layer in without or (layer + 1) % step)
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts", settings.positive("num_experts")),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("moe_intermediate_size"),
        is_normalized=settings.flag("norm_topk_prob"),
        shared_columns=shared_columns,
        shared_router=shared_columns > 0,
        dense_layers=dense,
    )
    return {"experts": experts, **({} if dense else {"intermediate_size": experts.columns})}


def _first_slide(settings: Settings) -> tuple[int, ...]:
    """Windows only if the file asks for them: in every second layer below `max_window_layers`."""
    end_sliding = integer("'max_window_layers'", settings.required("max_window_layers"))
    if not settings.flag("use_sliding_window"):
        return ()
    return settings.some_slide(lambda layer: layer % 2 == 0 and layer < end_sliding)


def _last_slide(settings: Settings) -> tuple[int, ...]:
    """Windows only if the file asks for them: in the layers from `max_window_layers` on."""
    first_sliding = integer("'max_window_layers'", settings.required("max_window_layers"))
    return settings.some_slide(lambda layer: layer >= first_sliding) if settings.flag("use_sliding_window") else ()


QWEN2 = Family(read=_read_qwen2, defaults=_DEFAULTS)
QWEN3 = Family(read=_read_qwen3, defaults={**_DEFAULTS, "head_dim": 128})
QWEN2_VL = Family(
    read=_read_qwen2_vl,
    defaults={**_DEFAULTS, "rms_norm_eps": 1e-5},
    text_types=("qwen2_vl_text", "qwen2_5_vl_text"),
    needless=OTHER_MODALITIES,
)
QWEN3_VL = Family(
    read=_read_qwen3_vl,
    defaults={**_DEFAULTS, "head_dim": 128, "max_position_embeddings": 128000, "rope_theta": 5e6},
    text_types=("qwen3_vl_text",),
    needless=OTHER_MODALITIES,
)
QWEN2_MOE = Family(read=_read_qwen2_moe, defaults=_QWEN2_MOE_DEFAULTS, names=_MOE_NAMES)
QWEN3_MOE = Family(read=_read_qwen3_moe, defaults=_QWEN3_MOE_DEFAULTS, names=_MOE_NAMES)
QWEN3_VL_MOE = Family(
    read=_read_qwen3_vl_moe,
    defaults=_QWEN3_VL_MOE_DEFAULTS,
    names=_QWEN3_VL_MOE_NAMES,
    text_types=("qwen3_vl_moe_text",),
    needless=OTHER_MODALITIES,
    stacks_experts=True,
    halves_gate_up=True,
)
