"""Plausibility checks of a model's settings, whatever format they were read from.

Shapes are not bounded here: `tensor_check` compares them with the file's tensors.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from shoal.errors import ModelLoadError
from shoal.model.attention.rope import rope_tables
from shoal.model.decoder_config import DecoderConfig
from shoal.model.layer_config.attention import RopeConfig
from shoal.model.layer_config.experts import ExpertsConfig

MAX_POSITION = 2**31 - 1
"""Positions are 32-bit numbers in steps and in the attention kernel."""
MAX_LAYERS = 4096
"""The deepest published decoder has 126 layers. The bound keeps lists with an item for each layer small, since they are
made before any tensor is looked up."""
MAX_EXPERTS, MAX_CHOSEN = 4096, 64
"""Bounds of a layer's experts and of those that a token goes to. Source: native/stage/runners/router.h"""
MAX_EXTENT = 8192
"""Bound of query heads and of the dimensions of a head. Source: the attention kernel, native/attention/layer.cpp"""


def check_config(where: Path, config: DecoderConfig) -> None:
    """Raises ModelLoadError if a setting, or a combination of them, is impossible in a decoder."""
    try:
        _check_counts(config)
        _check_numbers(config)
        if config.experts is not None:
            _check_experts(config.experts, config.num_layers)
        _check_variants(config)
        full_dim = config.head_dim if config.full_heads is None else config.full_heads.head_dim
        for rope, head_dim in ((config.rope, full_dim), (config.local_rope, config.head_dim)):
            if rope is not None:
                _check_rope(rope, head_dim)
                rope_tables(rope, config.max_context, num_rows=1)
    except (ValueError, ModelLoadError) as error:
        raise ModelLoadError(f"{where}: {error}") from error


def integer(what: str, value: Any) -> int:
    """A whole number from a file. Raises ValueError for anything else, such as a boolean or a fraction."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise ValueError(f"{what} is {value!r}, not a whole number")
    return value


def number(what: str, value: Any) -> float:
    """A finite number from a file. Raises ValueError for anything else, such as text, infinity or NaN."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}, not a number")
    return float(value)


def layer_count(what: str, value: Any) -> int:
    """A number of layers. Raises ValueError if it is not positive, or is implausibly large."""
    count = integer(what, value)
    _require(0 < count <= MAX_LAYERS, f"{what} is {count}; between 1 and {MAX_LAYERS} layers are possible")
    return count


def _check_counts(config: DecoderConfig) -> None:
    for name in ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size"):
        _require(getattr(config, name) > 0, f"{name} is {getattr(config, name)}, not a positive number")
    heads, kv_heads = config.num_heads, config.num_kv_heads
    _require(heads % kv_heads == 0, f"{heads} attention heads cannot share {kv_heads} key and value heads evenly")
    _require(
        max(heads, config.head_dim) <= MAX_EXTENT,
        f"{heads} heads of {config.head_dim}: no more than {MAX_EXTENT} of either are supported",
    )
    _require(
        0 < config.max_context <= MAX_POSITION,
        f"a context of {config.max_context} tokens; between 1 and {MAX_POSITION} are possible",
    )
    for window in config.layer_windows:
        _require(0 <= window <= MAX_POSITION, f"a sliding window of {window} tokens")
    _require(
        len(config.layer_windows) in (0, config.num_layers),
        f"{len(config.layer_windows)} sliding windows for {config.num_layers} layers",
    )


def _check_variants(config: DecoderConfig) -> None:
    """Check the parts of layers that are neither attention nor an MLP."""
    if config.full_heads is not None:
        own, dim = config.full_heads.num_kv_heads, config.full_heads.head_dim
        _require(
            own > 0 and config.num_heads % own == 0, f"{config.num_heads} heads cannot share {own} key heads evenly"
        )
        _require(0 < dim <= MAX_EXTENT, f"heads of {dim}; between 1 and {MAX_EXTENT} are possible")
    for name in ("layer_columns", "kv_sources", "gate_cuts"):
        count = len(getattr(config, name))
        _require(count in (0, config.num_layers), f"{name} has {count} items for {config.num_layers} layers")
    for layer, source in enumerate(config.kv_sources):
        is_whole = 0 <= source <= layer and config.kv_sources[source] == source
        _require(is_whole, f"layer {layer} has the keys of layer {source}, which has none of its own")
        _require(config.window(source) == config.window(layer), f"layers {source} and {layer} have unlike windows")
    _require(all(columns > 0 for columns in config.layer_columns), "an MLP has no columns")
    inputs = config.layer_inputs
    _require(inputs is None or min(inputs.width, inputs.vocab_size) > 0, "layers have inputs without values")
    _require(config.altup is None or config.altup.rank > 0, "a learned residual has no rank")


def _check_experts(experts: ExpertsConfig, num_layers: int) -> None:
    """The router's bounds are those of native/stage/runners/router.cpp."""
    count, groups = experts.num_experts, experts.num_groups
    _require(1 <= count <= MAX_EXPERTS, f"{count} experts; between 1 and {MAX_EXPERTS} are possible")
    _require(experts.columns > 0, f"experts of {experts.columns} columns, not a positive number")
    _require(experts.shared_columns >= 0, f"a shared expert of {experts.shared_columns} columns")
    _require(
        1 <= groups <= MAX_CHOSEN and count % groups == 0,
        f"{count} experts do not divide into {groups} groups of one size, of which at most {MAX_CHOSEN} are possible",
    )
    _require(
        1 <= experts.num_chosen_groups <= groups,
        f"experts are chosen from {experts.num_chosen_groups} of {groups} groups, which is impossible",
    )
    most = min(experts.num_chosen_groups * (count // groups), MAX_CHOSEN)
    _require(
        1 <= experts.num_chosen <= most,
        f"a token goes through {experts.num_chosen} experts; between 1 and {most} are possible",
    )
    _require(1 <= experts.num_group_scores <= min(count // groups, MAX_CHOSEN), "a group is ranked by no expert of it")
    limit = experts.mixer_limit
    _require(math.isfinite(limit) and limit >= 0, f"a mixer's limit of {limit}, which is impossible")
    _require(math.isfinite(experts.scale), f"experts are scaled by {experts.scale}, which is impossible")
    _require(
        all(0 <= layer < num_layers for layer in experts.dense_layers),
        f"a layer without experts is none of the {num_layers}",
    )


def _check_numbers(config: DecoderConfig) -> None:
    scales = ("embedding_scale", "attention_scale", "residual_scale", "logits_scale")
    for name in ("norm_epsilon", *scales, "attention_softcap", "final_softcap"):
        value = getattr(config, name)
        _require(math.isfinite(value) and value >= 0, f"{name} is {value}, which is impossible")


def _check_rope(rope: RopeConfig, head_dim: int) -> None:
    _require(
        0 < rope.rotary_dim <= head_dim and rope.rotary_dim % 2 == 0,
        f"{rope.rotary_dim} rotary dimensions of {head_dim}; an even number of them is possible",
    )
    _require(math.isfinite(rope.theta) and rope.theta > 0, f"a rotary base of {rope.theta}, which is impossible")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
