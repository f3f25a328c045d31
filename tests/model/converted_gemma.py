"""Gemma 3n and 4 as llama.cpp's converter writes them. Source: llama.cpp, conversion/gemma.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any

import gguf
import numpy as np

GEMMA = ("gemma3n_text", "gemma4_text")
_STREAMS = ("altup_projections", "altup_unembed_projections")


def gemma_tensors(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Names that the converter's table knows, streams stacked, and divisors of layers with full attention."""
    for name, values in tensors.items():
        if any(f"{one}." in name for one in _STREAMS) or name == "lm_head.weight":
            continue
        if name.endswith("embed_tokens_per_layer.weight"):
            values = np.pad(values, ((0, config["vocab_size"] - len(values)), (0, 0)))
        if name.endswith("router.scale"):
            yield f"blk.{name.split('.')[2]}.ffn_gate_inp.scale", values
        elif name.endswith("per_expert_scale"):
            yield f"blk.{name.split('.')[2]}.ffn_down_exps.scale", values
        else:
            yield name if name.endswith(".weight") else f"{name}.weight", values
    if config["model_type"] == "gemma4_text":
        yield "rope_freqs.weight", _divisors(config)
        return
    for one in _STREAMS:
        stacked = [tensors[f"model.{one}.{stream}.weight"] for stream in range(config["altup_num_inputs"] - 1)]
        yield f"model.{one}.weight", np.stack(stacked)


def _divisors(config: Mapping[str, Any]) -> np.ndarray:
    half, share = _full(config)["head_dim"] // 2, config["rope_parameters"]["full_attention"]["partial_rotary_factor"]
    turned = int(half * share)
    return np.array([1.0] * turned + [1e30] * (half - turned))


def _full(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(config["per_layer_config"].values()))


def add_gemma(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """Keys beside those that all families have."""
    slides = [kind == "sliding_attention" for kind in config["layer_types"]]
    writer.add_sliding_window(config["sliding_window"])
    writer.add_sliding_window_pattern(slides)
    writer.add_rope_freq_base_swa(config["rope_parameters"]["sliding_attention"]["rope_theta"])
    writer.add_shared_kv_layers(config["num_kv_shared_layers"])
    writer.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
    if config["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if config["model_type"] == "gemma3n_text":
        writer.add_altup_active_idx(config["altup_active_idx"])
        writer.add_altup_num_inputs(config["altup_num_inputs"])
        shares = config["activation_sparsity_pattern"]
        writer.add_activation_sparsity_scale(
            [NormalDist().inv_cdf(share) if share else float("-inf") for share in shares]
        )
        return
    writer.add_key_length_swa(config["head_dim"])
    writer.add_value_length_swa(config["head_dim"])
    writer.add_rope_dimension_count_swa(config["head_dim"])


def own_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What differs between layers, as lists where it does."""
    columns = config["intermediate_size"]
    if isinstance(columns, list):
        return {"intermediate_size": columns[0]} if len(set(columns)) == 1 else {}
    slides = [kind == "sliding_attention" for kind in config["layer_types"]]
    full, heads = _full(config), config["num_key_value_heads"]
    first_shared = len(slides) - config["num_kv_shared_layers"]
    wide = [columns if layer < first_shared else 2 * columns for layer in range(len(slides))]
    return {
        "intermediate_size": wide if config["use_double_wide_mlp"] else columns,
        "num_key_value_heads": [heads if one else full.get("num_key_value_heads", heads) for one in slides],
        "head_dim": full["head_dim"],
        "rotary_dim": full["head_dim"],
    }
