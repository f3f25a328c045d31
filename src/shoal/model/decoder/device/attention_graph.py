"""Attention over a paged cache in a device's memory, as ONNX graphs of plain operators that every provider has.

A step's rows are first appended: rotated, normed if the model does that, keys and values written to their slots of the
cache. Then groups of rows attend, each in a run of its own: all rows that are the only ones of their sequence together,
and each longer piece of a prompt alone, so that nothing but contexts is padded.

Shapes: T rows of the step, G rows of a group, B sequences of a group, L slots of context, C slots of the cache, H query
heads, K key heads, g = H / K, D dimensions, R half the rotated ones, W = K D, O = H D.
"""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from shoal.model.attention.interface import AttentionShape, AttentionVectors
from shoal.model.decoder.onnx.graph_builder import USUAL_FORM, GraphBuilder, GraphForm

ALL_ROWS, ONE_ROW = "a piece of one sequence", "one row of each sequence"


def append_graph(
    shape: AttentionShape, vectors: AttentionVectors, form: GraphForm = USUAL_FORM, *, gives_fresh: bool = False
) -> bytes:
    """Appends a step's rows. Inputs: qkv [T, .], cos and sin [T, 1, R], factors [T, 1, 1], slots [T, 1], keys and
    values [C, W]. Outputs: q [T, H, D], scaled, and keys_out and values_out, which may be the memory of keys and
    values; with `gives_fresh` also what is written there, fresh_keys and fresh_values [T, W]."""
    builder, width = GraphBuilder("append", form), shape.num_kv_heads * shape.head_dim
    qkv = builder.declare_input("qkv", np.float32, ["T", shape.qkv_width])
    slots = builder.declare_input("slots", np.int64, ["T", 1])
    half = shape.rotary_dim // 2
    angles = [builder.declare_input(name, np.float32, ["T", 1, half]) for name in ("cos", "sin")] if half else []
    q, k, v = builder.split(qkv, [shape.out_width, width, width])
    q = _rotated(builder, _heads(builder, q, shape.num_heads, shape.head_dim), angles, shape)
    k = _rotated(builder, _heads(builder, k, shape.num_kv_heads, shape.head_dim), angles, shape)
    if vectors.q_norm is not None and vectors.k_norm is not None:
        q = builder.rms_norm(q, vectors.q_norm, shape.norm_epsilon)
        k = builder.rms_norm(k, vectors.k_norm, shape.norm_epsilon)
    q = builder.scale(q, shape.scale)
    if vectors.query_scales is not None:
        q = builder.node("Mul", [q, builder.declare_input("factors", np.float32, ["T", 1, 1])])
    builder.declare_output("q", q, ["T", shape.num_heads, shape.head_dim])
    flat_k = builder.node("Reshape", [k, builder.constant(np.array([0, width], np.int64))])
    for name, fresh in (("keys", flat_k), ("values", v)):
        cache = builder.declare_input(name, np.float32, ["C", width])
        written = builder.node("ScatterND", [cache, slots, fresh])
        builder.declare_output(f"{name}_out", written, ["C", width])
        if gives_fresh:
            builder.declare_output(f"fresh_{name}", fresh, ["T", width])
    return builder.serialize()


def attend_graph(shape: AttentionShape, vectors: AttentionVectors, group: str, form: GraphForm = USUAL_FORM) -> bytes:
    """Computes the attention of a group. Inputs: q [T, H, D], keys and values [C, W], rows [G, 1], context [B, L], mask
    [B, 1, M, L], with M = g or, for a piece of one sequence, G g; sinks [B, K, M, 1]; into [T, O]. Output: attention
    [T, O], a copy of `into` with the group's rows."""
    builder, width = GraphBuilder("attend", form), shape.num_kv_heads * shape.head_dim
    num_kv, dim, group_size = shape.num_kv_heads, shape.head_dim, shape.num_heads // shape.num_kv_heads
    q = builder.declare_input("q", np.float32, ["T", shape.num_heads, dim])
    rows = builder.declare_input("rows", np.int64, ["G", 1])
    context = builder.declare_input("context", np.int64, ["B", "L"])
    mask = builder.declare_input("mask", np.float32, ["B", 1, "M", "L"])
    flat_rows = builder.node("Squeeze", [rows, builder.constant(np.array([1], np.int64))])
    own = builder.node("Gather", [q, flat_rows], axis=0)
    own = _reshaped(builder, own, [0, num_kv, group_size, dim])
    if group == ALL_ROWS:
        own = builder.node("Transpose", [own], perm=[1, 0, 2, 3])
        own = _reshaped(builder, own, [1, num_kv, -1, dim])
    cached = [
        _reshaped(builder, builder.node("Gather", [_cache(builder, name, width), context], axis=0), [0, 0, num_kv, dim])
        for name in ("keys", "values")
    ]
    keys = builder.node("Transpose", [cached[0]], perm=[0, 2, 3, 1])
    values = builder.node("Transpose", [cached[1]], perm=[0, 2, 1, 3])
    scores = builder.node("MatMul", [own, keys])
    if shape.softcap:
        scores = builder.softcap(scores, shape.softcap)
    scores = builder.node("Add", [scores, mask])
    weights = builder.node("Softmax", [scores], axis=-1) if vectors.sinks is None else _with_sinks(builder, scores)
    out = builder.node("MatMul", [weights, values])
    if group == ALL_ROWS:
        out = _reshaped(builder, out, [num_kv, -1, group_size, dim])
        out = builder.node("Transpose", [out], perm=[1, 0, 2, 3])
    out = _reshaped(builder, out, [-1, shape.out_width])
    into = builder.declare_input("into", np.float32, ["T", shape.out_width])
    builder.declare_output("attention", builder.node("ScatterND", [into, rows, out]), ["T", shape.out_width])
    return builder.serialize()


def lone_row_graph(shape: AttentionShape, form: GraphForm = USUAL_FORM) -> bytes:
    """Computes attention of a single row over all tokens before it with one operator. Inputs: q [1, H, D], scaled,
    fresh_keys and fresh_values [1, W], context [1, L], of the L tokens before, keys and values [C, W], before [1],
    which is L, and all [1], which is L + 1. Output: attention [1, O].

    Source: ONNX Runtime's contrib operators, GroupQueryAttention. WebGPU 1.27 computes it wrong for a context with
    padding, and for several contexts of different lengths.
    """
    builder, width, heads = GraphBuilder("lone_row", form), shape.num_kv_heads * shape.head_dim, shape.num_kv_heads
    q = builder.declare_input("q", np.float32, ["T", shape.num_heads, shape.head_dim])
    fresh = [builder.declare_input(f"fresh_{name}", np.float32, ["T", width]) for name in ("keys", "values")]
    rows = [_reshaped(builder, q, [1, 1, shape.out_width]), *(_reshaped(builder, one, [1, 1, width]) for one in fresh)]
    context = builder.declare_input("context", np.int64, ["B", "L"])
    past: list[str] = []
    for name in ("keys", "values"):
        gathered = builder.node("Gather", [_cache(builder, name, width), context], axis=0)
        past.append(
            builder.node("Transpose", [_reshaped(builder, gathered, [0, 0, heads, shape.head_dim])], perm=[0, 2, 1, 3])
        )
    lengths = [builder.declare_input(name, np.int32, [1]) for name in ("before", "all")]
    attention = group_query_attention(builder, shape, [*rows, *past, *lengths])
    builder.declare_output("attention", _reshaped(builder, attention, [1, shape.out_width]), ["T", shape.out_width])
    return builder.serialize()


def group_query_attention(builder: GraphBuilder, shape: AttentionShape, inputs: list[str]) -> str:
    """The operator GroupQueryAttention, for queries that are already scaled and rotated. Keys and values including the
    row's own become outputs, although nobody needs them: otherwise ONNX Runtime overwrites the memory of the previous
    ones."""
    outputs = ["grouped", "grown_keys", "grown_values"]
    builder.node(
        "GroupQueryAttention",
        inputs,
        domain="com.microsoft",
        outputs=outputs,
        num_heads=shape.num_heads,
        kv_num_heads=shape.num_kv_heads,
        scale=1.0,
    )
    for name in outputs[1:]:
        builder.declare_output(f"all_{name}", name, [1, shape.num_kv_heads, "M", shape.head_dim])
    return outputs[0]


def zeros_graph(num_slots: int, width: int, form: GraphForm = USUAL_FORM) -> bytes:
    """Output: zeros [num_slots, width]. This is how memory of a device is allocated."""
    builder = GraphBuilder("zeros", form)
    dims = builder.constant(np.array([num_slots, width], np.int64))
    zeros = builder.node("ConstantOfShape", [dims], value=numpy_helper.from_array(np.zeros(1, form.floats)))
    builder.declare_output("zeros", zeros, [num_slots, width])
    return builder.serialize()


def gather_graph(width: int, form: GraphForm = USUAL_FORM) -> bytes:
    """Inputs: x [T, width] and rows [R]. Output: gathered [R, width]."""
    builder = GraphBuilder("gather", form)
    x, rows = builder.input("x", width), builder.declare_input("rows", np.int64, ["R"])
    builder.declare_output("gathered", builder.node("Gather", [x, rows], axis=0), ["R", width])
    return builder.serialize()


def _cache(builder: GraphBuilder, name: str, width: int) -> str:
    return builder.declare_input(name, np.float32, ["C", width])


def _heads(builder: GraphBuilder, x: str, num_heads: int, dim: int) -> str:
    return _reshaped(builder, x, [0, num_heads, dim])


def _reshaped(builder: GraphBuilder, x: str, dims: list[int]) -> str:
    return builder.node("Reshape", [x, builder.constant(np.array(dims, np.int64))])


def _rotated(builder: GraphBuilder, x: str, angles: list[str], shape: AttentionShape) -> str:
    """Half-split rotation: pair i is dimensions i and i + R. Source: RoFormer, arXiv 2104.09864, equation 34."""
    if not angles:
        return x
    cos, sin = angles
    half, rest = shape.rotary_dim // 2, shape.head_dim - shape.rotary_dim
    first, second, *others = builder.split(x, [half, half, rest] if rest else [half, half])
    turned = [
        builder.node("Sub", [builder.node("Mul", [first, cos]), builder.node("Mul", [second, sin])]),
        builder.node("Add", [builder.node("Mul", [second, cos]), builder.node("Mul", [first, sin])]),
    ]
    return builder.node("Concat", [*turned, *others], axis=-1)


def _with_sinks(builder: GraphBuilder, scores: str) -> str:
    """The softmax with an additional score for each head, which has no value."""
    sinks = builder.declare_input("sinks", np.float32, ["B", "K", "M", 1])
    last = builder.constant(np.array([-1], np.int64))
    largest = builder.node("Max", [builder.node("ReduceMax", [scores, last], keepdims=1), sinks])
    weights = builder.node("Exp", [builder.node("Sub", [scores, largest])])
    total = builder.node("ReduceSum", [weights, last], keepdims=1)
    total = builder.node("Add", [total, builder.node("Exp", [builder.node("Sub", [sinks, largest])])])
    return builder.node("Div", [weights, total])
