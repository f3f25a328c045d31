"""Models of random weights with recurrent layers, as Q4_0 GGUF files in the shapes of well-known ones: for speed alone.

python benchmarks/recurrent_models.py granite-h-350m FILE.gguf
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import ExpertGatingFuncType, GGMLQuantizationType, GGUFWriter
from random_models import Matrix, Vector, add_tokenizer, cache_folder, write_random_file

_Q4_0, _Q8_0 = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0
_CONTEXT = 32_768
_TAPS = {"lfm2": 3, "qwen3next": 4, "granitehybrid": 4}
_RATE = -1.0
_OF_Q4_0 = 2
"""Source: llama_ftype in llama.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a model."""

    architecture: str
    hidden: int
    layers: int
    attention: tuple[int, ...]
    """layers that have it; all others are recurrent"""
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """of an MLP, or of each expert"""
    vocab: int
    experts: int = 0
    chosen: int = 0
    groups: int = 0
    """groups of heads, or key heads"""
    recurrent_heads: int = 0
    recurrent_dim: int = 0
    """of a recurrent head"""
    state_dim: int = 0

    @property
    def inner(self) -> int:
        """Channels of the recurrence's output."""
        return self.recurrent_heads * self.recurrent_dim or self.hidden

    @property
    def channels(self) -> int:
        """Of the convolution."""
        return self.inner + 2 * self.groups * self.state_dim


SHAPES = {
    "lfm2-350m": Shape(
        architecture="lfm2", hidden=1024, layers=16, attention=(2, 5, 8, 10, 12, 14), heads=16, kv_heads=8, head_dim=64,
        intermediate=4608, vocab=65_536,
    ),
    "qwen3-next-300m": Shape(
        architecture="qwen3next", hidden=768, layers=12, attention=(3, 7, 11), heads=8, kv_heads=2, head_dim=128,
        intermediate=256, vocab=64_000, experts=32, chosen=4, groups=4, recurrent_heads=8, recurrent_dim=128,
        state_dim=128,
    ),
    "granite-h-350m": Shape(
        architecture="granitehybrid", hidden=768, layers=32, attention=(10, 13, 17, 27), heads=12, kv_heads=4,
        head_dim=64, intermediate=2048, vocab=100_352, groups=1, recurrent_heads=48, recurrent_dim=32, state_dim=128,
    ),
}  # fmt: skip
"""LFM2 350M, Granite 4.0 H 350M, and Qwen3-Next with less of everything: 0.3 billion weights, of which a token goes
through 0.14."""


def recurrent_model(name: str) -> Path:
    """The file of one of the SHAPES in the user's cache, written at the first call."""
    path = cache_folder() / f"random-{name}.gguf"
    if not path.exists():
        write_recurrent_model(SHAPES[name], path)
    return path


def write_recurrent_model(shape: Shape, path: Path) -> None:
    """Write the file."""

    def settings(writer: GGUFWriter) -> None:
        _add_settings(writer, shape)
        add_tokenizer(writer, shape.vocab)

    write_random_file(path, shape.architecture, settings, _matrices(shape), _vectors(shape), experts=shape.experts)


def _add_settings(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_name(f"Random {shape.architecture} {shape.hidden} x {shape.layers}")
    writer.add_block_count(shape.layers)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    kv_heads = [shape.kv_heads if layer in shape.attention else 0 for layer in range(shape.layers)]
    writer.add_head_count_kv(shape.kv_heads if shape.architecture == "qwen3next" else kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(_OF_Q4_0)
    if shape.architecture == "lfm2":
        writer.add_shortconv_l_cache(_TAPS["lfm2"])
        return
    writer.add_ssm_conv_kernel(_TAPS[shape.architecture])
    writer.add_ssm_state_size(shape.state_dim)
    writer.add_ssm_group_count(shape.groups)
    writer.add_ssm_time_step_rank(shape.recurrent_heads)
    writer.add_ssm_inner_size(shape.inner)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.chosen)
        writer.add_expert_feed_forward_length(shape.intermediate)
        writer.add_expert_shared_feed_forward_length(shape.intermediate)
        writer.add_expert_gating_func(ExpertGatingFuncType.SOFTMAX)
    else:
        writer.add_rope_scaling_finetuned(False)
        writer.add_logit_scale(1.0)


def _matrices(shape: Shape) -> Iterator[Matrix]:
    yield "token_embd.weight", _Q8_0, shape.vocab, shape.hidden
    for layer in range(shape.layers):
        own = _attention_matrices(shape) if layer in shape.attention else _RECURRENT[shape.architecture](shape)
        for name, rows, columns in (*own, *_mlp_matrices(shape)):
            yield f"blk.{layer}.{name}.weight", _Q4_0, rows, columns


_Rows = Iterator[tuple[str, int, int]]


def _attention_matrices(shape: Shape) -> _Rows:
    """Queries lie beside their gates in Qwen3-Next."""
    rows, kv_rows = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "attn_q", rows * (2 if shape.architecture == "qwen3next" else 1), shape.hidden
    yield "attn_k", kv_rows, shape.hidden
    yield "attn_v", kv_rows, shape.hidden
    yield "attn_output", shape.hidden, rows


def _mlp_matrices(shape: Shape) -> _Rows:
    suffixes = (("_exps", shape.experts), ("_shexp", 1)) if shape.experts else (("", 1),)
    for suffix, count in suffixes:
        yield f"ffn_gate{suffix}", count * shape.intermediate, shape.hidden
        yield f"ffn_up{suffix}", count * shape.intermediate, shape.hidden
        yield f"ffn_down{suffix}", count * shape.hidden, shape.intermediate


def _conv_matrices(shape: Shape) -> _Rows:
    yield "shortconv.in_proj", 3 * shape.hidden, shape.hidden
    yield "shortconv.out_proj", shape.hidden, shape.hidden


def _delta_matrices(shape: Shape) -> _Rows:
    yield "attn_qkv", shape.channels, shape.hidden
    yield "attn_gate", shape.inner, shape.hidden
    yield "ssm_ba", 2 * shape.recurrent_heads, shape.hidden
    yield "ssm_out", shape.hidden, shape.inner


def _mamba_matrices(shape: Shape) -> _Rows:
    yield "ssm_in", shape.inner + shape.channels + shape.recurrent_heads, shape.hidden
    yield "ssm_out", shape.hidden, shape.inner


_RECURRENT: dict[str, Callable[[Shape], _Rows]] = {
    "lfm2": _conv_matrices,
    "qwen3next": _delta_matrices,
    "granitehybrid": _mamba_matrices,
}


def _vectors(shape: Shape) -> Iterator[Vector]:
    late = shape.architecture == "qwen3next"
    rng = np.random.default_rng(0)
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        yield f"{prefix}attn_norm.weight", _ones(shape.hidden)
        yield f"{prefix}{'post_attention_norm' if late else 'ffn_norm'}.weight", _ones(shape.hidden)
        if shape.experts:
            router = rng.standard_normal((shape.experts, shape.hidden), np.float32) / np.float32(shape.hidden**0.5)
            yield f"{prefix}ffn_gate_inp.weight", router
            yield f"{prefix}ffn_gate_inp_shexp.weight", np.zeros(shape.hidden, np.float32)
        own = _recurrent_vectors(shape, rng) if layer not in shape.attention else _head_norms(shape)
        for name, vector in own:
            yield prefix + name, vector
    yield "token_embd_norm.weight" if shape.architecture == "lfm2" else "output_norm.weight", _ones(shape.hidden)


def _head_norms(shape: Shape) -> Iterator[Vector]:
    if shape.architecture != "granitehybrid":
        yield "attn_q_norm.weight", _ones(shape.head_dim)
        yield "attn_k_norm.weight", _ones(shape.head_dim)


def _recurrent_vectors(shape: Shape, rng: np.random.Generator) -> Iterator[Vector]:
    heads, taps = shape.recurrent_heads, _TAPS[shape.architecture]
    if shape.architecture == "lfm2":
        yield "shortconv.conv.weight", rng.standard_normal((shape.hidden, taps), np.float32) / 2
        return
    yield "ssm_conv1d.weight", rng.standard_normal((shape.channels, taps), np.float32) / 2
    yield "ssm_dt.bias", _ones(heads)
    is_mamba = shape.architecture == "granitehybrid"
    yield "ssm_a", np.full((heads, 1) if is_mamba else heads, _RATE, np.float32)
    if is_mamba:
        yield "ssm_conv1d.bias", np.zeros(shape.channels, np.float32)
        yield "ssm_d", _ones(heads)[:, np.newaxis]
        yield "ssm_norm.weight", _ones(shape.inner).reshape(shape.groups, -1)
    else:
        yield "ssm_norm.weight", _ones(shape.recurrent_dim)


def _ones(size: int) -> np.ndarray:
    return np.ones(size, np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a model of random weights with recurrent layers.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    write_recurrent_model(SHAPES[given.shape], given.file)
