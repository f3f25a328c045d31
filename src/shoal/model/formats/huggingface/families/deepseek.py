"""DeepSeek V2, V3 and R1, Kimi K2, GLM 4.7 Flash: models with latent attention.

Source: transformers, models/deepseek_v2, deepseek_v3, glm4_moe_lite; DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv
2412.19437.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, SHARED_EXPERTS_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.attention import LATENT_EPSILON, LatentConfig, score_factor
from shoal.model.layer_config.experts import GROUP_SCORES, ExpertsConfig

_COMMON = {
    "rms_norm_eps": 1e-6,
    "qk_rope_head_dim": 64,
    "kv_lora_rank": 512,
    "num_experts_per_tok": 8,
    "rope_interleave": True,
}
_V3_DEFAULTS: dict[str, Any] = {
    **_COMMON,
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "q_lora_rank": 1536,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "max_position_embeddings": 4096,
}
_V2_DEFAULTS: dict[str, Any] = {
    **_COMMON,
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "moe_intermediate_size": 1407,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "n_shared_experts": 2,
    "n_routed_experts": 64,
    "routed_scaling_factor": 1.0,
    "q_lora_rank": 1536,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "first_k_dense_replace": 0,
    "topk_method": "greedy",
    "max_position_embeddings": 2048,
}
_GLM_DEFAULTS: dict[str, Any] = {
    **_COMMON,
    "vocab_size": 154880,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "n_shared_experts": 1,
    "n_routed_experts": 64,
    "routed_scaling_factor": 1.8,
    "q_lora_rank": 768,
    "v_head_dim": 256,
    "qk_nope_head_dim": 192,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5,
}
_NAMES = {
    **LAYER_NAMES,
    **SHARED_EXPERTS_NAMES,
    "q_down": "self_attn.q_a_proj.weight",
    "q_down_norm": "self_attn.q_a_layernorm.weight",
    "q": "self_attn.q_b_proj.weight",
    "latent_down": "self_attn.kv_a_proj_with_mqa.weight",
    "latent_norm": "self_attn.kv_a_layernorm.weight",
    "heads.*": "self_attn.kv_b_proj.weight",
}


def _read_v3(settings: Settings) -> DecoderConfig:
    return _decoder(settings, _experts(settings, _dense(settings)))


def _read_v2(settings: Settings) -> DecoderConfig:
    """Groups of experts count only if `topk_method` says so, and weights are those of the softmax."""
    method = settings.get("topk_method")
    if method not in ("greedy", "group_limited_greedy"):
        raise ModelLoadError(f"{settings.path}: 'topk_method' is {method!r:.200}, which is not supported")
    has_groups = method == "group_limited_greedy"
    experts = _experts(settings, _dense(settings), has_groups=has_groups)
    experts = replace(experts, scoring="softmax", is_normalized=False, selection_bias=False, num_group_scores=1)
    return _decoder(settings, experts)


def _read_glm(settings: Settings) -> DecoderConfig:
    kinds = settings.get("mlp_layer_types")
    num_layers = settings.num_layers
    dense = (0,) if kinds is None else tuple(layer for layer, kind in enumerate(kinds) if kind == "dense")
    return _decoder(settings, _experts(settings, tuple(layer for layer in dense if layer < num_layers)))


def _dense(settings: Settings) -> tuple[int, ...]:
    num_dense = integer("'first_k_dense_replace'", settings.required("first_k_dense_replace", 0))
    return tuple(range(min(num_dense, settings.num_layers)))


def _experts(settings: Settings, dense_layers: tuple[int, ...], *, has_groups: bool = True) -> ExpertsConfig:
    return routed_experts(
        settings,
        dense_layers,
        num_shared=integer("'n_shared_experts'", settings.required("n_shared_experts", 0)),
        num_groups=settings.positive("n_group", 1) if has_groups else 1,
        num_chosen_groups=settings.positive("topk_group", 1) if has_groups else 1,
    )


def routed_experts(
    settings: Settings, dense_layers: tuple[int, ...], *, num_shared: int, num_groups: int, num_chosen_groups: int
) -> ExpertsConfig:
    """Experts that are chosen as in DeepSeek V3: by sigmoids and a bias, within the best groups. Raises
    ModelLoadError."""
    columns, num_experts = settings.positive("moe_intermediate_size"), settings.positive("n_routed_experts")
    return ExpertsConfig(
        num_experts=num_experts,
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=columns,
        scoring="sigmoid",
        is_normalized=settings.flag("norm_topk_prob"),
        scale=settings.number("routed_scaling_factor"),
        selection_bias=True,
        num_groups=num_groups,
        num_chosen_groups=num_chosen_groups,
        num_group_scores=min(GROUP_SCORES, num_experts // num_groups),
        shared_columns=num_shared * columns,
        dense_layers=dense_layers,
    )


def _decoder(settings: Settings, experts: ExpertsConfig) -> DecoderConfig:
    settings.refuse("attention_bias", unless=False)
    rank = settings.get("q_lora_rank")
    latent = LatentConfig(
        query_rank=0 if rank is None else settings.positive("q_lora_rank"),
        latent_dim=settings.positive("kv_lora_rank"),
        plain_dim=settings.positive("qk_nope_head_dim"),
        rotary_dim=settings.positive("qk_rope_head_dim"),
        value_dim=settings.positive("v_head_dim"),
        norm_epsilon=LATENT_EPSILON,
        is_interleaved=settings.flag("rope_interleave"),
    )
    rope = replace(settings.rope(), rotary_dim=latent.rotary_dim)
    return settings.decoder(
        latent=latent,
        num_kv_heads=1,
        head_dim=latent.key_dim,
        rope=rope,
        attention_scale=latent.query_dim**-0.5 * score_factor(rope),
        experts=experts,
    )


DEEPSEEK_V2 = Family(read=_read_v2, defaults=_V2_DEFAULTS, names=_NAMES, other_names={"q": LAYER_NAMES["q"]})
DEEPSEEK_V3 = Family(
    read=_read_v3, defaults=_V3_DEFAULTS, names=_NAMES, other_names={"q": LAYER_NAMES["q"]}, has_draft_layers=True
)
GLM4_MOE_LITE = Family(
    read=_read_glm, defaults=_GLM_DEFAULTS, names=_NAMES, other_names={"q": LAYER_NAMES["q"]}, has_draft_layers=True
)
