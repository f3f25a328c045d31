"""Phi 3, 3.5 and 4. Source: transformers, models/phi3, phimoe; SparseMixer, arXiv 2409.12136."""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.experts import ExpertsConfig

_DEFAULTS = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


_MOE_DEFAULTS = {
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 6400,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_experts_per_tok": 2,
    "num_local_experts": 16,
    "router_jitter_noise": 0.01,
}
_MOE_NAMES = {
    **LAYER_NAMES,
    "router": "block_sparse_moe.gate.weight",
    "experts.*.gate": "block_sparse_moe.experts.*.w1.weight",
    "experts.*.up": "block_sparse_moe.experts.*.w3.weight",
    "experts.*.down": "block_sparse_moe.experts.*.w2.weight",
}


def _read_phi3(settings: Settings) -> DecoderConfig:
    return settings.decoder(rope=settings.rope(is_partial=True), layer_windows=settings.all_slide())


def _read_phimoe(settings: Settings) -> DecoderConfig:
    """Experts whose score is below the highest by more than twice the training's jitter do not count."""
    has_bias = settings.flag("attention_bias")
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("intermediate_size"),
        mixer_limit=2.0 * settings.number("router_jitter_noise"),
    )
    return settings.decoder(
        centers_norms=True,
        norm_bias=True,
        qkv_bias=has_bias,
        o_bias=has_bias,
        head_bias=settings.flag("lm_head_bias"),
        layer_windows=settings.all_slide(),
        experts=experts,
    )


PHI3 = Family(read=_read_phi3, defaults=_DEFAULTS)
PHIMOE = Family(read=_read_phimoe, defaults=_MOE_DEFAULTS, names=_MOE_NAMES)
