"""Operators that concatenate tensors or take parts of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise

import onnx

from shoal.model.graph.tensor_parallel.layouts import AxisSegment, AxisSplit
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, input_name, is_open, listed
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE
from shoal.model.graph.tensor_parallel.steps import Cut, Local, NodeStep, Operand, OwnSize, Whole
from shoal.model.graph.tensor_parallel.tracer import Tracer


def concat(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Along another axis all inputs are split as the first split one; along the split axis their segments are
    chained."""
    leader = next((name for name in node.input if trace.layout(name) is not None), None)
    rank = None if leader is None else trace.rank(leader)
    if leader is None or rank is None:
        return None
    axis, split = from_front(attribute(node, "axis", 0), rank), trace.layouts[leader]
    if split.axis == axis:
        return _chained(trace, node, axis)
    pairs: list[tuple[int, int]] = []
    operands = [trace.operand(name, split.axis, split, pairs) for name in node.input]
    known = [operand for operand in operands if operand is not None]
    if len(known) < len(operands) or not trace.classes.constrain(pairs):
        return None
    return NodeStep(operands=tuple(known), outputs=(split,))


def _chained(trace: Tracer, node: onnx.NodeProto, axis: int) -> NodeStep | None:
    operands: list[Operand] = []
    period: list[AxisSegment] = []
    for name in node.input:
        split, shape = trace.layout(name), trace.shape(name)
        if split is not None and split.axis == axis and split.repeats.fixed is not None:
            operands.append(Local())
            period += split.period * split.repeats.fixed
            continue
        length = None if shape is None else shape[axis].fixed
        cut = None if length is None else trace.cut_like(length, axis)
        if cut is None:
            return None
        operands.append(Cut(cut))
        period += cut.period
    return NodeStep(operands=tuple(operands), outputs=(AxisSplit(axis=axis, period=tuple(period)),))


def split_apart(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`Split`: along another axis every part is split alike; along the split axis each part gets whole segments."""
    layout, shape = trace.layout(node.input[0]), trace.shape(node.input[0])
    if layout is None or shape is None:
        return None
    axis = from_front(attribute(node, "axis", 0), len(shape))
    if axis != layout.axis:
        operands = (Local(), *(Whole(),) * (len(node.input) - 1))
        return NodeStep(operands=operands, outputs=(layout,) * len(node.output))
    length = shape[axis].fixed
    if length is None or is_open(node, 1, trace.constants):
        return None
    lengths = listed(node, "split", 1, trace.constants)
    if lengths is None and length % len(node.output) == 0:
        lengths = [length // len(node.output)] * len(node.output)
    parts = None if lengths is None else _parted(trace, layout, lengths)
    if parts is None:
        return None
    return NodeStep(operands=(Local(),), outputs=parts, is_parted=True)


def _parted(trace: Tracer, layout: AxisSplit, lengths: list[int]) -> tuple[AxisSplit, ...] | None:
    """The segments that each part of the axis contains."""
    assert layout.repeats.fixed is not None
    flat = replace(layout, period=layout.period * layout.repeats.fixed, repeats=ONE)
    edges = [0, *accumulate(segment.length for segment in flat.period)]
    cuts = [0, *accumulate(lengths)]
    if not set(cuts) <= set(edges):
        trace.need_segments(layout, lengths)
        return None
    if min(lengths) < 1:
        return None
    places = [edges.index(cut) for cut in cuts]
    return tuple(replace(flat, period=flat.period[first:last]) for first, last in pairwise(places))


def gather(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """Rows of a table that is split along another axis. A split along the gathered axis (of queries, keys and values)
    must move to another one."""
    layout, rank, index_rank = trace.layout(node.input[0]), trace.rank(node.input[0]), trace.rank(node.input[1])
    if layout is None or rank is None or index_rank is None or trace.layout(node.input[1]) is not None:
        return None
    axis = from_front(attribute(node, "axis", 0), rank)
    if axis == layout.axis:
        if node.input[1] in trace.constants:
            _ask_for_single_parts(trace, layout)
        return None
    moved = layout.axis if layout.axis < axis else layout.axis + index_rank - 1
    return NodeStep(operands=(Local(), Whole()), outputs=(layout.at(moved),))


def slice_out(trace: Tracer, node: onnx.NodeProto) -> NodeStep | None:
    """`Slice`: along other axes than the split one, or along the split axis alone at boundaries of segments."""
    layout, rank = trace.layout(node.input[0]), trace.rank(node.input[0])
    axes = trace.shapes.numbers(node, 3)
    if not input_name(node, 3):
        axes = list(range((trace.shape(node.input[1]) or (ONE,))[0].number))
    if layout is None or rank is None or axes is None:
        return None
    places = [from_front(axis, rank) for axis in axes]
    if layout.axis not in places:
        return NodeStep(operands=(Local(), *(Whole(),) * (len(node.input) - 1)), outputs=(layout,))
    return _sliced_between_segments(trace, node, layout) if places == [layout.axis] else None


def _sliced_between_segments(trace: Tracer, node: onnx.NodeProto, layout: AxisSplit) -> NodeStep | None:
    """Consecutive segments, which a `Split` would take as a part."""
    starts, ends, size = trace.shapes.numbers(node, 1), trace.shapes.numbers(node, 2), layout.size.fixed
    is_plain = not input_name(node, 4) or trace.shapes.numbers(node, 4) == [1]
    if not starts or not ends or size is None or not is_plain:
        return None
    first, last, _ = slice(starts[0], ends[0]).indices(size)
    if last - first < trace.classes.num_ranks:
        _ask_for_single_parts(trace, layout)
        return None
    lengths = [length for length in (first, last - first, size - last) if length]
    parts = _parted(trace, layout, lengths)
    if parts is None:
        return None
    before = parts[0].period if first else ()
    taken = parts[1 if first else 0]
    bounds = (OwnSize(replace(taken, period=before)), OwnSize(replace(taken, period=(*before, *taken.period))))
    return NodeStep(operands=(Local(), *bounds, *(Whole(),) * (len(node.input) - 3)), outputs=(taken,))


def _ask_for_single_parts(trace: Tracer, layout: AxisSplit) -> None:
    """Keep an axis whose few indices are taken one by one whole on every rank, and split the one after it."""
    if layout.repeats == ONE and layout.period_length <= _MAX_PARTS:
        trace.need_segments(layout, [1] * layout.period_length)


_MAX_PARTS = 4
"""At most queries, keys, values and a gate share a weight."""
