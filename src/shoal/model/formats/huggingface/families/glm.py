"""GLM 4 and 4.5.

Source: transformers, models/glm, glm4, glm4_moe; DeepSeek-V3 (the router), arXiv 2412.19437, section 2.1.2.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.deepseek import routed_experts
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, SHARED_EXPERTS_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings

_DEFAULTS = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "n_routed_experts": 128,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}
_DENSE_DEFAULTS = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7,
    "partial_rotary_factor": 0.5,
    "attention_bias": True,
}
_GLM4_NAMES = {
    **LAYER_NAMES,
    "post_attn_norm": "post_self_attn_layernorm.weight",
    "post_mlp_norm": "post_mlp_layernorm.weight",
}
_NAMES = {**LAYER_NAMES, **SHARED_EXPERTS_NAMES}


def _read_glm(settings: Settings) -> DecoderConfig:
    return settings.decoder(rope=settings.rope(is_partial=True), qkv_bias=settings.flag("attention_bias"))


def _read_glm4(settings: Settings) -> DecoderConfig:
    return replace(_read_glm(settings), post_norms=True)


def _read_glm4_moe(settings: Settings) -> DecoderConfig:
    num_dense = integer("'first_k_dense_replace'", settings.required("first_k_dense_replace"))
    experts = routed_experts(
        settings,
        tuple(range(min(num_dense, settings.num_layers))),
        num_shared=integer("'n_shared_experts'", settings.required("n_shared_experts")),
        num_groups=settings.positive("n_group"),
        num_chosen_groups=settings.positive("topk_group"),
    )
    return settings.decoder(
        rope=settings.rope(is_partial=True),
        qkv_bias=settings.flag("attention_bias"),
        qk_norm=settings.flag("use_qk_norm"),
        experts=experts,
    )


GLM = Family(read=_read_glm, defaults=_DENSE_DEFAULTS, is_interleaved=True)
GLM4 = Family(read=_read_glm4, defaults=_DENSE_DEFAULTS, names=_GLM4_NAMES, is_interleaved=True)
GLM4_MOE = Family(read=_read_glm4_moe, defaults=_DEFAULTS, names=_NAMES, has_draft_layers=True)
