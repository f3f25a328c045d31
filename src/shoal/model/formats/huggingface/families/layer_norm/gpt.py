"""GPT-2 and its descendants GPT-NeoX, Falcon and Phi. Their norms subtract the mean.

Source: transformers, models/gpt2, gpt_neox, falcon, phi.
"""

from __future__ import annotations

import re

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, TOP_NAMES, Family
from shoal.model.formats.huggingface.families.layer_norm.shared import EPSILON, PLAIN
from shoal.model.formats.huggingface.settings import Settings

_GPT2_DEFAULTS = {
    "vocab_size": 50257,
    "max_position_embeddings": 1024,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_new",
    "rms_norm_eps": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
_GPT2_ALIASES = {
    "n_positions": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "rms_norm_eps",
}
_GPT2_TOP = {
    "embedding": "wte.weight",
    "positions": "wpe.weight",
    "final_norm": "ln_f.weight",
    "final_norm_bias": "ln_f.bias",
    "layers": "h.",
}
_GPT2_NAMES = {
    "attn_norm": "ln_1.weight",
    "attn_norm_bias": "ln_1.bias",
    "mlp_norm": "ln_2.weight",
    "mlp_norm_bias": "ln_2.bias",
    "qkv": "attn.c_attn.weight",
    "qkv_bias": "attn.c_attn.bias",
    "o": "attn.c_proj.weight",
    "o_bias": "attn.c_proj.bias",
    "up": "mlp.c_fc.weight",
    "up_bias": "mlp.c_fc.bias",
    "down": "mlp.c_proj.weight",
    "down_bias": "mlp.c_proj.bias",
}
_NEOX_DEFAULTS = {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "partial_rotary_factor": 0.25,
    "use_parallel_residual": True,
    "attention_bias": True,
}
_NEOX_ALIASES = {
    "layer_norm_eps": "rms_norm_eps",
    "rotary_pct": "partial_rotary_factor",
    "rotary_emb_base": "rope_theta",
}
_NEOX_TOP = {
    "embedding": "embed_in.weight",
    "final_norm": "final_layer_norm.weight",
    "final_norm_bias": "final_layer_norm.bias",
    "layers": "layers.",
}
_NEOX_NAMES = {
    **LAYER_NAMES,
    "qkv": "attention.query_key_value.weight",
    "qkv_bias": "attention.query_key_value.bias",
    "o": "attention.dense.weight",
    "o_bias": "attention.dense.bias",
    "up": "mlp.dense_h_to_4h.weight",
    "up_bias": "mlp.dense_h_to_4h.bias",
    "down": "mlp.dense_4h_to_h.weight",
    "down_bias": "mlp.dense_4h_to_h.bias",
}
_FALCON_DEFAULTS = {
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "multi_query": True,
    "parallel_attn": True,
    "tie_word_embeddings": True,
}
_FALCON_ALIASES = {
    "n_embed": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "num_kv_heads": "num_key_value_heads",
    "ffn_hidden_size": "intermediate_size",
    "layer_norm_epsilon": "rms_norm_eps",
    "activation": "hidden_act",
}
_FALCON_TOP = {
    "embedding": "word_embeddings.weight",
    "final_norm": "ln_f.weight",
    "final_norm_bias": "ln_f.bias",
    "layers": "h.",
}
_FALCON_NAMES = {
    name: tensor.replace("attention.", "self_attention.") if name in ("qkv", "qkv_bias", "o", "o_bias") else tensor
    for name, tensor in _NEOX_NAMES.items()
}
_FALCON_40B_NAMES = {
    "attn_norm": "ln_attn.weight",
    "attn_norm_bias": "ln_attn.bias",
    "mlp_norm": "ln_mlp.weight",
    "mlp_norm_bias": "ln_mlp.bias",
}
_PHI_DEFAULTS = {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "gelu_new",
    "partial_rotary_factor": 0.5,
}
_PHI_TOP = {
    **TOP_NAMES,
    "final_norm": "final_layernorm.weight",
    "final_norm_bias": "final_layernorm.bias",
}
_PHI_NAMES = {
    **LAYER_NAMES,
    "o": "self_attn.dense.weight",
    "o_bias": "self_attn.dense.bias",
    "up": "mlp.fc1.weight",
    "up_bias": "mlp.fc1.bias",
    "down": "mlp.fc2.weight",
    "down_bias": "mlp.fc2.bias",
}
_CAUSAL_MASKS = re.compile(r"(.*\.)?(attn|attention)\.(bias|masked_bias)|.*rotary_emb\.inv_freq")
"""Buffers in old files."""


def _read_gpt2(settings: Settings) -> DecoderConfig:
    settings.refuse("scale_attn_weights", unless=True)
    settings.refuse("scale_attn_by_inverse_layer_idx", unless=False)
    settings.refuse("add_cross_attention", unless=False)
    return settings.decoder(
        **PLAIN,
        num_kv_heads=settings.positive("num_attention_heads"),
        intermediate_size=settings.positive("intermediate_size", 4 * settings.positive("hidden_size")),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        learned_positions=True,
        no_rope_layers=tuple(range(settings.num_layers)),
    )


def _read_gpt_neox(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        **PLAIN,
        num_kv_heads=settings.positive("num_attention_heads"),
        rope=settings.rope(is_partial=True),
        qkv_bias=has_bias,
        o_bias=has_bias,
        mlp_bias=True,
        is_parallel=settings.flag("use_parallel_residual"),
    )


def _read_falcon(settings: Settings) -> DecoderConfig:
    """Falcon 7B has one norm a layer and one key head; 40B and 180B have two norms and groups of heads; 2 11B has one
    norm and groups."""
    settings.refuse("alibi", unless=False)
    has_bias, is_new = settings.flag("bias"), settings.flag("new_decoder_architecture")
    num_norms = settings.get("num_ln_in_parallel_attn")
    has_two = is_new and num_norms in (None, 2)
    is_parallel = is_new or settings.flag("parallel_attn")
    num_heads = settings.positive("num_attention_heads")
    grouped = settings.positive("num_key_value_heads", num_heads)
    return settings.decoder(
        **PLAIN,
        num_kv_heads=grouped if is_new else 1 if settings.flag("multi_query") else num_heads,
        intermediate_size=settings.positive("intermediate_size", 4 * settings.positive("hidden_size")),
        qkv_bias=has_bias,
        o_bias=has_bias,
        mlp_bias=has_bias,
        is_parallel=is_parallel,
        shares_norm=is_parallel and not has_two,
    )


def _read_phi(settings: Settings) -> DecoderConfig:
    settings.refuse("qk_layernorm", unless=False)
    return settings.decoder(
        **PLAIN,
        rope=settings.rope(is_partial=True),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
        is_parallel=True,
        shares_norm=True,
    )


GPT2 = Family(
    read=_read_gpt2,
    defaults=_GPT2_DEFAULTS,
    aliases=_GPT2_ALIASES,
    top=_GPT2_TOP,
    names=_GPT2_NAMES,
    is_transposed=True,
    needless=_CAUSAL_MASKS,
)
GPT_NEOX = Family(
    read=_read_gpt_neox,
    defaults=_NEOX_DEFAULTS,
    aliases=_NEOX_ALIASES,
    top=_NEOX_TOP,
    head="embed_out.weight",
    names=_NEOX_NAMES,
    groups_qkv=True,
    needless=_CAUSAL_MASKS,
)
FALCON = Family(
    read=_read_falcon,
    defaults=_FALCON_DEFAULTS,
    aliases=_FALCON_ALIASES,
    top=_FALCON_TOP,
    names=_FALCON_NAMES,
    other_names=_FALCON_40B_NAMES,
    groups_qkv=True,
    needless=_CAUSAL_MASKS,
)
PHI = Family(read=_read_phi, defaults=_PHI_DEFAULTS, aliases=EPSILON, top=_PHI_TOP, names=_PHI_NAMES)
