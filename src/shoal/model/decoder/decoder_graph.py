"""The graphs of one pipeline stage: a decoder cut at its attention operators into segments.

Attention runs in the native kernel, so segment i holds everything between attention i-1 and attention i:

    first:   x -> norm -> qkv                                          (into attention of the stage's first layer)
    middle:  x, attention -> o, residual, MLP, residual -> x', norm -> qkv'     (one for each further layer)
    last:    x, attention -> o, residual, MLP, residual -> x'                   (handed to the next stage)
    head:    x, attention -> the same, final norm, vocabulary -> logits         (in the last stage, sampled rows only)

Shapes: x [T, hidden_size]; attention [T, num_heads * head_dim]; qkv [T, (num_heads + 2 num_kv_heads) * head_dim].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shoal.model.decoder.graph_builder import GraphBuilder
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import Precision, Weight, WeightSource, concatenate_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentGraph:
    """One serialized segment."""

    name: str
    narrow: bytes
    """for output tokens, which come few at a time: 8-bit activations where the weights are quantized"""
    wide: bytes | None
    """for prompt tokens, which come many at a time: fp32 activations; None where that is no different or no faster"""
    weight_bytes: int


def attention_width(config: DecoderConfig) -> int:
    """Columns of an attention output."""
    return config.num_heads * config.head_dim


def qkv_width(config: DecoderConfig) -> int:
    """Columns of a fused query, key and value matrix."""
    return (config.num_heads + 2 * config.num_kv_heads) * config.head_dim


def build_segments(
    source: WeightSource, first_layer: int, last_layer: int, precision: Precision
) -> Iterator[SegmentGraph]:
    """The segments of layers [first_layer, last_layer), in order: one more than there are layers.

    Weights are read as each segment is built, so no more than one segment's are in memory at a time.
    """
    config = source.config
    for layer in range(first_layer, last_layer + 1):
        has_attention = layer > first_layer
        is_head = layer == config.num_layers
        inputs = {"x": config.hidden_size} | ({"attention": attention_width(config)} if has_attention else {})
        outputs = {"logits": config.vocab_size} if is_head else {}
        if not is_head and has_attention:
            outputs["x_out"] = config.hidden_size
        if layer < last_layer:
            outputs["qkv"] = qkv_width(config)
        builder = GraphBuilder(f"segment_{layer}", inputs, outputs)
        decoder = _DecoderSegment(builder, source, precision)
        decoder.build(layer - 1 if has_attention else None, layer if layer < last_layer else None, is_head)
        yield SegmentGraph(
            name=f"segment_{layer}",
            narrow=builder.serialize(),
            wide=None if is_head else builder.serialize_wide(),
            weight_bytes=builder.weight_bytes,
        )


class _DecoderSegment:
    """The end of one layer and the start of the next."""

    def __init__(self, builder: GraphBuilder, source: WeightSource, precision: Precision) -> None:
        self._builder = builder
        self._source = source
        self._config = source.config
        self._precision: Precision = precision

    def build(self, ending: int | None, starting: int | None, is_head: bool) -> None:
        builder = self._builder
        x, delta = ("x", None) if ending is None else self._finish_layer(ending)
        if is_head:
            _, norm = self._add_norm(x, delta, "final_norm")
            builder.output("logits", self._logits(norm))
        elif starting is not None:
            total, norm = self._add_norm(x, delta, f"layers.{starting}.attn_norm")
            builder.output("qkv", self._qkv(norm, starting))
            if ending is not None:
                builder.output("x_out", total)
        elif delta is not None:
            builder.output("x_out", builder.node("Add", [x, delta]))

    def _finish_layer(self, layer: int) -> tuple[str, str]:
        """Output projection, residual sum and MLP. Returns the residual stream and the MLP's term, not yet added."""
        builder, config = self._builder, self._config
        o = builder.linear("attention", [self._matrix(layer, "o")])
        if config.post_norms:
            o = builder.rms_norm(o, self._vector(layer, "post_attn_norm"), config.norm_epsilon)
        x, norm = self._add_norm("x", o, f"layers.{layer}.mlp_norm")
        gate_up = [self._matrix(layer, "gate"), self._matrix(layer, "up")]
        joined = concatenate_rows(gate_up)
        hidden = builder.linear(norm, [joined] if joined is not None else gate_up)
        gate, up = builder.split(hidden, [config.intermediate_size, config.intermediate_size])
        down = builder.linear(
            builder.node("Mul", [builder.activation(config.activation, gate), up]), [self._matrix(layer, "down")]
        )
        if config.post_norms:
            down = builder.rms_norm(down, self._vector(layer, "post_mlp_norm"), config.norm_epsilon)
        return x, down

    def _qkv(self, norm: str, layer: int) -> str:
        builder, config = self._builder, self._config
        parts = [self._matrix(layer, part) for part in "qkv"]
        joined = concatenate_rows(parts)
        bias = None
        if config.qkv_bias:
            bias = np.concatenate([self._vector(layer, f"{part}_bias") for part in "qkv"])
        qkv = builder.linear(norm, [joined] if joined is not None else parts, bias)
        if not config.qk_norm:
            return qkv
        kv_width = config.num_kv_heads * config.head_dim
        q, k, v = builder.split(qkv, [attention_width(config), kv_width, kv_width])
        q = builder.head_norm(q, config.num_heads, self._vector(layer, "q_norm"), config.norm_epsilon)
        k = builder.head_norm(k, config.num_kv_heads, self._vector(layer, "k_norm"), config.norm_epsilon)
        return builder.node("Concat", [q, k, v], axis=-1)

    def _logits(self, norm: str) -> str:
        logits = self._builder.linear(norm, [self._source.matrix("head", self._precision)])
        cap = self._config.final_softcap
        return self._builder.softcap(logits, cap) if cap else logits

    def _add_norm(self, x: str, delta: str | None, norm_name: str) -> tuple[str, str]:
        """The residual sum and its norm. With nothing to add, zeros are: the fused operator rounds otherwise than the
        plain norm, and a stage that begins here must say what one that goes through here says."""
        weight, epsilon = self._source.vector(norm_name), self._config.norm_epsilon
        if delta is None:
            delta = self._builder.node("Sub", [x, x])
        return self._builder.add_then_norm(x, delta, weight, epsilon)

    def _matrix(self, layer: int, part: str) -> Weight:
        return self._source.matrix(f"layers.{layer}.{part}", self._precision)

    def _vector(self, layer: int, part: str) -> np.ndarray:
        return self._source.vector(f"layers.{layer}.{part}")
