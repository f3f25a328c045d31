"""Operators that combine entries along some axes: sums, norms, sorting. The batch must not be one of these axes."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from shoal.model.graph.row_proof.kinds import SHARED, Kind, Mixing, Rows
from shoal.model.graph.row_proof.walk import Rule, Walk, broadcast
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, integers, moved_axis

_AXIS_OF_SOFTMAX = 13
"""From this operator set on, Softmax and similar operators use one axis; before, all axes from that one on."""


def _taken_together(node: onnx.NodeProto) -> Mixing:
    return Mixing(f"{node.op_type} takes all rows together")


def reduction(walk: Walk, node: onnx.NodeProto) -> Kind:
    """`Reduce...`: without axes, all or none are reduced."""
    rows = walk.plain_rows(node.input[0])
    axes = walk.axes(node, 1)
    if rows is None:
        return SHARED
    if not axes:
        if attribute(node, "noop_with_empty_axes", 0):
            return rows
        raise _taken_together(node)
    return _without(node, rows, axes)


def arg_reduction(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Index of the largest or smallest entry along one axis."""
    rows = walk.plain_rows(node.input[0])
    return SHARED if rows is None else _without(node, rows, [attribute(node, "axis", 0)])


def _without(node: onnx.NodeProto, rows: Rows, axes: list[int]) -> Rows:
    removed = [from_front(axis, rows.rank) for axis in axes]
    if rows.axis in removed:
        raise _taken_together(node)
    if attribute(node, "keepdims", 1):
        return rows
    return rows.at(moved_axis(rows.axis, removed), rows.rank - len(removed))


def softmax(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Over one axis or, in old operator sets, over all axes from one on."""
    rows = walk.plain_rows(node.input[0])
    if rows is None:
        return SHARED
    takes_one = walk.opset >= _AXIS_OF_SOFTMAX
    axis = from_front(attribute(node, "axis", -1 if takes_one else 1), rows.rank)
    if rows.axis == axis or (rows.axis > axis and not takes_one):
        raise _taken_together(node)
    return rows


def along_axis(name: str, default: int, num_outputs: int = 1) -> Rule:
    """Over one axis that an attribute names; further inputs are shared."""

    def rule(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
        rows = walk.plain_rows(node.input[0])
        walk.check_shared(node.input[1:], "a parameter")
        if rows is None:
            return SHARED
        if from_front(attribute(node, name, default), rows.rank) == rows.axis:
            raise _taken_together(node)
        return (rows,) * num_outputs

    return rule


def layer_norm(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
    """Normalizes over all axes from one on, then scales; mean and deviation belong to rows."""
    rows = broadcast(walk, node.input)
    data = walk.plain_rows(node.input[0])
    if rows is None:
        return SHARED
    if data is None or data.place != rows.place or data.rank != rows.rank:
        raise Mixing("a scale depends on a row")
    if data.axis >= from_front(attribute(node, "axis", -1), data.rank):
        raise _taken_together(node)
    return (rows, rows, rows)


def skip_layer_norm(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
    """The sum of two inputs, normalized over the last axis."""
    rows = broadcast(walk, node.input)
    if rows is None:
        return SHARED
    if rows.axis == rows.rank - 1:
        raise _taken_together(node)
    return (rows, rows, rows, rows)


def batch_norm(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Uses the statistics of training, not those of the batch."""
    rows = walk.plain_rows(node.input[0])
    walk.check_shared(node.input[1:], "a statistic")
    if attribute(node, "training_mode", 0) or len([name for name in node.output if name]) > 1:
        raise Mixing("BatchNormalization is told to train: it normalizes over all rows")
    if rows is None:
        return SHARED
    if rows.axis == 1:
        raise Mixing("channels lie where the batch is")
    return rows


def mean_variance_norm(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Normalizes over some axes."""
    rows = walk.plain_rows(node.input[0])
    axes = integers(node, "axes") or [0, 2, 3]
    if rows is None:
        return SHARED
    if rows.axis in [from_front(axis, rows.rank) for axis in axes]:
        raise _taken_together(node)
    return rows


def cumulated(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Cumulative sums along one axis."""
    rows = walk.plain_rows(node.input[0])
    axes = walk.axes(node, 1)
    if rows is None:
        return SHARED
    if axes is None or from_front(axes[0], rows.rank) == rows.axis:
        raise _taken_together(node)
    return rows


def fourier(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Along one axis, which is neither the batch nor that of real and imaginary parts."""
    rows = walk.plain_rows(node.input[0])
    walk.check_shared(node.input[1:], "a length")
    if rows is None:
        return SHARED
    if walk.opset < _AXIS_OF_FOURIER:
        axis = attribute(node, "axis", 1)
    else:
        found = walk.axes(node, 2)
        axis = -2 if not found else found[0]
    if rows.axis in (from_front(axis, rows.rank), rows.rank - 1):
        raise _taken_together(node)
    return rows


_AXIS_OF_FOURIER = 20
"""From this operator set on, DFT has its axis as an input."""


def last_axes(count: int) -> Callable[[Walk, onnx.NodeProto], Kind]:
    """Over the last `count` axes; further inputs are shared."""

    def rule(walk: Walk, node: onnx.NodeProto) -> Kind:
        rows = walk.plain_rows(node.input[0])
        walk.check_shared(node.input[1:], "a parameter")
        if rows is None:
            return SHARED
        if rows.axis >= rows.rank - count:
            raise _taken_together(node)
        return rows

    return rule
