"""Gemma 1 to 3, for Gemma 3 the text part.

Source: transformers, models/gemma, gemma2, gemma3; Gemma 3 report, arXiv 2503.19786.
"""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, OTHER_MODALITIES, Family
from shoal.model.formats.huggingface.settings import Settings

_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
_GEMMA_DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
_GEMMA2_DEFAULTS = {
    **_GEMMA_DEFAULTS,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_NAMES = {
    **LAYER_NAMES,
    "post_attn_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}


def _read_gemma3(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("attention_bias")
    every = settings.positive("sliding_window_pattern", settings.positive("_sliding_window_pattern", 6))
    return settings.decoder(
        local_rope=settings.rope("sliding_attention"),
        qkv_bias=has_bias,
        o_bias=has_bias,
        qk_norm=True,
        post_norms=True,
        activation=settings.activation("hidden_activation", "gelu_tanh"),
        embedding_scale=settings.positive("hidden_size") ** 0.5,
        attention_scale=settings.number("query_pre_attn_scalar") ** -0.5,
        attention_softcap=settings.number("attn_logit_softcapping", 0.0),
        final_softcap=settings.number("final_logit_softcapping", 0.0),
        layer_windows=settings.some_slide(lambda layer: (layer + 1) % every != 0),
    )


def _read_gemma(settings: Settings) -> DecoderConfig:
    """The activation is the approximated GELU even where a file says `gelu`, as the first files did."""
    has_bias = settings.flag("attention_bias")
    activation = settings.activation("hidden_act", "gelu_tanh")
    return settings.decoder(
        qkv_bias=has_bias,
        o_bias=has_bias,
        activation="gelu_tanh" if activation == "gelu" else activation,
        embedding_scale=settings.positive("hidden_size") ** 0.5,
    )


def _read_gemma2(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        qkv_bias=has_bias,
        o_bias=has_bias,
        post_norms=True,
        activation=settings.activation("hidden_activation", "gelu_tanh"),
        embedding_scale=settings.positive("hidden_size") ** 0.5,
        attention_scale=settings.number("query_pre_attn_scalar") ** -0.5,
        attention_softcap=settings.number("attn_logit_softcapping", 0.0),
        final_softcap=settings.number("final_logit_softcapping", 0.0),
        layer_windows=settings.some_slide(lambda layer: layer % 2 == 0),
    )


GEMMA = Family(read=_read_gemma, defaults=_GEMMA_DEFAULTS, norms_add_one=True)
GEMMA2 = Family(read=_read_gemma2, defaults=_GEMMA2_DEFAULTS, names=_NAMES, norms_add_one=True)
GEMMA3_TEXT = Family(read=_read_gemma3, defaults=_DEFAULTS, names=_NAMES, norms_add_one=True, needless=OTHER_MODALITIES)
GEMMA3 = Family(
    read=_read_gemma3,
    defaults=_DEFAULTS,
    names=_NAMES,
    norms_add_one=True,
    text_types=("gemma3_text",),
    needless=OTHER_MODALITIES,
)
