"""Builds the graph of one segment of a stage's layers, and says what must happen after it.

Shapes are those of `decoder_graph`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from shoal.model.attention.interface import AttentionShape
from shoal.model.decoder.onnx.graph_builder import GraphBuilder, GraphForm
from shoal.model.decoder.onnx.mlp_graph import MlpGraph
from shoal.model.weights import Precision, Weight, WeightSource, concatenate_rows


class Marker(Enum):
    """What must happen after a segment before the next one can run."""

    ATTENTION = "attention"
    """The next layer's attention: qkv -> attention."""
    SUM = "sum"
    """The sum of `partial` over the shards, which is the next segment's `delta`."""
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentGraph:
    """One segment, not serialized yet, so that two copies of its weights exist only while its session is created."""

    name: str
    builder: GraphBuilder
    marker: Marker


class SegmentBuilder:
    """Builds one graph. Methods that compute return the name of their result."""

    def __init__(self, name: str, source: WeightSource, precision: Precision, form: GraphForm) -> None:
        """
        Args:
            name: of the graph.
            source: of the stage's or the shard's own weights.
            precision: of the matrices.
            form: of the graph.
        """
        self._name = name
        self._source = source
        self._config = config = source.config
        self._precision: Precision = precision
        self._shape = AttentionShape.of(config, 0)
        self._widths = {
            "qkv": self._shape.qkv_width,
            "attention": self._shape.out_width,
            "logits": config.vocab_size,
        }
        self._builder = GraphBuilder(name, form)

    def input(self, name: str) -> str:
        """Declare an input of the graph."""
        return self._builder.input(name, self._width(name))

    def output(self, name: str, value: str) -> None:
        """Declare an output of the graph."""
        self._builder.output(name, value, self._width(name))

    def serialize(self, marker: Marker) -> SegmentGraph:
        """The finished segment, with the marker after it."""
        return SegmentGraph(name=self._name, builder=self._builder, marker=marker)

    def output_projection(self, layer: int) -> str:
        """Attention's result times `o`."""
        return self._builder.linear(self.input("attention"), [self._matrix(layer, "o")])

    def add_attention(self, x: str, o: str, layer: int) -> tuple[str, str]:
        """The residual stream with attention added, and its norm for the MLP. `o` is the sum over all shards; its bias
        is added here, once."""
        if self._config.o_bias:
            o = self._builder.add(o, self._vector(layer, "o_bias"))
        if self._config.post_norms:
            o = self._builder.rms_norm(o, self._vector(layer, "post_attn_norm"), self._config.norm_epsilon)
        return self._add_norm(x, self._scale_residual(o), f"layers.{layer}.mlp_norm")

    def both_halves(self, x: str, layer: int) -> str:
        """What attention and MLP of a parallel layer add, without their biases. A shard may have no heads."""
        leaf = "attn_norm" if self._config.shares_norm else "mlp_norm"
        mlp = self.mlp(self._norm(x, f"layers.{layer}.{leaf}"), layer)
        if self._config.num_heads == 0:
            return mlp
        return self._builder.node("Add", [mlp, self.output_projection(layer)])

    def add_biases(self, delta: str, layer: int) -> str:
        """What a parallel layer adds to the residual stream, biases included. `delta` is the sum over all shards."""
        if self._config.o_bias:
            delta = self._builder.add(delta, self._vector(layer, "o_bias"))
        if self._config.mlp_bias and self._config.layer_experts(layer) is None:
            delta = self._builder.add(delta, self._vector(layer, "down_bias"))
        return self._scale_residual(delta)

    def add_delta(self, x: str, delta: str | None) -> str:
        """The residual sum, which becomes an output if something was added."""
        if delta is None:
            return x
        total = self._builder.node("Add", [x, delta])
        self.output("x_out", total)
        return total

    def mlp(self, norm: str, layer: int) -> str:
        """down(activation(gate) * up), down(activation(up)) without a gate, or the sum over the layer's experts."""
        mlps = MlpGraph(self._builder, self._source, f"layers.{layer}.", self._precision)
        experts = self._config.layer_experts(layer)
        if experts is None:
            return mlps.add(norm, "", has_biases=self._config.mlp_bias)
        return mlps.route(norm, experts, layer)

    def scale_mlp(self, down: str, layer: int) -> str:
        """What the MLP adds to the residual stream. `down` is the sum over all shards."""
        if self._config.mlp_bias and self._config.layer_experts(layer) is None:
            down = self._builder.add(down, self._vector(layer, "down_bias"))
        if self._config.post_norms:
            down = self._builder.rms_norm(down, self._vector(layer, "post_mlp_norm"), self._config.norm_epsilon)
        return self._scale_residual(down)

    def begin_layer(self, x: str, delta: str | None, layer: int) -> None:
        """Compute up to attention. The residual stream becomes an output only if something was added to it."""
        total, norm = self._add_norm(x, delta, f"layers.{layer}.attn_norm")
        self.output("qkv", self._qkv(norm, layer))
        if delta is not None:
            self.output("x_out", total)

    def begin_layer_without_heads(self, x: str, delta: str | None) -> None:
        """As `begin_layer`, for a shard without attention, whose term of the next sum is zero."""
        x = self.add_delta(x, delta)
        self.output("partial", self._builder.node("Sub", [x, x]))

    def finish_stage(self, x: str, delta: str | None, last_layer: int) -> SegmentGraph:
        """Finish the model or the stage."""
        if last_layer == self._config.num_layers:
            _, norm = self._add_norm(x, delta, "final_norm")
            self.output("hidden", norm)
            self.output("logits", self._logits(norm))
            return self.serialize(Marker.END)
        assert delta is not None
        self.output("x_out", self._builder.node("Add", [x, delta]))
        return self.serialize(Marker.END)

    def _qkv(self, norm: str, layer: int) -> str:
        builder, config = self._builder, self._config
        parts = [self._matrix(layer, part) for part in "qkv"]
        joined = concatenate_rows(parts)
        bias = None
        if config.qkv_bias:
            bias = np.concatenate([self._vector(layer, f"{part}_bias") for part in "qkv"])
        qkv = builder.linear(norm, [joined] if joined is not None else parts, bias)
        if not config.qk_norm or config.norms_rotated:
            return qkv
        kv_width = config.num_kv_heads * config.head_dim
        q, k, v = builder.split(qkv, [self._shape.out_width, kv_width, kv_width])
        q_heads, k_heads = (1, 1) if config.joins_qk_norm else (config.num_heads, config.num_kv_heads)
        q = self._head_norm(q, q_heads, self._vector(layer, "q_norm"))
        k = self._head_norm(k, k_heads, self._vector(layer, "k_norm"))
        return builder.node("Concat", [q, k, v], axis=-1)

    def _head_norm(self, x: str, num_heads: int, weight: np.ndarray) -> str:
        """The norm of each head, with one weight for all heads or with a weight for each."""
        builder, epsilon = self._builder, self._config.norm_epsilon
        normed = builder.center_norm if self._config.centers_norms else builder.rms_norm
        if num_heads == 1:
            return normed(x, weight, epsilon)
        width = weight.shape[0] // num_heads if self._config.parts_qk_norm else weight.shape[0]
        heads = builder.node("Reshape", [x, builder.constant(np.array([0, num_heads, width], np.int64))])
        if self._config.parts_qk_norm:
            heads = normed(heads, np.ones(width, np.float32), epsilon)
            heads = builder.node("Mul", [heads, builder.constant(weight.reshape(num_heads, width))])
        else:
            heads = normed(heads, weight, epsilon)
        return builder.node("Reshape", [heads, builder.constant(np.array([0, num_heads * width], np.int64))])

    def _logits(self, norm: str) -> str:
        bias = self._source.vector("head_bias") if self._config.head_bias else None
        logits = self._builder.linear(norm, [self._source.matrix("head", self._precision)], bias)
        if self._config.logits_scale != 1.0:
            logits = self._builder.scale(logits, self._config.logits_scale)
        cap = self._config.final_softcap
        return self._builder.softcap(logits, cap) if cap else logits

    def _scale_residual(self, delta: str) -> str:
        scale = self._config.residual_scale
        return delta if scale == 1.0 else self._builder.scale(delta, scale)

    def _add_norm(self, x: str, delta: str | None, norm_name: str) -> tuple[str, str]:
        """The residual sum and its norm. If there is nothing to add, zeros are added: the fused operator rounds
        differently from the plain norm, and a stage that begins here must give the same as a longer one."""
        if not self._config.pre_norms and norm_name != "final_norm":
            total = x if delta is None else self._builder.node("Add", [x, delta])
            return total, total
        if delta is None:
            delta = self._builder.node("Sub", [x, x])
        if self._config.centers_norms:
            total = self._builder.node("Add", [x, delta])
            return total, self._norm(total, norm_name)
        return self._builder.add_then_norm(x, delta, self._source.vector(norm_name), self._config.norm_epsilon)

    def _norm(self, x: str, name: str) -> str:
        builder, weight, epsilon = self._builder, self._source.vector(name), self._config.norm_epsilon
        if not self._config.centers_norms:
            return builder.rms_norm(x, weight, epsilon)
        bias = self._source.vector(f"{name}_bias") if self._config.norm_bias else None
        return builder.center_norm(x, weight, epsilon, bias)

    def _width(self, name: str) -> int:
        return self._widths.get(name, self._config.hidden_size)

    def _matrix(self, layer: int, part: str) -> Weight:
        return self._source.matrix(f"layers.{layer}.{part}", self._precision)

    def _vector(self, layer: int, part: str) -> np.ndarray:
        return self._source.vector(f"layers.{layer}.{part}")
