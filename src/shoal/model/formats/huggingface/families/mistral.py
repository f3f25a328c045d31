"""Mistral, Ministral and Mixtral: a Llama with sliding-window attention.

Source: transformers, models/mistral, mistral3, ministral, ministral3, mixtral.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, OTHER_MODALITIES, Family
from shoal.model.formats.huggingface.families.llama import LLAMA_DEFAULTS
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.attention import QueryScaling
from shoal.model.layer_config.experts import ExpertsConfig

_MISTRAL_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
_MIXTRAL_DEFAULTS = {
    **_MISTRAL_DEFAULTS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
}
_MINISTRAL3_DEFAULTS = {
    **_MISTRAL_DEFAULTS,
    "vocab_size": 131072,
    "num_hidden_layers": 34,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
}
_MIXTRAL_NAMES = {
    **LAYER_NAMES,
    "router": "block_sparse_moe.gate.weight",
    "experts.*.gate": "block_sparse_moe.experts.*.w1.weight",
    "experts.*.up": "block_sparse_moe.experts.*.w3.weight",
    "experts.*.down": "block_sparse_moe.experts.*.w2.weight",
}
_ORIGINAL_CONTEXT = "original_max_position_embeddings"


def _read_mistral(settings: Settings) -> DecoderConfig:
    return settings.decoder(layer_windows=settings.all_slide())


def _read_mixtral(settings: Settings) -> DecoderConfig:
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("intermediate_size"),
    )
    return settings.decoder(layer_windows=settings.all_slide(), experts=experts)


def _read_ministral(settings: Settings) -> DecoderConfig:
    return settings.decoder(layer_windows=settings.some_slide(lambda _: True))


def _read_ministral3(settings: Settings) -> DecoderConfig:
    """Queries grow beyond the context for which the rotary embedding was trained."""
    config = _read_mistral(settings)
    strength, period = (settings.rope_number(key) for key in ("llama_4_scaling_beta", _ORIGINAL_CONTEXT))
    if not strength:
        return config
    if not period:
        raise ValueError(f"there is no {_ORIGINAL_CONTEXT!r} beside 'llama_4_scaling_beta'")
    return replace(config, query_scaling=QueryScaling(period=period, strength=strength))


MISTRAL = Family(read=_read_mistral, defaults=_MISTRAL_DEFAULTS)
MISTRAL3 = Family(
    read=_read_mistral, defaults=_MISTRAL_DEFAULTS, text_types=("mistral", "ministral3"), needless=OTHER_MODALITIES
)
MINISTRAL3 = Family(read=_read_ministral3, defaults=_MINISTRAL3_DEFAULTS)
MINISTRAL = Family(read=_read_ministral, defaults=_MISTRAL_DEFAULTS)
MIXTRAL = Family(read=_read_mixtral, defaults=_MIXTRAL_DEFAULTS, names=_MIXTRAL_NAMES)
