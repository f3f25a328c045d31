"""OLMo 2 and 3, OLMoE and EXAONE 4: norms of queries and keys. In the dense models, norms come after each half of a
layer instead of before it.

Source: transformers, models/olmo2, olmo3, olmoe, exaone4; OLMo 2, arXiv 2501.00656, section 3.2.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.family import EXPERT_NAMES, LAYER_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.experts import ExpertsConfig

_OLMO2_DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
}
_OLMO3_DEFAULTS = {**_OLMO2_DEFAULTS, "rope_theta": 500000.0, "sliding_window": 4096}
_OLMOE_DEFAULTS = {
    **_OLMO2_DEFAULTS,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "num_experts_per_tok": 8,
    "num_experts": 64,
}
_EXAONE4_DEFAULTS = {
    **_OLMO2_DEFAULTS,
    "vocab_size": 102400,
    "intermediate_size": 16384,
    "num_key_value_heads": 32,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}
_POST_NORM_NAMES = {
    **{name: tensor for name, tensor in LAYER_NAMES.items() if name not in ("attn_norm", "mlp_norm")},
    "post_attn_norm": "post_attention_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}


def _read_olmo2(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        qkv_bias=has_bias, o_bias=has_bias, qk_norm=True, joins_qk_norm=True, pre_norms=False, post_norms=True
    )


def _read_olmo3(settings: Settings) -> DecoderConfig:
    """Layers with a window do not scale their rotary embedding."""
    windows = settings.some_slide(lambda layer: (layer + 1) % 4 != 0)
    return replace(_read_olmo2(settings), layer_windows=windows, local_rope=replace(settings.rope(), scaling={}))


def _read_olmoe(settings: Settings) -> DecoderConfig:
    settings.refuse("clip_qkv", unless=None)
    has_bias = settings.flag("attention_bias")
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts", settings.positive("num_experts")),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("intermediate_size"),
        is_normalized=settings.flag("norm_topk_prob"),
    )
    return settings.decoder(qkv_bias=has_bias, o_bias=has_bias, qk_norm=True, joins_qk_norm=True, experts=experts)


def _read_exaone4(settings: Settings) -> DecoderConfig:
    """If some layers have a window, those with full attention have no rotary embedding."""
    every = integer("'sliding_window_pattern'", settings.get("sliding_window_pattern") or 0)
    windows = settings.some_slide(lambda layer: every > 0 and (layer + 1) % every != 0)
    still = tuple(layer for layer, window in enumerate(windows) if not window)
    return settings.decoder(qk_norm=True, pre_norms=False, post_norms=True, layer_windows=windows, no_rope_layers=still)


OLMO2 = Family(read=_read_olmo2, defaults=_OLMO2_DEFAULTS, names=_POST_NORM_NAMES)
OLMO3 = Family(read=_read_olmo3, defaults=_OLMO3_DEFAULTS, names=_POST_NORM_NAMES)
OLMOE = Family(read=_read_olmoe, defaults=_OLMOE_DEFAULTS, names={**LAYER_NAMES, **EXPERT_NAMES})
EXAONE4 = Family(read=_read_exaone4, defaults=_EXAONE4_DEFAULTS, names=_POST_NORM_NAMES)
