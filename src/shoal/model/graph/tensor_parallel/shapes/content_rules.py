"""For each operator, the numbers in its result if that is a shape or a part of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx
from onnx import TensorProto, numpy_helper

from shoal.model.graph.tensor_parallel.shapes.nodes import (
    attribute,
    input_name,
    is_open,
    listed,
)
from shoal.model.graph.tensor_parallel.shapes.sizes import Size, product
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import MAX_LENGTH, Content, SymbolicShapes


def shape_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    """The sizes that the operator Shape returns; None if its input's shape is unknown."""
    shape = known.shape(node.input[0])
    end = next((found.i for found in node.attribute if found.name == "end"), None)
    return None if shape is None else shape[attribute(node, "start", 0) : end]


def _same_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    return known.content(node.input[0])


def _cast_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    """Sizes fit these types; others would truncate numbers, or turn them into truth values."""
    return known.content(node.input[0]) if attribute(node, "to", 0) in WIDE_TYPES else None


def _joined_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    parts = [_entries(known, name) for name in node.input]
    return None if any(part is None for part in parts) else tuple(size for part in parts for size in part or ())


def _gathered_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    source, indices = known.content(node.input[0]), known.content(node.input[1])
    if source is None or indices is None:
        return None
    places = [None if index is None else index.fixed for index in indices]
    if any(place is not None and not -len(source) <= place < len(source) for place in places):
        return None
    return tuple(None if place is None else source[place] for place in places)


def _sliced_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    source, starts, ends = known.content(node.input[0]), known.numbers(node, 1), known.numbers(node, 2)
    is_plain = not input_name(node, 4) or known.numbers(node, 4) == [1]
    if source is None or not starts or not ends or not is_plain:
        return None
    return source[starts[0] : ends[0]]


def _multiplied_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    return _paired(known, node, lambda a, b: a.times(b))


def _divided_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    is_whole = any(
        (dtype := known.dtype(name)) is not None and dtype.startswith(("int", "uint")) for name in node.input
    )
    return _paired(known, node, _quotient if is_whole else Size.over)


def _added_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    return _paired(known, node, lambda a, b: Size(a.number + b.number) if not a.names and not b.names else None)


def _equal_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    return _paired(known, node, _equal)


def _equal(a: Size, b: Size) -> Size | None:
    if a == b:
        return Size(1)
    if any(one.is_length and (other.fixed or 0) < 0 for one, other in ((a, b), (b, a))):
        return Size(0)
    return _compared(a, b, lambda x, y: x == y)


def _greater_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    return _paired(known, node, lambda a, b: _compared(a, b, lambda x, y: x > y))


def _less_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    return _paired(known, node, lambda a, b: _compared(a, b, lambda x, y: x < y))


def _compared(a: Size, b: Size, compare: Callable[[int, int], bool]) -> Size | None:
    return None if a.fixed is None or b.fixed is None else Size(int(compare(a.fixed, b.fixed)))


def _inverted_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    found = known.content(node.input[0])
    if found is None:
        return None
    return tuple(None if size is None or size.fixed is None else Size(int(not size.fixed)) for size in found)


def _chosen_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    chosen, left, right = (known.content(name) for name in node.input)
    if chosen is None or left is None or right is None:
        return None
    length = max(len(chosen), len(left), len(right))
    lists = [found * length if len(found) == 1 else found for found in (chosen, left, right)]
    if any(len(found) != length for found in lists):
        return None
    return tuple(
        None if place is None or place.fixed is None else (a if place.fixed else b)
        for place, a, b in zip(*lists, strict=True)
    )


def _filled_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    """Equal numbers, as many as the only entry of the shape says."""
    length = known.numbers(node, 0)
    value = next((found.t for found in node.attribute if found.name == "value"), None)
    if length is None or len(length) > 1 or math.prod(length) > MAX_LENGTH or value is None:
        return None
    number = numpy_helper.to_array(value).reshape(-1)
    return (Size(int(number[0])),) * math.prod(length) if number.dtype.kind in "iub" and len(number) else None


def _size_content(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    shape = known.shape(node.input[0])
    return None if shape is None else (product(shape),)


def _multiplied_together(known: SymbolicShapes, node: onnx.NodeProto) -> Content | None:
    """The product of all entries."""
    found, axes = known.content(node.input[0]), listed(node, "axes", 1, known.constants)
    if not axes and attribute(node, "noop_with_empty_axes", 0):
        return None
    sizes = [size for size in found or () if size is not None]
    is_whole = found is not None and len(sizes) == len(found) and axes in (None, [0], [-1])
    return (product(sizes),) if is_whole and not is_open(node, 1, known.constants) else None


def _paired(
    known: SymbolicShapes, node: onnx.NodeProto, combine: Callable[[Size, Size], Size | None]
) -> Content | None:
    left, right = known.content(node.input[0]), known.content(node.input[1])
    if left is None or right is None:
        return None
    left, right = _stretched(left, right), _stretched(right, left)
    if len(left) != len(right):
        return None
    pairs = zip(left, right, strict=True)
    return tuple(None if a is None or b is None else combine(a, b) for a, b in pairs)


def _stretched(numbers: Content, other: Content) -> Content:
    return numbers * len(other) if len(numbers) == 1 else numbers


def _entries(known: SymbolicShapes, name: str) -> Content | None:
    """The content, or unknown numbers if only their count is known."""
    found, shape = known.content(name), known.shape(name)
    if found is not None or shape is None or len(shape) != 1 or (length := shape[0].fixed) is None:
        return found
    return (None,) * length if length <= MAX_LENGTH else None


def _quotient(size: Size, divisor: Size) -> Size | None:
    """Rounded down for plain numbers, as in integer division."""
    if size.fixed is None or divisor.fixed is None or size.fixed < 0 or divisor.fixed < 1:
        return size.over(divisor)
    return Size(size.fixed // divisor.fixed)


WIDE_TYPES = (TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT, TensorProto.DOUBLE)
"""Types that sizes fit into."""
CONTENTS: Mapping[str, Callable[[SymbolicShapes, onnx.NodeProto], Content | None]] = {
    **dict.fromkeys(("Identity", "Squeeze", "Unsqueeze", "Reshape"), _same_content),
    "Cast": _cast_content,
    "ConstantOfShape": _filled_content,
    "Equal": _equal_content,
    "Greater": _greater_content,
    "Less": _less_content,
    "Not": _inverted_content,
    "ReduceProd": _multiplied_together,
    "Size": _size_content,
    "Where": _chosen_content,
    "Add": _added_content,
    "Concat": _joined_content,
    "Div": _divided_content,
    "Gather": _gathered_content,
    "Mul": _multiplied_content,
    "Shape": shape_content,
    "Slice": _sliced_content,
}
"""Functions by operator."""
