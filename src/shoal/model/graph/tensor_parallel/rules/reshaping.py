"""Operators that move elements without computing: where the split axis is afterwards."""

from __future__ import annotations

import math
from dataclasses import replace

import onnx

from shoal.model.graph.tensor_parallel.layouts import AxisSegment, AxisSplit
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, integers, is_open, listed, moved_axis
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Shape, Size, product
from shoal.model.graph.tensor_parallel.steps import Local, NodeStep, ScaledEntry, Whole
from shoal.model.graph.tensor_parallel.tracer import Tracer

_COPIES = Size(0)
_TAKES_REST = Size(-1)


def transpose(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """The split moves with its axis."""
    split, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    if split is None or rank is None:
        return None
    order = integers(node, "perm") or list(range(rank))[::-1]
    return NodeStep(operands=(Local(),), outputs=(split.at(order.index(split.axis)),))


def squeeze(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Removes axes of size 1; without a list of axes only if all sizes are known."""
    split, shape = trace.layout(node.input[0]), trace.shape(node.input[0])
    if split is None or shape is None or is_open(node, 1, trace.constants):
        return None
    axes = listed(node, "axes", 1, trace.constants)
    if axes is None:
        if any(size.fixed is None for size in shape):
            return None
        axes = [axis for axis, size in enumerate(shape) if size == ONE]
    removed = [from_front(axis, len(shape)) for axis in axes]
    return _reread(node, split.at(moved_axis(split.axis, removed)))


def unsqueeze(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Adds axes of size 1."""
    split, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    axes = listed(node, "axes", 1, trace.constants)
    if split is None or rank is None or axes is None:
        return None
    added = {from_front(axis, rank + len(axes)) for axis in axes}
    old = [axis for axis in range(rank + len(axes)) if axis not in added]
    return _reread(node, split.at(old[split.axis]))


def shape_of(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`Shape` of a split value, corrected to that of the whole, so that nothing is gathered for it."""
    split, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    if split is None or rank is None:
        return None
    start, end = attribute(node, "start", 0), attribute(node, "end", rank)
    entries = list(range(rank))[start:end]
    if split.axis not in entries:
        return NodeStep(operands=(Local(),), outputs=(None,))
    return NodeStep(operands=(Local(),), outputs=(None,), restored_entry=(entries.index(split.axis), split))


def flatten(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Makes two axes: what lies before `axis`, and the rest."""
    shape = trace.shape(node.input[0])
    if shape is None:
        return None
    axis = from_front(attribute(node, "axis", 1), len(shape))
    split = _carried(trace, node.input[0], (product(shape[:axis]), product(shape[axis:])))
    return None if split is None else NodeStep(operands=(Local(),), outputs=(split,))


def reshape(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """The split axis keeps its atoms; it may be divided into heads or merged with other axes."""
    shape, content = trace.shape(node.output[0]), trace.shapes.content(node.input[1])
    layout = trace.layout(node.input[0])
    if layout is None or shape is None or content is None or len(content) != len(shape):
        return None
    split = _carried(trace, node.input[0], shape)
    if split is None:
        return None
    touched = (*content[layout.axis : layout.axis + 1], content[split.axis])
    if layout.axis != split.axis and _COPIES in touched and not attribute(node, "allowzero", 0):
        return None
    entry = content[split.axis]
    if entry in (_TAKES_REST, _COPIES):
        return NodeStep(operands=(Local(), Whole()), outputs=(split,))
    if entry is None:
        return None
    return NodeStep(operands=(Local(), ScaledEntry(split, split.axis)), outputs=(split,))


def expand(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Repeats other axes of size 1, while the split axis keeps its length."""
    layout, shape = trace.layout(node.input[0]), trace.shape(node.input[0])
    content = trace.shapes.content(node.input[1])
    if layout is None or shape is None or content is None:
        return None
    from_end = len(shape) - layout.axis
    split = layout.at(max(len(shape), len(content)) - from_end)
    if from_end > len(content) or content[-from_end] == ONE:
        return NodeStep(operands=(Local(), Whole()), outputs=(split,))
    if content[-from_end] != layout.size:
        return None
    return NodeStep(operands=(Local(), ScaledEntry(layout, len(content) - from_end)), outputs=(split,))


def _reread(node: onnx.NodeProto, split: AxisSplit) -> NodeStep:
    return NodeStep(operands=(Local(), *(Whole(),) * (len(node.input) - 1)), outputs=(split,))


def _carried(trace: Tracer, name: str, shape: Shape) -> AxisSplit | None:
    """The split of a value that is reshaped to `shape`."""
    layout, before = trace.layout(name), trace.shape(name)
    if layout is None or before is None:
        return None
    split = _folded(trace, layout)
    if split is None:
        return None
    segment = split.period[0]
    stride = product(before[split.axis + 1 :])
    best: tuple[int, AxisSplit] | None = None
    for axis in range(len(shape)):
        found = _on_axis(shape, axis, segment, stride)
        if found is not None:
            num_atoms = math.gcd(trace.classes.num_atoms(segment.split_class), found.period[0].length)
            best = max(best or (0, found), (num_atoms, found), key=lambda pair: pair[0])
    if best is not None and trace.classes.constrain(limits=[(segment.split_class, best[1].period[0].length)]):
        return best[1]
    if split.repeats == ONE:
        _ask_for_segments(trace, split, shape, stride)
    return None


def _folded(trace: Tracer, split: AxisSplit) -> AxisSplit | None:
    """Equal segments expressed as repeats of one."""
    first = split.period[0]
    if len(split.period) == 1:
        return split
    if split.repeats != ONE or any(segment.length != first.length for segment in split.period):
        return None
    pairs = [(first.split_class, segment.split_class) for segment in split.period[1:]]
    if not trace.classes.constrain(pairs):
        return None
    return replace(split, period=(first,), repeats=Size(len(split.period)))


def _on_axis(shape: Shape, axis: int, segment: AxisSegment, stride: Size) -> AxisSplit | None:
    """The segment on an axis of the new shape, which must contain it completely, in steps that respect its cuts.

    Args:
        stride: elements between two indices of the segment.
    """
    length = Size(segment.length).times(stride).over(product(shape[axis + 1 :]))
    if length is None or length.fixed is None or length.fixed < 1:
        return None
    repeats = shape[axis].over(length)
    if repeats is None:
        return None
    return AxisSplit(axis=axis, period=(AxisSegment(segment.split_class, length.fixed),), repeats=repeats)


def _ask_for_segments(trace: Tracer, split: AxisSplit, shape: Shape, stride: Size) -> None:
    """Move the split to the next axis if this one, for queries, keys and values, is too short."""
    extent = Size(split.period_length).times(stride)
    for axis in range(1, len(shape)):
        if extent.over(product(shape[axis:])) == Size(_PARTS) and split.period_length % _PARTS == 0:
            trace.need_segments(split, [split.period_length // _PARTS] * _PARTS)


_PARTS = 3
"""Queries, keys and values."""
