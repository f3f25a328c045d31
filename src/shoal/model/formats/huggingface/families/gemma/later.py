"""The text parts of Gemma 3n and 4: layers with inputs of their own, shared keys, and heads of two sizes.

Source: transformers, models/gemma3n and gemma4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import number
from shoal.model.formats.huggingface.families.family import LAYER_NAMES, OTHER_MODALITIES, TOP_NAMES, Family
from shoal.model.formats.huggingface.settings import FULL_ATTENTION, Settings
from shoal.model.layer_config.attention import RopeConfig
from shoal.model.layer_config.experts import ExpertsConfig
from shoal.model.layer_config.variants import UNTURNED, AltUpConfig, HeadShape, LayerInputs, shared_sources

_DEFAULTS = {
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
    "hidden_size": 2304,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
_DEFAULTS_3N = {
    **_DEFAULTS,
    "vocab_size": 262400,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 35,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "final_logit_softcapping": 30.0,
    "altup_num_inputs": 4,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "num_kv_shared_layers": 15,
    "laurel_rank": 64,
}
_SPARSE_LAYERS, _SPARSITY = 10, 0.95
"""The first layers, and the share of their gates that is cut, in a Gemma 3n whose file does not give them."""
_MOST_STREAMS = 16
"""Source: native/stage/carried/streams.h"""
_NAMES = {
    **LAYER_NAMES,
    "post_attn_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
    "layer_scale": "layer_scalar",
    "input_gate": "per_layer_input_gate.weight",
    "input_projection": "per_layer_projection.weight",
    "post_input_norm": "post_per_layer_input_norm.weight",
    "stream_router": "altup.modality_router.weight",
    "stream_router_norm": "altup.router_norm.weight",
    "stream_prediction": "altup.prediction_coefs.weight",
    "stream_correction": "altup.correction_coefs.weight",
    "stream_scale": "altup.correct_output_scale",
    "residual_down": "laurel.linear_left.weight",
    "residual_up": "laurel.linear_right.weight",
    "residual_norm": "laurel.post_laurel_norm.weight",
    "router": "router.proj.weight",
    "router_norm": "router.scale",
    "expert_scales": "router.per_expert_scale",
    "experts_norm": "pre_feedforward_layernorm_2.weight",
    "post_shared_norm": "post_feedforward_layernorm_1.weight",
    "post_experts_norm": "post_feedforward_layernorm_2.weight",
    "experts.*.gate": "experts.gate_up_proj",
    "experts.*.up": "experts.gate_up_proj",
    "experts.*.down": "experts.down_proj",
    "shared_gate": LAYER_NAMES["gate"],
    "shared_up": LAYER_NAMES["up"],
    "shared_down": LAYER_NAMES["down"],
}
_TOP_NAMES = {
    **TOP_NAMES,
    "layer_embedding": "embed_tokens_per_layer.weight",
    "inputs_projection": "per_layer_model_projection.weight",
    "inputs_norm": "per_layer_projection_norm.weight",
    **{f"streams.{stream}.spread": f"altup_projections.{stream - 1}.weight" for stream in range(1, _MOST_STREAMS)},
    **{
        f"streams.{stream}.join": f"altup_unembed_projections.{stream - 1}.weight" for stream in range(1, _MOST_STREAMS)
    },
}


def _read(settings: Settings, num_shared: int, every: int, **own: Any) -> DecoderConfig:
    """What both versions have in common. If the file does not say which layers have full attention, every `every`-th
    has."""
    settings.refuse("attention_bias", unless=False)
    windows = settings.some_slide(lambda layer: (layer + 1) % every != 0)
    if not any(windows):
        raise ModelLoadError(f"{settings.path}: no layer has a window, which is not supported")
    return settings.decoder(
        qk_norm=True,
        unit_v_norm=True,
        post_norms=True,
        activation=settings.activation("hidden_activation", "gelu_tanh"),
        embedding_scale=settings.positive("hidden_size") ** 0.5,
        attention_scale=1.0,
        final_softcap=settings.number("final_logit_softcapping", 0.0),
        local_rope=settings.rope("sliding_attention"),
        layer_windows=windows,
        kv_sources=shared_sources(windows, num_shared),
        layer_inputs=_layer_inputs(settings),
        **own,
    )


def _layer_inputs(settings: Settings) -> LayerInputs | None:
    if not settings.get("hidden_size_per_layer_input"):
        return None
    width = settings.positive("hidden_size_per_layer_input")
    return LayerInputs(width=width, vocab_size=settings.positive("vocab_size_per_layer_input"))


def _num_shared(settings: Settings) -> int:
    return settings.positive("num_kv_shared_layers") if settings.get("num_kv_shared_layers") else 0


def _read_gemma3n(settings: Settings) -> DecoderConfig:
    columns = settings.get("intermediate_size")
    own: dict[str, Any] = {}
    if isinstance(columns, list):
        if len(columns) != settings.num_layers or any(type(one) is not int or one <= 0 for one in columns):
            raise ModelLoadError(f"{settings.path}: 'intermediate_size' is not a list with a size for each layer")
        settings = settings.with_values({"intermediate_size": max(columns)})
        own["layer_columns"] = tuple(columns) if len(set(columns)) > 1 else ()
    altup = AltUpConfig(
        num_streams=settings.positive("altup_num_inputs"),
        active=int(settings.number("altup_active_idx")),
        scales_output=settings.flag("altup_correct_scale"),
        rank=settings.positive("laurel_rank"),
    )
    if not (1 < altup.num_streams <= _MOST_STREAMS and 0 <= altup.active < altup.num_streams):
        raise ModelLoadError(f"{settings.path}: {altup.num_streams} streams, of which {altup.active} is active")
    return _read(settings, _num_shared(settings), 5, altup=altup, gate_cuts=_gate_cuts(settings), **own)


def _gate_cuts(settings: Settings) -> tuple[float | None, ...]:
    num_layers, shares = settings.num_layers, settings.get("activation_sparsity_pattern")
    if shares is None:
        num_sparse = _SPARSE_LAYERS if num_layers > _SPARSE_LAYERS else 0
        shares = [_SPARSITY] * num_sparse + [0.0] * (num_layers - num_sparse)
    shares = [number("'activation_sparsity_pattern'", share) for share in shares]
    if len(shares) != num_layers or not all(0 <= share < 1 for share in shares):
        raise ModelLoadError(f"{settings.path}: 'activation_sparsity_pattern' does not have a share for each layer")
    return tuple(NormalDist().inv_cdf(share) if share > 0 else None for share in shares)


def _read_gemma4(settings: Settings) -> DecoderConfig:
    heads, num_shared, columns = _full_heads(settings), _num_shared(settings), settings.positive("intermediate_size")
    is_double = settings.flag("use_double_wide_mlp") and num_shared > 0
    num_layers, experts = settings.num_layers, _experts(settings)
    if is_double and experts is not None:
        raise ModelLoadError(f"{settings.path}: 'use_double_wide_mlp' beside experts is not supported")
    config = _read(
        settings,
        num_shared,
        6,
        full_heads=heads,
        rope=_proportional(settings, heads.head_dim),
        layer_columns=(columns,) * (num_layers - num_shared) + (2 * columns,) * num_shared if is_double else (),
        keys_as_values=settings.flag("attention_k_eq_v"),
        layer_scales=True,
        experts=experts,
    )
    if config.window(num_layers - 1):  # as the configuration class has it, whatever the file says
        raise ModelLoadError(f"{settings.path}: the last layer has a window, which is not supported")
    return config


def _full_heads(settings: Settings) -> HeadShape:
    """Heads of layers with full attention, given for the model or for each layer. The number of heads is read only if
    keys serve as values."""
    said: Mapping[str, Any] = {
        "head_dim": settings.get("global_head_dim"),
        "num_key_value_heads": settings.get("num_global_key_value_heads")
        if settings.flag("attention_k_eq_v")
        else None,
    }
    by_layer = settings.get("per_layer_config")
    if isinstance(by_layer, dict) and by_layer:
        said = _alike(settings, by_layer)
    own = settings.with_values({key: value for key, value in said.items() if value is not None})
    return HeadShape(num_kv_heads=own.positive("num_key_value_heads"), head_dim=own.positive("head_dim"))


def _alike(settings: Settings, by_layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of single layers, which must be equal, and given for exactly the layers with full attention. Raises
    ModelLoadError."""
    types = settings.get("layer_types") or ()
    full = {str(layer) for layer, kind in enumerate(types) if kind == FULL_ATTENTION}
    first, *others = by_layer.values()
    if set(map(str, by_layer)) != full or any(other != first for other in others) or not isinstance(first, dict):
        raise ModelLoadError(f"{settings.path}: 'per_layer_config' is not the same for all layers with full attention")
    if unknown := set(first) - {"head_dim", "num_key_value_heads"}:
        raise ModelLoadError(f"{settings.path}: 'per_layer_config' has {unknown.pop()!r:.200}, which is not supported")
    return first


def _proportional(settings: Settings, head_dim: int) -> RopeConfig:
    """The rotary embedding of layers with full attention: frequencies are spread over all dimensions of a head, but
    only the first dimensions rotate."""
    parameters = settings.rope_parameters(FULL_ATTENTION)
    kind = parameters.get("rope_type", "proportional")
    theta = number("'rope_theta'", parameters["rope_theta"])
    if kind == "default":
        return RopeConfig(theta=theta, rotary_dim=head_dim)
    if kind != "proportional":
        raise ModelLoadError(f"{settings.path}: rope type {kind!r:.200} is not supported, only 'proportional'")
    share = number("'partial_rotary_factor'", parameters.get("partial_rotary_factor", 1.0))
    factor = number("'factor'", parameters.get("factor", 1.0))
    turned = min(head_dim // 2, int(share * head_dim // 2))
    divisors = (factor,) * turned + (UNTURNED,) * (head_dim // 2 - turned)
    return RopeConfig(theta=theta, rotary_dim=head_dim, divisors=divisors)


def _experts(settings: Settings) -> ExpertsConfig | None:
    if not settings.flag("enable_moe_block"):
        return None
    return ExpertsConfig(
        num_experts=settings.positive("num_experts"),
        num_chosen=settings.positive("top_k_experts"),
        columns=settings.positive("moe_intermediate_size"),
        shared_columns=settings.positive("intermediate_size"),
        has_own_norms=True,
    )


GEMMA3N_TEXT = Family(
    read=_read_gemma3n, defaults=_DEFAULTS_3N, names=_NAMES, top=_TOP_NAMES, needless=OTHER_MODALITIES
)
GEMMA3N = replace(GEMMA3N_TEXT, text_types=("gemma3n_text",))
GEMMA4_TEXT = Family(
    read=_read_gemma4,
    defaults=_DEFAULTS,
    names=_NAMES,
    top=_TOP_NAMES,
    needless=OTHER_MODALITIES,
    stacks_experts=True,
    halves_gate_up=True,
    turns_experts=False,
)
GEMMA4 = replace(GEMMA4_TEXT, text_types=("gemma4_text",))
