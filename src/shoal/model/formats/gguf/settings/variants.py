"""What only GGUF files of Gemma 3n and 4 say: shared keys, inputs of layers, heads of two sizes, residual streams.

Source: llama.cpp, src/models/gemma3n.cpp and gemma4.cpp, and conversion/gemma.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.config_check import integer, number
from shoal.model.formats.gguf.layers.variants import VARIANT_NAMES, VARIANT_TOP_NAMES
from shoal.model.formats.gguf.settings.keys import GgufSettings
from shoal.model.layer_config.variants import AltUpConfig, HeadShape, LayerInputs, shared_sources

_FIRST_SHARED_3N = 20
"""First layer with shared keys in a Gemma 3n file that does not say how many layers share keys."""
_SOFTCAP_3N = 30.0


def with_variants(config: DecoderConfig, settings: GgufSettings) -> DecoderConfig:
    """Add a Gemma 3n's or 4's own settings to those that all models have. Raises ValueError."""
    is_gemma4 = config.family == "gemma4"
    num_shared = settings.get("attention.shared_kv_layers")
    default = 0 if is_gemma4 else max(0, config.num_layers - _FIRST_SHARED_3N)
    num_shared = default if num_shared is None else integer("shared_kv_layers", num_shared)
    common = replace(
        config,
        unit_v_norm=True,
        attention_scale=1.0,
        kv_sources=shared_sources(config.layer_windows, num_shared),
        layer_inputs=_layer_inputs(settings),
        layer_scales=f"blk.0.{VARIANT_NAMES['layer_scale']}" in settings.header.tensors,
    )
    return _gemma4(common, settings) if is_gemma4 else _gemma3n(common, settings)


def window_head_dim(settings: GgufSettings, head_dim: int) -> int:
    """Dimensions of a head in layers with a window, which may differ from the others."""
    found = settings.get("attention.key_length_swa")
    return head_dim if found is None else integer("key_length_swa", found)


def of_layer(settings: GgufSettings, key: str, layer: int) -> Any:
    """A value that may be a list with an item for each layer."""
    values = settings.array(key)
    return settings.get(key) if values is None else values[layer] if layer < len(values) else None


def _layer_inputs(settings: GgufSettings) -> LayerInputs | None:
    width = integer("embedding_length_per_layer_input", settings.get("embedding_length_per_layer_input") or 0)
    table = settings.header.tensors.get(VARIANT_TOP_NAMES["layer_embedding"])
    return None if width == 0 or table is None else LayerInputs(width=width, vocab_size=table.shape[0])


def _gemma4(config: DecoderConfig, settings: GgufSettings) -> DecoderConfig:
    full = next((layer for layer in range(config.num_layers) if not config.window(layer)), None)
    if full is None:
        return config
    head_dim = integer("key_length", settings.get("attention.key_length"))
    num_kv_heads = integer("head_count_kv", of_layer(settings, "attention.head_count_kv", full))
    columns = settings.array("feed_forward_length") or ()
    experts = config.experts
    if experts is not None:
        experts = replace(experts, has_own_norms=True, shared_columns=config.intermediate_size, dense_layers=())
    return replace(
        config,
        full_heads=HeadShape(num_kv_heads=num_kv_heads, head_dim=head_dim),
        keys_as_values=f"blk.{full}.attn_v.weight" not in settings.header.tensors,
        layer_columns=tuple(integer("feed_forward_length", one) for one in columns) if len(set(columns)) > 1 else (),
        experts=experts,
    )


def _gemma3n(config: DecoderConfig, settings: GgufSettings) -> DecoderConfig:
    down = settings.header.tensors.get(f"blk.0.{VARIANT_NAMES['residual_down']}")
    cuts = [float(one) for one in settings.array("activation_sparsity_scale") or ()]
    for cut in cuts:
        if cut != -math.inf:
            number("activation_sparsity_scale", cut)
    softcap = settings.get("final_logit_softcapping")
    return replace(
        config,
        altup=AltUpConfig(
            num_streams=integer("altup.num_inputs", settings.get("altup.num_inputs")),
            active=integer("altup.active_idx", settings.get("altup.active_idx") or 0),
            scales_output=True,
            rank=0 if down is None else down.shape[0],
        ),
        gate_cuts=tuple(None if cut == -math.inf else cut for cut in cuts),
        final_softcap=_SOFTCAP_3N if softcap is None else number("final_logit_softcapping", softcap),
    )
