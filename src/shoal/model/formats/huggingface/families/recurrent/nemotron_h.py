"""Nemotron-H and Nemotron 3 Nano: each layer is only Mamba-2, only attention, only an MLP or only experts.

Source: transformers, models/nemotron_h. Its `time_step_min` is ignored: transformers uses it as a bound of steps when
it computes a text at once but not when it continues one, and neither its authors' kernels nor llama.cpp use it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.huggingface.families.deepseek import routed_experts
from shoal.model.formats.huggingface.families.family import BUFFERS, TOP_NAMES, Family
from shoal.model.formats.huggingface.families.recurrent.mamba_layers import (
    MAMBA_KINDS,
    check_taps,
    mamba_names,
    mamba_part,
    refuse_step_limit,
)
from shoal.model.formats.huggingface.settings import Settings
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.recurrence.mamba import MambaConfig

_DEFAULTS = {
    "vocab_size": 131072,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "intermediate_size": 21504,
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "layer_norm_epsilon": 1e-5,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
}
_OLD_KEYS = {
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_dt_limit": "time_step_limit",
}
_KINDS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
"""Kinds of layers by the characters of a pattern."""
_SAME = {"attention": "full_attention", MAMBA_KINDS[1]: MAMBA_KINDS[0]}
"""Names of kinds in files from before transformers 5."""
_MATRICES = {name: f"mixer.{name}_proj.weight" for name in ("q", "k", "v", "o", "up", "down")}
_NAMES = {
    **_MATRICES,
    **{f"{name}_bias": tensor.replace(".weight", ".bias") for name, tensor in _MATRICES.items()},
    **mamba_names("mixer"),
    "attn_norm": "norm.weight",
    "mlp_norm": "norm.weight",
    "router": "mixer.gate.weight",
    "selection_bias": "mixer.gate.e_score_correction_bias",
    "experts.*.up": "mixer.experts.*.up_proj.weight",
    "experts.*.down": "mixer.experts.*.down_proj.weight",
    "shared_up": "mixer.shared_experts.up_proj.weight",
    "shared_down": "mixer.shared_experts.down_proj.weight",
}
_TOP = {**TOP_NAMES, "embedding": "embeddings.weight", "final_norm": "norm_f.weight"}


def _read(settings: Settings) -> DecoderConfig:
    kinds = _layer_kinds(settings)
    settings = settings.but(num_hidden_layers=len(kinds))
    settings.refuse("attention_bias", unless=False)
    settings.refuse("mamba_hidden_act", unless="silu")
    settings.refuse("sliding_window", unless=None)

    def of(*wanted: str) -> tuple[int, ...]:
        return tuple(layer for layer, kind in enumerate(kinds) if kind in wanted)

    has_mlp = "mlp" in kinds
    return settings.decoder(
        norm_epsilon=settings.number("layer_norm_epsilon"),
        activation=settings.activation("mlp_hidden_act", "relu2"),
        gated_mlp=False,
        mlp_bias=settings.flag("mlp_bias"),
        no_rope_layers=tuple(range(len(kinds))),
        no_mixer_layers=of("mlp", "moe"),
        no_mlp_layers=of("linear_attention", "full_attention"),
        recurrence=_recurrence(settings, of("linear_attention")),
        experts=_experts(settings, of("mlp")) if "moe" in kinds else None,
        **({} if has_mlp else {"intermediate_size": settings.positive("moe_intermediate_size")}),
    )


def _layer_kinds(settings: Settings) -> list[str]:
    """The kind of each layer, from a list, or from a pattern of characters, which takes precedence."""
    pattern = settings.get("hybrid_override_pattern")
    kinds: Any = settings.get("layers_block_type") if pattern is None else [_KINDS.get(one, one) for one in pattern]
    kinds = [_SAME.get(kind, kind) for kind in kinds]
    if unknown := [kind for kind in kinds if kind not in _KINDS.values()]:
        raise ModelLoadError(f"{settings.path}: a layer is {unknown[0]!r:.200}, which is not supported")
    return kinds


def _experts(settings: Settings, dense_layers: tuple[int, ...]) -> ExpertsConfig:
    settings.refuse("moe_latent_size", unless=None)
    settings.refuse("mlp_bias", unless=False)
    experts = routed_experts(
        settings,
        dense_layers,
        num_shared=0,
        num_groups=settings.positive("n_group"),
        num_chosen_groups=settings.positive("topk_group"),
    )
    return replace(experts, shared_columns=settings.positive("moe_shared_expert_intermediate_size"))


def _recurrence(settings: Settings, layers: tuple[int, ...]) -> MambaConfig | None:
    if not layers:
        return None
    refuse_step_limit(settings)
    heads, groups = settings.positive("mamba_num_heads"), settings.positive("n_groups")
    if heads % groups:
        raise ValueError(f"{heads} heads cannot be dealt out to {groups} groups evenly")
    return MambaConfig(
        layers=layers,
        num_groups=groups,
        heads_per_group=heads // groups,
        head_dim=settings.positive("mamba_head_dim"),
        state_dim=settings.positive("ssm_state_size"),
        num_taps=check_taps(settings, "conv_kernel"),
        norm_epsilon=settings.number("layer_norm_epsilon"),
        taps_bias=settings.flag("use_conv_bias"),
        biases=settings.flag("use_bias"),
    )


NEMOTRON_H = Family(
    read=_read,
    defaults=_DEFAULTS,
    names=_NAMES,
    top=_TOP,
    aliases=_OLD_KEYS,
    part=mamba_part("mixer"),
    needless=re.compile(rf"{BUFFERS.pattern}|mtp\..*"),
)
