"""Ernie 4.5, InternLM 2 and 3, Hunyuan and MiniMax M2: RMS norms as in a Llama, with other differences from it.

Source: transformers, models/ernie4_5, ernie4_5_moe, internlm3, hunyuan_v1_dense, hunyuan_v1_moe, minimax_m2; for
InternLM 2 its report, arXiv 2403.17297, section 2.2, and llama.cpp, conversion/internlm.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.family import BUFFERS, EXPERT_NAMES, LAYER_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.attention import RopeConfig
from shoal.model.layer_config.experts import ExpertsConfig

_ERNIE_DEFAULTS = {
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
_ERNIE_MOE_DEFAULTS = {
    **{key: value for key, value in _ERNIE_DEFAULTS.items() if key != "head_dim"},
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 1536,
    "moe_k": 6,
    "moe_num_experts": 64,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": -1,
    "moe_layer_interval": 1,
}
_SHARED_NAMES = {name: tensor.replace("shared_expert.", "shared_experts.") for name, tensor in EXPERT_NAMES.items()}
_ERNIE_MOE_NAMES = {**LAYER_NAMES, **_SHARED_NAMES, "selection_bias": "mlp.moe_statics.e_score_correction_bias"}
_DRAFTS = re.compile(rf"model\.mtp_.*|{BUFFERS.pattern}")
"""Tensors of draft layers, which predict further tokens."""
_INTERNLM_DEFAULTS = {
    "vocab_size": 128512,
    "hidden_size": 4096,
    "intermediate_size": 10240,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}
_INTERNLM2_DEFAULTS = {
    **{key: value for key, value in _INTERNLM_DEFAULTS.items() if key not in ("head_dim", "num_key_value_heads")},
    "vocab_size": 103168,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bias": True,
}
_INTERNLM2_TOP = {"embedding": "tok_embeddings.weight", "final_norm": "norm.weight", "layers": "layers."}
_INTERNLM2_NAMES = {
    "attn_norm": "attention_norm.weight",
    "qkv": "attention.wqkv.weight",
    "qkv_bias": "attention.wqkv.bias",
    "o": "attention.wo.weight",
    "o_bias": "attention.wo.bias",
    "mlp_norm": "ffn_norm.weight",
    "gate": "feed_forward.w1.weight",
    "up": "feed_forward.w3.weight",
    "down": "feed_forward.w2.weight",
}
_HUNYUAN_DEFAULTS = {
    "vocab_size": 290943,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "num_experts": 1,
    "moe_topk": 1,
}
_HUNYUAN_NAMES = {
    **LAYER_NAMES,
    **EXPERT_NAMES,
    "q_norm": "self_attn.query_layernorm.weight",
    "k_norm": "self_attn.key_layernorm.weight",
    "router": "mlp.gate.wg.weight",
    "shared_gate": "mlp.shared_mlp.gate_proj.weight",
    "shared_up": "mlp.shared_mlp.up_proj.weight",
    "shared_down": "mlp.shared_mlp.down_proj.weight",
}
_MINIMAX_DEFAULTS = {
    "vocab_size": 200064,
    "hidden_size": 3072,
    "intermediate_size": 1536,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 196608,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5e6,
    "num_experts_per_tok": 8,
    "num_local_experts": 256,
}
_MINIMAX_M2 = {
    "scoring_func": "sigmoid",
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_routing_bias": True,
    "shared_intermediate_size": 0,
}
"""The only supported values of keys that differ in other models of its maker."""
_MINIMAX_NAMES = {
    **LAYER_NAMES,
    "router": "block_sparse_moe.gate.weight",
    "selection_bias": "block_sparse_moe.e_score_correction_bias",
    "experts.*.gate": "block_sparse_moe.experts.*.w1.weight",
    "experts.*.up": "block_sparse_moe.experts.*.w3.weight",
    "experts.*.down": "block_sparse_moe.experts.*.w2.weight",
}


def _read_ernie(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("use_bias")
    return settings.decoder(qkv_bias=has_bias, o_bias=has_bias, mlp_bias=has_bias)


def _read_ernie_moe(settings: Settings) -> DecoderConfig:
    """Every `moe_layer_interval`-th layer of a range has experts."""
    settings.refuse("use_bias", unless=False)
    columns, every = settings.positive("moe_intermediate_size"), settings.positive("moe_layer_interval")
    first, last, num_shared = (
        integer(repr(key), settings.required(key))
        for key in ("moe_layer_start_index", "moe_layer_end_index", "moe_num_shared_experts")
    )
    last = settings.num_layers - 1 if last == -1 else last
    layers = range(settings.num_layers)
    experts = ExpertsConfig(
        num_experts=settings.positive("num_experts", settings.positive("moe_num_experts")),
        num_chosen=settings.positive("num_experts_per_tok", settings.positive("moe_k")),
        columns=columns,
        selection_bias=True,
        shared_columns=num_shared * columns,
        dense_layers=tuple(layer for layer in layers if (layer + 1) % every or not first <= layer <= last),
    )
    return settings.decoder(experts=experts)


def _read_internlm2(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("bias")
    return settings.decoder(qkv_bias=has_bias, o_bias=has_bias)


def _read_internlm3(settings: Settings) -> DecoderConfig:
    """Early files have `bias` for what later ones call `attention_bias` and `mlp_bias`."""
    has_bias, in_attention = settings.flag("bias"), settings.flag("attention_bias")
    return settings.decoder(
        qkv_bias=in_attention or settings.flag("qkv_bias"),
        o_bias=in_attention or has_bias,
        mlp_bias=settings.flag("mlp_bias") or has_bias,
    )


def _read_hunyuan(settings: Settings) -> DecoderConfig:
    settings.refuse("use_cla", unless=False)
    settings.refuse("use_qk_norm", unless=True)
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        qkv_bias=has_bias, o_bias=has_bias, qk_norm=True, norms_rotated=True, rope=_hunyuan_rope(settings)
    )


def _hunyuan_rope(settings: Settings) -> RopeConfig:
    """The rotary embedding. Hunyuan's dynamic scaling multiplies the base by a fixed factor, for any length."""
    rope, alpha, dim = settings.rope(), settings.rope_number("alpha"), settings.head_dim
    return rope if not alpha else replace(rope, theta=rope.theta * alpha ** (dim / (dim - 2)))


def _read_hunyuan_moe(settings: Settings) -> DecoderConfig:
    columns = settings.positive("intermediate_size")
    experts = ExpertsConfig(
        num_experts=_one_for_all(settings, "num_experts"),
        num_chosen=_one_for_all(settings, "moe_topk"),
        columns=columns,
        shared_columns=columns,
    )
    for key in ("moe_intermediate_size", "num_shared_expert"):
        if settings.get(key) is not None and _one_for_all(settings, key) != {"num_shared_expert": 1}.get(key, columns):
            raise ValueError(f"{key!r} is {settings.get(key)!r:.200}, which is not supported")
    return replace(_read_hunyuan(settings), experts=experts)


def _one_for_all(settings: Settings, key: str) -> int:
    """A number that the file may write as a list of equal numbers, one for each layer."""
    value: Any = settings.required(key)
    numbers = {integer(repr(key), one) for one in (value if isinstance(value, list) else [value])}
    if len(numbers) != 1:
        raise ValueError(f"{key!r} differs between layers")
    return numbers.pop()


def _read_minimax(settings: Settings) -> DecoderConfig:
    for key, only in _MINIMAX_M2.items():
        settings.refuse(key, unless=only)
    rope, dim = settings.rope(is_partial=True), settings.get("rotary_dim")
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("intermediate_size"),
        scoring="sigmoid",
        selection_bias=True,
    )
    return settings.decoder(
        rope=rope if dim is None else replace(rope, rotary_dim=integer("'rotary_dim'", dim)),
        qk_norm=True,
        joins_qk_norm=True,
        experts=experts,
    )


ERNIE4_5 = Family(read=_read_ernie, defaults=_ERNIE_DEFAULTS, is_interleaved=True)
ERNIE4_5_MOE = Family(
    read=_read_ernie_moe,
    defaults=_ERNIE_MOE_DEFAULTS,
    names=_ERNIE_MOE_NAMES,
    is_interleaved=True,
    needless=_DRAFTS,
)
INTERNLM2 = Family(
    read=_read_internlm2,
    defaults=_INTERNLM2_DEFAULTS,
    top=_INTERNLM2_TOP,
    head="output.weight",
    names=_INTERNLM2_NAMES,
    groups_qkv=True,
)
INTERNLM3 = Family(read=_read_internlm3, defaults=_INTERNLM_DEFAULTS)
HUNYUAN = Family(read=_read_hunyuan, defaults=_HUNYUAN_DEFAULTS, names=_HUNYUAN_NAMES)
HUNYUAN_MOE = Family(read=_read_hunyuan_moe, defaults=_HUNYUAN_DEFAULTS, names=_HUNYUAN_NAMES)
MINIMAX_M2 = Family(read=_read_minimax, defaults=_MINIMAX_DEFAULTS, names=_MINIMAX_NAMES, has_draft_layers=True)
