"""LFM2, with and without experts: short gated convolutions, and attention in some layers.

Source: transformers, models/lfm2, lfm2_moe.
"""

from __future__ import annotations

from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, TOP_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.recurrence.shapes import TAPS
from shoal.model.recurrence.short_conv import ShortConvConfig

_DEFAULTS = {
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
}
_MOE_DEFAULTS = {
    "vocab_size": 65536,
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "conv_L_cache": 3,
    "num_dense_layers": 2,
    "num_experts_per_tok": 4,
    "num_experts": 32,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
}
_CONV, _ATTENTION = "conv", "full_attention"
_NAMES = {
    **LAYER_NAMES,
    "attn_norm": "operator_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "o": "self_attn.out_proj.weight",
    "q_norm": "self_attn.q_layernorm.weight",
    "k_norm": "self_attn.k_layernorm.weight",
    "gate": "feed_forward.w1.weight",
    "up": "feed_forward.w3.weight",
    "down": "feed_forward.w2.weight",
    "conv_taps": "conv.conv.weight",
    "conv_taps_bias": "conv.conv.bias",
    "conv_out": "conv.out_proj.weight",
    "conv_out_bias": "conv.out_proj.bias",
}
_MOE_NAMES = {
    **_NAMES,
    "router": "feed_forward.gate.weight",
    "selection_bias": "feed_forward.expert_bias",
    "experts.*.gate": "feed_forward.experts.*.w1.weight",
    "experts.*.up": "feed_forward.experts.*.w3.weight",
    "experts.*.down": "feed_forward.experts.*.w2.weight",
}
_TOP = {**TOP_NAMES, "final_norm": "embedding_norm.weight"}
_INPUTS = ("conv_b", "conv_c", "conv_x")


def _read(settings: Settings) -> DecoderConfig:
    return _decoder(settings, intermediate_size=_mlp_columns(settings))


def _read_moe(settings: Settings) -> DecoderConfig:
    num_dense = integer("'num_dense_layers'", settings.required("num_dense_layers"))
    experts = ExpertsConfig(
        num_experts=settings.positive("num_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("moe_intermediate_size"),
        scoring="sigmoid",
        is_normalized=settings.flag("norm_topk_prob"),
        scale=settings.number("routed_scaling_factor"),
        selection_bias=settings.flag("use_expert_bias"),
        dense_layers=tuple(range(min(num_dense, settings.num_layers))),
    )
    return _decoder(settings, experts=experts)


def _decoder(settings: Settings, **changes: Any) -> DecoderConfig:
    num_taps = settings.positive("conv_L_cache")
    if num_taps not in TAPS:
        raise ModelLoadError(
            f"{settings.path}: 'conv_L_cache' is {num_taps}; convolutions over 2 to 4 tokens are supported"
        )
    recurrence = ShortConvConfig(
        layers=_conv_layers(settings),
        channels=settings.positive("hidden_size"),
        num_taps=num_taps,
        biases=settings.flag("conv_bias"),
    )
    tied = settings.get("tie_embedding")
    return settings.decoder(
        norm_epsilon=settings.number("norm_eps"),
        qk_norm=True,
        recurrence=recurrence if recurrence.layers else None,
        tied_embeddings=settings.flag("tie_word_embeddings") if tied is None else bool(tied),
        **changes,
    )


def _conv_layers(settings: Settings) -> tuple[int, ...]:
    layers = range(settings.num_layers)
    attention = layers if settings.get("full_attn_idxs") is None else settings.layers("full_attn_idxs")
    default = [_ATTENTION if layer in attention else _CONV for layer in layers]
    return settings.layers_of_type(_CONV, others=(_ATTENTION,), default=default)


def _part(config: DecoderConfig, leaf: str) -> TensorPart | None:
    """The part of the projection in which both gates and the convolution's input lie below each other."""
    name = leaf.removesuffix("_bias")
    if name not in _INPUTS:
        return None
    start = _INPUTS.index(name) * config.hidden_size
    kind = "weight" if leaf == name else "bias"
    return TensorPart(tensor=f"conv.in_proj.{kind}", start=start, stop=start + config.hidden_size)


def _mlp_columns(settings: Settings) -> int:
    """MLP columns. The file may give those of an MLP without a gate, from which those of an equally large gated one
    follow."""
    columns = settings.positive("intermediate_size" if settings.get("block_ff_dim") is None else "block_ff_dim")
    if not settings.flag("block_auto_adjust_ff_dim"):
        return columns
    columns, multiple = 2 * columns // 3, settings.positive("block_multiple_of")
    if settings.get("block_ffn_dim_multiplier") is not None:
        columns = int(settings.number("block_ffn_dim_multiplier") * columns)
        columns = -(-columns // multiple) * multiple
    return columns


LFM2 = Family(read=_read, defaults=_DEFAULTS, names=_NAMES, top=_TOP, part=_part)
LFM2_MOE = Family(read=_read_moe, defaults=_MOE_DEFAULTS, names=_MOE_NAMES, top=_TOP, part=_part)
