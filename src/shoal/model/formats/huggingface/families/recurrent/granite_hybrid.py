"""Granite 4 hybrid: Mamba-2 in most layers, attention in the others, followed by experts or an MLP.

Source: transformers, models/granitemoehybrid.
"""

from __future__ import annotations

from dataclasses import replace

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.families.granite import (
    GRANITE_MOE_DEFAULTS,
    GRANITE_MOE_NAMES,
    read_granite,
    read_granite_moe,
)
from shoal.model.formats.huggingface.families.recurrent.mamba_layers import (
    MAMBA_KINDS,
    check_taps,
    mamba_names,
    mamba_part,
    refuse_step_limit,
)
from shoal.model.formats.huggingface.settings import FULL_ATTENTION, Settings
from shoal.model.recurrence.mamba import MambaConfig

_DEFAULTS = {
    **GRANITE_MOE_DEFAULTS,
    "shared_intermediate_size": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
}
_NAMES = {
    **GRANITE_MOE_NAMES,
    **mamba_names("mamba"),
    "gate_up": "shared_mlp.input_linear.weight",
    "down": "shared_mlp.output_linear.weight",
}


def _read(settings: Settings) -> DecoderConfig:
    """In a model without experts, what the file calls the shared MLP is the layer's own."""
    if integer("'num_local_experts'", settings.get("num_local_experts") or 0):
        config = read_granite_moe(settings)
    else:
        columns = settings.positive("shared_intermediate_size")
        config = replace(read_granite(settings), intermediate_size=columns, mlp_bias=False)
    layers = range(settings.num_layers)
    rotates = settings.get("position_embedding_type") == "rope"
    return replace(config, recurrence=_recurrence(settings), no_rope_layers=() if rotates else tuple(layers))


def _recurrence(settings: Settings) -> MambaConfig | None:
    """Files from before transformers 5 have shorter names for the kinds of layers."""
    default = [MAMBA_KINDS[0]] * settings.num_layers
    layers = settings.layers_of_type(*MAMBA_KINDS, others=(FULL_ATTENTION, "attention"), default=default)
    if not layers:
        return None
    refuse_step_limit(settings)
    heads, groups = settings.positive("mamba_n_heads"), settings.positive("mamba_n_groups")
    inner = settings.positive("mamba_expand") * settings.positive("hidden_size")
    if heads % groups or inner % heads:
        raise ValueError(f"{inner} channels cannot be dealt out to {heads} heads in {groups} groups")
    if settings.get("mamba_d_head") not in (None, "auto", inner // heads):
        raise ValueError(f"{heads} heads of 'mamba_d_head' are not {inner} channels")
    return MambaConfig(
        layers=layers,
        num_groups=groups,
        heads_per_group=heads // groups,
        head_dim=inner // heads,
        state_dim=settings.positive("mamba_d_state"),
        num_taps=check_taps(settings, "mamba_d_conv"),
        norm_epsilon=settings.number("rms_norm_eps"),
        taps_bias=settings.flag("mamba_conv_bias"),
        biases=settings.flag("mamba_proj_bias"),
    )


GRANITE_HYBRID = Family(
    read=_read, defaults=_DEFAULTS, names=_NAMES, part=mamba_part("mamba"), stacks_experts=True, halves_gate_up=True
)
