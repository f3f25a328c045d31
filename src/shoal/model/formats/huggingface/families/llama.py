"""Llama and the models that are built like it. Source: transformers, models/llama, mistral, mixtral."""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig, ExpertsConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings

LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
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
_MIXTRAL_NAMES = {
    **LAYER_NAMES,
    "router": "block_sparse_moe.gate.weight",
    "experts.*.gate": "block_sparse_moe.experts.*.w1.weight",
    "experts.*.up": "block_sparse_moe.experts.*.w3.weight",
    "experts.*.down": "block_sparse_moe.experts.*.w2.weight",
}


def _read_llama(settings: Settings) -> DecoderConfig:
    """It has no window, whatever its file says."""
    has_bias = settings.flag("attention_bias")
    return settings.decoder(qkv_bias=has_bias, o_bias=has_bias, mlp_bias=settings.flag("mlp_bias"))


def _read_mistral(settings: Settings) -> DecoderConfig:
    return settings.decoder(layer_windows=settings.all_slide())


def _read_mixtral(settings: Settings) -> DecoderConfig:
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("intermediate_size"),
    )
    return settings.decoder(layer_windows=settings.all_slide(), experts=experts)


LLAMA = Family(read=_read_llama, defaults=LLAMA_DEFAULTS)
MISTRAL = Family(read=_read_mistral, defaults=_MISTRAL_DEFAULTS)
MIXTRAL = Family(read=_read_mixtral, defaults=_MIXTRAL_DEFAULTS, names=_MIXTRAL_NAMES)
