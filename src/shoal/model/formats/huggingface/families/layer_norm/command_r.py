"""Command R and its successors: LayerNorms, which subtract the mean, and parallel layers.

Source: transformers, models/cohere, cohere2.
"""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.families.layer_norm.shared import EPSILON
from shoal.model.formats.huggingface.settings import Settings

_COHERE_DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "logit_scale": 0.0625,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
_COHERE2_DEFAULTS = {**_COHERE_DEFAULTS, "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_pattern": 4}


def _read_cohere(settings: Settings) -> DecoderConfig:
    """The first models were trained for longer contexts than their `max_position_embeddings`."""
    has_bias, has_norms = settings.flag("attention_bias"), settings.flag("use_qk_norm")
    return settings.decoder(
        max_context=settings.positive("model_max_length", settings.positive("max_position_embeddings")),
        centers_norms=True,
        is_parallel=True,
        shares_norm=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        qk_norm=has_norms,
        parts_qk_norm=has_norms,
        logits_scale=settings.number("logit_scale"),
    )


def _read_cohere2(settings: Settings) -> DecoderConfig:
    """Layers with full attention have no rotary embedding."""
    has_bias, every = settings.flag("attention_bias"), settings.positive("sliding_window_pattern")
    windows = settings.some_slide(lambda layer: (layer + 1) % every != 0) or (0,) * settings.num_layers
    return settings.decoder(
        centers_norms=True,
        is_parallel=True,
        shares_norm=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        layer_windows=windows,
        no_rope_layers=tuple(layer for layer, window in enumerate(windows) if not window),
        logits_scale=settings.number("logit_scale"),
    )


COHERE = Family(read=_read_cohere, defaults=_COHERE_DEFAULTS, aliases=EPSILON, is_interleaved=True)
COHERE2 = Family(read=_read_cohere2, defaults=_COHERE2_DEFAULTS, aliases=EPSILON, is_interleaved=True)
