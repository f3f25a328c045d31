"""Llama and models with the same structure.

Source: transformers, models/llama, llama4, seed_oss, smollm3, arcee.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import EXPERT_NAMES, LAYER_NAMES, OTHER_MODALITIES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.attention import QueryScaling
from shoal.model.layer_config.experts import ExpertsConfig

LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
_SEED_OSS_DEFAULTS = {
    "vocab_size": 155136,
    "hidden_size": 4096,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "max_position_embeddings": 524288,
    "rms_norm_eps": 1e-6,
    "attention_bias": True,
    "head_dim": 128,
}
_SMOLLM3_DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 2e6,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}
_ARCEE_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "hidden_size": 2560,
    "intermediate_size": 18432,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "relu2",
}
_LLAMA4_DEFAULTS = {
    "vocab_size": 202048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "num_experts_per_tok": 1,
    "num_local_experts": 16,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
}
_LLAMA4_NAMES = {
    **{name: tensor.replace("mlp.", "feed_forward.") for name, tensor in {**LAYER_NAMES, **EXPERT_NAMES}.items()},
    "router": "feed_forward.router.weight",
    "experts.*.gate": "feed_forward.experts.gate_up_proj",
    "experts.*.up": "feed_forward.experts.gate_up_proj",
    "experts.*.down": "feed_forward.experts.down_proj",
}


def _read_llama(settings: Settings) -> DecoderConfig:
    """Reads a Llama, which has no window, whatever its file says."""
    has_bias = settings.flag("attention_bias")
    return settings.decoder(qkv_bias=has_bias, o_bias=has_bias, mlp_bias=settings.flag("mlp_bias"))


def _rotating_layers(settings: Settings) -> tuple[int, ...]:
    """For each layer, 1 if it has a rotary embedding: all but every n-th, unless the file lists them."""
    every = settings.positive("no_rope_layer_interval")
    rotates = settings.layers("no_rope_layers") or tuple(
        int((layer + 1) % every != 0) for layer in range(settings.num_layers)
    )
    if len(rotates) != settings.num_layers:
        raise ValueError(f"'no_rope_layers' has {len(rotates)} items for {settings.num_layers} layers")
    return rotates


def _read_llama4(settings: Settings) -> DecoderConfig:
    """Layers without a rotary embedding have full attention and the others chunks, unless the file lists the kinds."""
    layers, columns = range(settings.num_layers), settings.positive("intermediate_size")
    step, rotates = settings.positive("interleave_moe_layer_step"), _rotating_layers(settings)
    listed = settings.get("moe_layers")
    routed = set(range(step - 1, len(layers), step) if listed is None else settings.layers("moe_layers"))
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=columns,
        scoring="sigmoid",
        is_normalized=False,
        scales_input=True,
        shared_columns=columns,
        dense_layers=tuple(layer for layer in layers if layer not in routed),
    )
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        intermediate_size=settings.positive("intermediate_size_mlp"),
        experts=experts if routed else None,
        qkv_bias=has_bias,
        o_bias=has_bias,
        unit_qk_norm=settings.flag("use_qk_norm"),
        no_rope_layers=tuple(layer for layer in layers if not rotates[layer]),
        query_scaling=_temperature(settings) if settings.flag("attn_temperature_tuning") else None,
        in_chunks=True,
        layer_windows=settings.some_chunked(lambda layer: bool(rotates[layer])),
    )


def _temperature(settings: Settings) -> QueryScaling:
    return QueryScaling(
        period=settings.number("floor_scale"),
        strength=settings.number("attn_scale"),
        offset=1,
        only_unrotated=True,
    )


def _read_seed_oss(settings: Settings) -> DecoderConfig:
    return settings.decoder(
        qkv_bias=settings.flag("attention_bias"),
        o_bias=settings.flag("attention_out_bias"),
        mlp_bias=settings.flag("mlp_bias"),
    )


def _read_smollm3(settings: Settings) -> DecoderConfig:
    still = tuple(layer for layer, rotates in enumerate(_rotating_layers(settings)) if not rotates)
    windows = settings.some_slide(lambda layer: layer in still)
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        qkv_bias=has_bias,
        o_bias=has_bias,
        mlp_bias=settings.flag("mlp_bias"),
        no_rope_layers=still,
        layer_windows=windows if settings.flag("use_sliding_window") else (),
    )


def _read_arcee(settings: Settings) -> DecoderConfig:
    return replace(_read_llama(settings), gated_mlp=False)


LLAMA = Family(read=_read_llama, defaults=LLAMA_DEFAULTS)
LLAMA4_TEXT = Family(
    read=_read_llama4,
    defaults=_LLAMA4_DEFAULTS,
    names=_LLAMA4_NAMES,
    is_interleaved=True,
    stacks_experts=True,
    halves_gate_up=True,
)
LLAMA4 = replace(LLAMA4_TEXT, text_types=("llama4_text",), needless=OTHER_MODALITIES)
SEED_OSS = Family(read=_read_seed_oss, defaults=_SEED_OSS_DEFAULTS)
SMOLLM3 = Family(read=_read_smollm3, defaults=_SMOLLM3_DEFAULTS)
ARCEE = Family(read=_read_arcee, defaults=_ARCEE_DEFAULTS)
