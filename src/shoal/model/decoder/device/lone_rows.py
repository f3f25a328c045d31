"""Whether a device can compute attention of a single row with one operator, found by trying it and checking the result.

A provider's kernel may refuse a shape, or be wrong for it: for several rows, and for several sequences of different
lengths, WebGPU 1.27 is off by 0.1 to 0.4 of the largest value (SwiftShader).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from shoal.arrays import Array
from shoal.errors import ShoalError
from shoal.model.attention.interface import NO_VECTORS, AttentionShape
from shoal.model.decoder.device.attention_graph import (
    ONE_ROW,
    attend_graph,
    group_query_attention,
    lone_row_graph,
)
from shoal.model.decoder.device.sessions import DeviceSession, device_floats
from shoal.model.decoder.onnx.graph_builder import GraphBuilder, GraphForm
from shoal.model.graph.stage.session import RUNTIME_ERRORS
from shoal.model.runtime_sessions import session_options, start_session
from shoal.protocol.device_config import DeviceConfig

_BEFORE = 21
"""Tokens before the row in the trial: more than a block of the cache, and not a multiple of it."""
_TOLERANCE = {np.float32: 1e-4, np.float16: 1e-2}
"""Relative to the largest value."""


@cache
def computes_lone_rows(device: DeviceConfig, shape: AttentionShape, form: GraphForm) -> bool:
    """Whether a device has the operator for a layer of this shape, and its result agrees with the plain operators."""
    if shape.window or shape.softcap or shape.sees_all or shape.only_reads or not _has_operator(device, shape, form):
        return False
    chance = np.random.default_rng(0)
    width = shape.num_kv_heads * shape.head_dim

    def random(*dims: int) -> Array:
        return chance.standard_normal(dims).astype(np.float32)

    cache = {name: random(_BEFORE + 1, width) for name in ("keys", "values")}
    given = {"q": random(1, shape.num_heads, shape.head_dim) / np.float32(shape.head_dim**0.5), **cache}
    fresh = {f"fresh_{name}": one[_BEFORE:] for name, one in cache.items()}
    lengths = {"before": np.array([_BEFORE], np.int32), "all": np.array([_BEFORE + 1], np.int32)}
    slots = np.arange(_BEFORE + 1)[None]
    group = shape.num_heads // shape.num_kv_heads
    masked = {"mask": _zeros(1, 1, group, _BEFORE + 1), "into": _zeros(1, shape.out_width)}
    try:
        got = _attention(lone_row_graph(shape, form), given | fresh | lengths | {"context": slots[:, :-1]}, device)
        plain = attend_graph(shape, NO_VECTORS, ONE_ROW, form)
        want = _attention(plain, given | masked | {"context": slots, "rows": np.zeros((1, 1), np.int64)}, device)
    except (*RUNTIME_ERRORS, ShoalError):
        return False
    return bool(np.abs(got - want).max() <= _TOLERANCE[device_floats(device)] * np.abs(want).max())


def _has_operator(device: DeviceConfig, shape: AttentionShape, form: GraphForm) -> bool:
    """Whether the device itself computes the operator."""
    builder, heads, dim = GraphBuilder("probe", form), shape.num_kv_heads, shape.head_dim
    rows = {"q": shape.out_width, "k": heads * dim, "v": heads * dim}
    inputs = [builder.declare_input(name, np.float32, [1, 1, width]) for name, width in rows.items()]
    inputs += [builder.declare_input(name, np.float32, [1, heads, "L", dim]) for name in ("keys", "values")]
    inputs += [builder.declare_input(name, np.int32, [1]) for name in ("before", "all")]
    builder.declare_output("attention", group_query_attention(builder, shape, inputs), [1, 1, shape.out_width])
    try:
        start_session(builder.serialize(), session_options(), device, needs_device=True)
    except RUNTIME_ERRORS:
        return False
    return True


def _zeros(*dims: int) -> Array:
    return np.zeros(dims, np.float32)


def _attention(model: bytes, values: dict[str, Array], device: DeviceConfig) -> Array:
    session = DeviceSession("probe", model, device, computes=False)
    return np.asarray(session.run(values, fetched=("attention",))["attention"].numpy(), np.float32)
