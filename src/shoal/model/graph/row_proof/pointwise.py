"""Operators that compute each element independently."""

from __future__ import annotations

import onnx

from shoal.model.graph.row_proof.kinds import SHARED, Kind, Mixing
from shoal.model.graph.row_proof.walk import Walk, broadcast
from shoal.model.graph.tensor_parallel.shapes.content_rules import WIDE_TYPES
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, input_name
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE


def elementwise(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Inputs that have the same shape after broadcasting."""
    return broadcast(walk, node.input) or SHARED


def first_only(walk: Walk, node: onnx.NodeProto) -> Kind:
    """The other inputs only determine the type."""
    return walk.plain_rows(node.input[0]) or SHARED


def copy(walk: Walk, node: onnx.NodeProto) -> Kind:
    """The same entries."""
    return walk.rows(node.input[0]) or SHARED


def cast(walk: Walk, node: onnx.NodeProto) -> Kind:
    """The same entries in another type, which may be too small for numbers of rows."""
    if attribute(node, "to", 0) in WIDE_TYPES:
        return walk.rows(node.input[0]) or SHARED
    return walk.plain_rows(node.input[0]) or SHARED


def dropout(walk: Walk, node: onnx.NodeProto) -> tuple[Kind, ...]:
    """Does nothing unless it is told to train."""
    if input_name(node, 2) and walk.known.numbers(node, 2) != [0]:
        raise Mixing("Dropout draws random numbers where it is told to train")
    found = walk.plain_rows(node.input[0]) or SHARED
    return (found, found)


def quantize(walk: Walk, node: onnx.NodeProto) -> Kind:
    """One scale, or one for each index of an axis other than the batch."""
    rows = walk.plain_rows(node.input[0])
    walk.check_shared(node.input[1:], "a scale")
    scale = walk.shape(node.input[1])
    if rows is None:
        return SHARED
    if scale in ((), (ONE,)):
        return rows
    if len(scale) > 1 or from_front(attribute(node, "axis", 1), rows.rank) == rows.axis:
        raise Mixing("there may be a scale for each place in the batch")
    return rows
