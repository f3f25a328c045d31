"""Markers for collectives, at which `segments` cuts the graph. ONNX Runtime does not know these operators."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx.helper import make_node

from shoal.model.graph.stage.segments import ALL_GATHER, ALL_REDUCE, MARKER_DOMAIN


def all_reduce(part: str, total: str) -> onnx.NodeProto:
    """A marker for the sum of every rank's `part`."""
    return make_node(ALL_REDUCE, [part], [total], domain=MARKER_DOMAIN)


def all_gather(part: str, whole: str, axis: int, sizes: Sequence[int]) -> onnx.NodeProto:
    """A marker for the concatenation of every rank's `part`, with these sizes along the axis."""
    return make_node(ALL_GATHER, [part], [whole], domain=MARKER_DOMAIN, axis=axis, sizes=list(sizes))
