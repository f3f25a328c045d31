"""gpt-oss. Source: its model card, arXiv 2508.10925; transformers, models/gpt_oss."""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, Family
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.experts import ExpertsConfig

_DEFAULTS = {
    "num_hidden_layers": 36,
    "num_local_experts": 128,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "num_experts_per_tok": 4,
    "attention_bias": True,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
_NAMES = {
    **LAYER_NAMES,
    "sinks": "self_attn.sinks",
    "router": "mlp.router.weight",
    "router_bias": "mlp.router.bias",
    "experts.*.gate": "mlp.experts.gate_up_proj",
    "experts.*.gate_bias": "mlp.experts.gate_up_proj_bias",
    "experts.*.up": "mlp.experts.gate_up_proj",
    "experts.*.up_bias": "mlp.experts.gate_up_proj_bias",
    "experts.*.down": "mlp.experts.down_proj",
    "experts.*.down_bias": "mlp.experts.down_proj_bias",
}
SWIGLU_LIMIT, SWIGLU_ALPHA = 7.0, 1.702
"""Constants of the clamped SwiGLU. Source: native/layers/functions.h has the same"""


def _read_gpt_oss(settings: Settings) -> DecoderConfig:
    settings.refuse("swiglu_limit", unless=SWIGLU_LIMIT)
    settings.refuse("swiglu_alpha", unless=SWIGLU_ALPHA)
    has_bias = settings.flag("attention_bias")
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("intermediate_size"),
        router_bias=True,
        biases=True,
    )
    return settings.decoder(
        experts=experts,
        activation="clamped_swiglu",
        qkv_bias=has_bias,
        o_bias=has_bias,
        attention_sinks=True,
        layer_windows=settings.some_slide(lambda layer: layer % 2 == 0),
    )


GPT_OSS = Family(read=_read_gpt_oss, defaults=_DEFAULTS, names=_NAMES, quantizations=("mxfp4",), stacks_experts=True)
