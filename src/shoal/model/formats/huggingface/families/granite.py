"""Granite: a Llama with factors on embedding, attention, residual stream and logits, with or without experts.

Source: transformers, models/granite, granitemoe, granitemoeshared.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, Family
from shoal.model.formats.huggingface.families.llama import LLAMA_DEFAULTS
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.experts import ExpertsConfig

_GRANITE_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "embedding_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
}
GRANITE_MOE_DEFAULTS = {**_GRANITE_DEFAULTS, "num_local_experts": 8, "num_experts_per_tok": 2}
GRANITE_MOE_NAMES = {
    **LAYER_NAMES,
    "router": "block_sparse_moe.router.layer.weight",
    "experts.*.gate": "block_sparse_moe.input_linear.weight",
    "experts.*.up": "block_sparse_moe.input_linear.weight",
    "experts.*.down": "block_sparse_moe.output_linear.weight",
    "shared_gate_up": "shared_mlp.input_linear.weight",
    "shared_down": "shared_mlp.output_linear.weight",
}


def read_granite(settings: Settings) -> DecoderConfig:
    """A Llama with factors. Raises ModelLoadError, ValueError."""
    has_bias = settings.flag("attention_bias")
    return settings.decoder(
        qkv_bias=has_bias,
        o_bias=has_bias,
        mlp_bias=settings.flag("mlp_bias"),
        embedding_scale=settings.number("embedding_multiplier"),
        attention_scale=settings.number("attention_multiplier"),
        residual_scale=settings.number("residual_multiplier"),
        logits_scale=1.0 / settings.number("logits_scaling"),
    )


def read_granite_moe(settings: Settings) -> DecoderConfig:
    """A Llama with factors and experts, and with an MLP beside them if the settings say so. Raises as
    `read_granite`."""
    experts = ExpertsConfig(
        num_experts=settings.positive("num_local_experts"),
        num_chosen=settings.positive("num_experts_per_tok"),
        columns=settings.positive("intermediate_size"),
        shared_columns=integer("'shared_intermediate_size'", settings.get("shared_intermediate_size") or 0),
    )
    return replace(read_granite(settings), experts=experts, mlp_bias=False)


GRANITE = Family(read=read_granite, defaults=_GRANITE_DEFAULTS)
GRANITE_MOE = Family(
    read=read_granite_moe,
    defaults=GRANITE_MOE_DEFAULTS,
    names=GRANITE_MOE_NAMES,
    stacks_experts=True,
    halves_gate_up=True,
)
