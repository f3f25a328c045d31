"""The settings of experts in a GGUF file.

Source of the keys: GGUF specification and gguf-py/gguf/constants.py; of the defaults: llama.cpp, src/llama-model.cpp.
"""

from __future__ import annotations

from typing import Literal

from shoal.errors import ModelLoadError
from shoal.model.formats.config_check import integer
from shoal.model.formats.gguf.settings.keys import GgufSettings
from shoal.model.layer_config.experts import GROUP_SCORES, ExpertsConfig

SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = 1, 2, 3
"""Source: llama.cpp, src/llama-hparams.h, llama_expert_gating_func_type"""


def experts_of(settings: GgufSettings) -> ExpertsConfig | None:
    """The settings of the layers' experts; None: no layer has any.

    Raises:
        ModelLoadError, ValueError: a key or a tensor is missing or impossible.
    """
    count = integer("expert_count", settings.get("expert_count", 0))
    if count == 0:
        return None
    tensors = settings.header.tensors
    routed = [layer for layer in range(settings.num_layers) if f"blk.{layer}.ffn_gate_inp.weight" in tensors]
    if not routed:
        raise ModelLoadError(f"{settings.header.path}: there is no tensor 'blk.0.ffn_gate_inp.weight'")
    first = f"blk.{routed[0]}"
    shared_columns = settings.num_rows(f"{first}.ffn_up_shexp.weight")
    num_groups, scoring = settings.positive("expert_group_count", 1), _scoring(settings)
    return ExpertsConfig(
        num_experts=count,
        num_chosen=settings.positive("expert_used_count"),
        columns=settings.positive("expert_feed_forward_length", settings.get("feed_forward_length")),
        scoring=scoring,
        is_normalized=_normalizes_experts(settings),
        selection_bias=f"{first}.exp_probs_b.bias" in tensors,
        num_groups=num_groups,
        num_chosen_groups=settings.positive("expert_group_used_count", 1),
        num_group_scores=min(GROUP_SCORES, max(1, count // num_groups)) if scoring == "sigmoid" else 1,
        scale=settings.number("expert_weights_scale", 0.0) or 1.0,
        router_bias=f"{first}.ffn_gate_inp.bias" in tensors,
        biases=f"{first}.ffn_gate_exps.bias" in tensors,
        mixer_limit=settings.known.mixer_limit,
        scales_input=settings.known.scales_expert_input,
        shared_columns=shared_columns,
        shared_router=f"{first}.ffn_gate_inp_shexp.weight" in tensors,
        dense_layers=tuple(
            layer
            for layer in range(settings.num_layers)
            if layer not in routed and layer not in settings.halves().get("no_mlp_layers", ())
        ),
    )


def _scoring(settings: GgufSettings) -> Literal["softmax", "sigmoid"]:
    default = SIGMOID if settings.known.has_sigmoid else SOFTMAX
    kind = settings.get("expert_gating_func", default)
    if kind not in (SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN):
        raise ValueError(f"expert_gating_func is {kind!r:.200}, which is not supported")
    return "sigmoid" if kind == SIGMOID else "softmax"


def _normalizes_experts(settings: GgufSettings) -> bool:
    """In glm4moe only if the file says so; most other architectures have no key for it. Source: llama.cpp, src/models,
    the calls of build_moe_ffn."""
    if settings.get("expert_gating_func") == SOFTMAX_OF_CHOSEN:
        return True
    default = settings.known.normalizes_experts and settings.architecture != "glm4moe"
    return bool(settings.get("expert_weights_norm", default))
