"""How a GGUF file holds recurrent layers, gated attention and latent attention: keys, joined tensors, row orders.

Source: llama.cpp, conversion/lfm2.py, mamba.py, qwen.py, deepseek.py; the reverse of `gguf/layers/recurrent.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shoal.arrays import I64
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.architectures import ARCHITECTURES
from shoal.model.formats.gguf.writing.variants import variant_keys
from shoal.model.layer_config.attention import LatentConfig
from shoal.model.recurrence.delta_net import DeltaNetConfig
from shoal.model.recurrence.mamba import ORDER, MambaConfig
from shoal.model.recurrence.short_conv import ShortConvConfig

_SECTIONS = [11, 11, 10, 0]
"""Sections of the rotary embedding for pictures, which llama.cpp requires; text has the same position in all of
them."""
_TAPS = "_taps"


def joined_names(config: DecoderConfig, architecture: str) -> Mapping[str, tuple[str, ...]]:
    """Joined tensors, without `.weight`, and the matrices or taps that each consists of, in order."""
    joined: dict[str, tuple[str, ...]] = {"attn_q": ("q", "q_gate")} if config.gates_attention else {}
    match config.recurrence:
        case ShortConvConfig():
            joined["shortconv.in_proj"] = config.recurrence.inputs
        case DeltaNetConfig():
            first = config.recurrence.inputs[:3]
            joined |= {"attn_qkv": first, "ssm_conv1d": tuple(f"{name}{_TAPS}" for name in first)}
            if architecture == "qwen3next":
                joined["ssm_ba"] = ("delta_write", "delta_decay")
        case MambaConfig():
            joined |= {"ssm_in": ORDER, "ssm_conv1d": tuple(f"{name}{_TAPS}" for name in ORDER[1:4])}
        case None:
            pass
    return joined


def num_turns(config: DecoderConfig, tensor: str) -> int:
    """For a tensor whose matrices alternate: the number of key heads over which they do; 1: they lie below each
    other."""
    recurrence = config.recurrence
    if tensor.endswith("attn_q.weight") and config.gates_attention:
        return config.num_heads
    return recurrence.num_key_heads if isinstance(recurrence, DeltaNetConfig) and ".ssm_ba." in tensor else 1


def turned(config: DecoderConfig, architecture: str, leaf: str) -> tuple[I64 | None, I64 | None]:
    """New orders of a matrix's rows (or a vector's items) and of its columns; None: unchanged.

    In the file, consecutive value heads belong to different key heads, which need not be so in the source.
    """
    recurrence = config.recurrence
    if architecture not in ("qwen35", "qwen35moe") or not isinstance(recurrence, DeltaNetConfig) or recurrence.in_turn:
        return None, None
    heads, each = recurrence.num_key_heads, recurrence.value_heads_per_key

    def order(run: int) -> I64:
        return np.arange(heads * each * run, dtype=np.int64).reshape(heads, each, run).swapaxes(0, 1).reshape(-1)

    dim = recurrence.value_dim
    match leaf:
        case "delta_v" | "delta_z":
            return order(dim), None
        case "delta_v_taps":
            return order(dim * recurrence.num_taps), None
        case "delta_write" | "delta_decay" | "delta_rate" | "delta_dt":
            return order(1), None
        case "delta_out":
            return None, order(dim)
        case _:
            return None, None


def layer_keys(config: DecoderConfig, architecture: str) -> Iterator[tuple[str, Any]]:
    """Keys without the architecture's name, which replace general ones of the same name."""
    layers = range(config.num_layers)
    if config.recurrence is not None and not isinstance(config.recurrence, DeltaNetConfig):
        yield (
            "attention.head_count_kv",
            [config.num_kv_heads if config.has_attention(layer) else 0 for layer in layers],
        )
    if ARCHITECTURES[architecture].has_single_halves:
        columns = config.intermediate_size if config.experts is None else config.experts.columns
        yield "feed_forward_length", [columns if layer in config.no_mixer_layers else 0 for layer in layers]
    if ARCHITECTURES[architecture].rotates == "unless told":
        yield "rope.scaling.finetuned", not config.no_rope_layers
    if config.latent is not None:
        yield from _latent_keys(config.latent)
    if ARCHITECTURES[architecture].has_variants:
        yield from variant_keys(config)
    yield from _recurrent_keys(config)


def _recurrent_keys(config: DecoderConfig) -> Iterator[tuple[str, Any]]:
    match config.recurrence:
        case ShortConvConfig(num_taps=taps):
            yield "shortconv.l_cache", taps
        case DeltaNetConfig() as delta:
            yield from _state_keys(
                delta.num_taps, delta.key_dim, delta.num_key_heads, delta.num_value_heads, delta.out_width
            )
            yield "attention.recurrent_layers", [layer in delta.layers for layer in range(config.num_layers)]
            yield "rope.dimension_sections", _SECTIONS
        case MambaConfig() as mamba:
            yield from _state_keys(mamba.num_taps, mamba.state_dim, mamba.num_groups, mamba.num_heads, mamba.out_width)
        case None:
            return


def _state_keys(taps: int, state_dim: int, groups: int, heads: int, inner: int) -> Iterator[tuple[str, int]]:
    yield "ssm.conv_kernel", taps
    yield "ssm.state_size", state_dim
    yield "ssm.group_count", groups
    yield "ssm.time_step_rank", heads
    yield "ssm.inner_size", inner


def _latent_keys(latent: LatentConfig) -> Iterator[tuple[str, int]]:
    if latent.query_rank:
        yield "attention.q_lora_rank", latent.query_rank
    yield "attention.kv_lora_rank", latent.latent_dim
    yield "attention.value_length", latent.latent_dim
    yield "attention.key_length_mla", latent.query_dim
    yield "attention.value_length_mla", latent.value_dim
