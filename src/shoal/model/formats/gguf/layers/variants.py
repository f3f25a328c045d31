"""What GGUF files of Gemma 3n and 4 say beside what all do: shared keys, inputs of layers, heads of two sizes, streams.

Source: llama.cpp, src/models/gemma3n.cpp and gemma4.cpp, and conversion/gemma.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer, number
from shoal.model.formats.tensor_part import TensorPart
from shoal.model.layer_variants import AltUpConfig, HeadShape, LayerInputs, shared_sources

VARIANT_NAMES = {
    "layer_scale": "layer_output_scale.weight",
    "input_gate": "inp_gate.weight",
    "input_projection": "proj.weight",
    "post_input_norm": "post_norm.weight",
    "stream_router": "altup_router.weight",
    "stream_router_norm": "altup_router_norm.weight",
    "stream_prediction": "altup_predict_coef.weight",
    "stream_correction": "altup_correct_coef.weight",
    "stream_scale": "altup_correct_scale.weight",
    "residual_down": "laurel_l.weight",
    "residual_up": "laurel_r.weight",
    "residual_norm": "laurel_post_norm.weight",
    "router_norm": "ffn_gate_inp.scale",
    "expert_scales": "ffn_down_exps.scale",
    "experts_norm": "pre_ffw_norm_2.weight",
    "post_shared_norm": "post_ffw_norm_1.weight",
    "post_experts_norm": "post_ffw_norm_2.weight",
}
VARIANT_TOP_NAMES = {
    "layer_embedding": "per_layer_token_embd.weight",
    "inputs_projection": "per_layer_model_proj.weight",
    "inputs_norm": "per_layer_proj_norm.weight",
}
MLP_BESIDE_EXPERTS = {f"shared_{part}": f"ffn_{part}.weight" for part in ("gate", "up", "down")}
"""where the MLP beside experts has an MLP's own names"""
FLAT_NAMES = tuple(VARIANT_NAMES[name] for name in ("stream_router", "stream_prediction", "stream_correction"))
"""vectors that files have as matrices"""
_STREAM_TENSORS = {"spread": "altup_proj.weight", "join": "altup_unembd_proj.weight"}
_FIRST_SHARED_3N = 20
"""where a Gemma 3n does not say how many layers share keys"""
_SOFTCAP_3N = 30.0


class _HasShape(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSource:
    """How the metadata and tensors of a file are asked."""

    get: Callable[[str], Any]
    """a value, or None; without the architecture's name"""
    array: Callable[[str], Sequence[Any] | None]
    """an array, or None"""
    tensors: Mapping[str, _HasShape]


def with_variants(config: DecoderConfig, source: VariantSource) -> DecoderConfig:
    """What was read of a Gemma 3n or 4 as of any model, and what is its own. Raises ValueError."""
    is_gemma4 = config.family == "gemma4"
    num_shared = source.get("attention.shared_kv_layers")
    default = 0 if is_gemma4 else max(0, config.num_layers - _FIRST_SHARED_3N)
    num_shared = default if num_shared is None else integer("shared_kv_layers", num_shared)
    common = replace(
        config,
        unit_v_norm=True,
        attention_scale=1.0,
        kv_sources=shared_sources(config.layer_windows, num_shared),
        layer_inputs=_layer_inputs(source),
        layer_scales=f"blk.0.{VARIANT_NAMES['layer_scale']}" in source.tensors,
    )
    return _gemma4(common, source) if is_gemma4 else _gemma3n(common, source)


def window_head_dim(source: VariantSource, head_dim: int) -> int:
    """Of layers with a window, where these have other heads."""
    found = source.get("attention.key_length_swa")
    return head_dim if found is None else integer("key_length_swa", found)


def of_layer(source: VariantSource, key: str, layer: int) -> Any:
    """A value that may be one for each layer."""
    values = source.array(key)
    return source.get(key) if values is None else values[layer] if layer < len(values) else None


def _layer_inputs(source: VariantSource) -> LayerInputs | None:
    width = integer("embedding_length_per_layer_input", source.get("embedding_length_per_layer_input") or 0)
    table = source.tensors.get(VARIANT_TOP_NAMES["layer_embedding"])
    return None if width == 0 or table is None else LayerInputs(width=width, vocab_size=table.shape[0])


def _gemma4(config: DecoderConfig, source: VariantSource) -> DecoderConfig:
    full = next((layer for layer in range(config.num_layers) if not config.window(layer)), None)
    if full is None:
        return config
    head_dim = integer("key_length", source.get("attention.key_length"))
    num_kv_heads = integer("head_count_kv", of_layer(source, "attention.head_count_kv", full))
    columns = source.array("feed_forward_length") or ()
    experts = config.experts
    if experts is not None:
        experts = replace(experts, has_own_norms=True, shared_columns=config.intermediate_size, dense_layers=())
    return replace(
        config,
        full_heads=HeadShape(num_kv_heads=num_kv_heads, head_dim=head_dim),
        keys_as_values=f"blk.{full}.attn_v.weight" not in source.tensors,
        layer_columns=tuple(integer("feed_forward_length", one) for one in columns) if len(set(columns)) > 1 else (),
        experts=experts,
    )


def _gemma3n(config: DecoderConfig, source: VariantSource) -> DecoderConfig:
    down = source.tensors.get(f"blk.0.{VARIANT_NAMES['residual_down']}")
    cuts = [float(one) for one in source.array("activation_sparsity_scale") or ()]
    for cut in cuts:
        if cut != -math.inf:
            number("activation_sparsity_scale", cut)
    softcap = source.get("final_logit_softcapping")
    return replace(
        config,
        altup=AltUpConfig(
            num_streams=integer("altup.num_inputs", source.get("altup.num_inputs")),
            active=integer("altup.active_idx", source.get("altup.active_idx") or 0),
            scales_output=True,
            rank=0 if down is None else down.shape[0],
        ),
        gate_cuts=tuple(None if cut == -math.inf else cut for cut in cuts),
        final_softcap=_SOFTCAP_3N if softcap is None else number("final_logit_softcapping", softcap),
    )


def stream_part(config: DecoderConfig, name: str) -> TensorPart:
    """Where a matrix of a stream is among those of all but the first: `streams.1.spread`."""
    assert config.altup is not None
    _, stream, leaf = name.split(".")
    size, index = config.hidden_size, int(stream) - 1
    return TensorPart(
        tensor=_STREAM_TENSORS[leaf],
        start=index * size,
        stop=(index + 1) * size,
        stack=config.altup.num_streams - 1,
    )
