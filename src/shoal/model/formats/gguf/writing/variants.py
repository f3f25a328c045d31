"""How a GGUF file holds what only layers of Gemma 3n and 4 have: keys, and shapes and names of tensors.

Source: llama.cpp, conversion/gemma.py and src/models/gemma3n.cpp, gemma4.cpp; the reverse of `gguf/layers/variants.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from shoal.arrays import I64
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.layers.variants import VARIANT_NAMES
from shoal.model.layer_config.variants import HeadShape

Shape = tuple[int, ...]


def variant_keys(config: DecoderConfig) -> Iterator[tuple[str, Any]]:
    """Keys without the architecture's name, which replace general ones of the same name."""
    layers = range(config.num_layers)
    yield "attention.shared_kv_layers", sum(config.kv_source(layer) != layer for layer in layers)
    yield "embedding_length_per_layer_input", config.layer_inputs.width if config.layer_inputs is not None else 0
    if config.local_rope is not None:
        yield "rope.freq_base_swa", float(config.local_rope.theta)
    if config.layer_columns:
        yield "feed_forward_length", list(config.layer_columns)
    if config.altup is not None:
        yield "altup.num_inputs", config.altup.num_streams
        yield "altup.active_idx", config.altup.active
        yield "activation_sparsity_scale", [-math.inf if cut is None else cut for cut in config.gate_cuts]
    if config.full_heads is not None:
        yield from _head_keys(config, config.full_heads)


def _head_keys(config: DecoderConfig, full: HeadShape) -> Iterator[tuple[str, Any]]:
    """Keys of models whose layers with a window have other heads than the rest."""
    for side in ("key", "value"):
        yield f"attention.{side}_length", full.head_dim
        yield f"attention.{side}_length_swa", config.head_dim
    if config.local_rope is not None:
        yield "rope.dimension_count_swa", config.local_rope.rotary_dim
    layers = range(config.num_layers)
    yield (
        "attention.head_count_kv",
        [config.num_kv_heads if config.window(layer) else full.num_kv_heads for layer in layers],
    )


def matrix_shape(config: DecoderConfig, tensor: str, shape: Shape) -> Shape:
    """The shape of a vector's tensor. Coefficients of streams are a matrix with a row for each stream."""
    if config.altup is None:
        return shape
    streams = config.altup.num_streams
    columns = {
        VARIANT_NAMES["stream_router"]: config.hidden_size,
        VARIANT_NAMES["stream_prediction"]: streams,
        VARIANT_NAMES["stream_correction"]: streams,
    }
    found = next((count for end, count in columns.items() if tensor.endswith(end)), None)
    return shape if found is None else (shape[0] // found, found)


def unused_keys(config: DecoderConfig) -> Iterator[tuple[str, str]]:
    """Tensors that llama.cpp requires but never uses: the keys of layers that attend over another layer's. Yields each
    name without the layer's prefix, and the matrix or vector of the other layer that is written there."""
    if config.altup is None:
        return
    for layer in range(config.num_layers):
        source = config.kv_source(layer)
        for leaf in ("k", "v", "k_norm") if source != layer else ():
            yield f"layers.{layer}.{leaf}", f"layers.{source}.{leaf}"


def table_rows(config: DecoderConfig) -> I64 | None:
    """The order in which rows of the layer input table are written; tokens that it lacks get the row of token 0."""
    inputs = config.layer_inputs
    if inputs is None or inputs.vocab_size >= config.vocab_size:
        return None
    numbers = np.arange(config.vocab_size)
    return np.where(numbers < inputs.vocab_size, numbers, 0)
