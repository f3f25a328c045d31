"""StarCoder2, StableLM and Nemotron, whose norms subtract the mean.

Source: transformers, models/starcoder2, stablelm, nemotron.
"""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, Family
from shoal.model.formats.huggingface.families.layer_norm.shared import EPSILON, PLAIN
from shoal.model.formats.huggingface.settings import Settings

_STARCODER2_DEFAULTS = {
    "vocab_size": 49152,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "gelu_pytorch_tanh",
    "use_bias": True,
    "tie_word_embeddings": True,
}
_STARCODER2_NAMES = {
    **LAYER_NAMES,
    "up": "mlp.c_fc.weight",
    "up_bias": "mlp.c_fc.bias",
    "down": "mlp.c_proj.weight",
    "down_bias": "mlp.c_proj.bias",
}
_STABLELM_DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 0.25,
}
_NEMOTRON_DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 32,
    "num_attention_heads": 48,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "relu2",
    "partial_rotary_factor": 0.5,
}


def _read_starcoder2(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("use_bias")
    windows = settings.all_slide()
    return settings.decoder(**PLAIN, qkv_bias=has_bias, o_bias=has_bias, mlp_bias=has_bias, layer_windows=windows)


def _read_stablelm(settings: Settings) -> DecoderConfig:
    """Models with norms of queries and keys are refused: each head's norm lies in a tensor of its own, which is not
    read."""
    settings.refuse("qk_layernorm", unless=False)
    is_parallel = settings.flag("use_parallel_residual")
    return settings.decoder(
        centers_norms=True,
        norm_bias=True,
        rope=settings.rope(is_partial=True),
        qkv_bias=settings.flag("use_qkv_bias"),
        is_parallel=is_parallel,
        shares_norm=is_parallel,
    )


def _read_nemotron(settings: Settings) -> DecoderConfig:
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        **PLAIN,
        rope=settings.rope(is_partial=True),
        qkv_bias=has_bias,
        o_bias=has_bias,
        mlp_bias=settings.flag("mlp_bias"),
    )


STARCODER2 = Family(
    read=_read_starcoder2,
    defaults=_STARCODER2_DEFAULTS,
    names=_STARCODER2_NAMES,
    aliases={"norm_epsilon": "rms_norm_eps"},
)
STABLELM = Family(read=_read_stablelm, defaults=_STABLELM_DEFAULTS, aliases=EPSILON)
NEMOTRON = Family(
    read=_read_nemotron, defaults=_NEMOTRON_DEFAULTS, aliases={"norm_eps": "rms_norm_eps"}, norms_add_one=True
)
