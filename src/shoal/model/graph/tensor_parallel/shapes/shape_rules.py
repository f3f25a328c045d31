"""For each operator, the shape of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from shoal.model.graph.tensor_parallel.shapes.content_rules import CONTENTS, shape_content
from shoal.model.graph.tensor_parallel.shapes.nodes import (
    DEFAULT_DOMAINS,
    attribute,
    from_front,
    input_name,
    integers,
    is_open,
    listed,
)
from shoal.model.graph.tensor_parallel.shapes.operator_kinds import BROADCASTING, UNARY
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Shape, Size, product
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import MAX_LENGTH, Content, SymbolicShapes


def follow(known: SymbolicShapes, node: onnx.NodeProto) -> None:
    """Learn what one node says about its results. Nodes must come in order."""
    if node.domain not in DEFAULT_DOMAINS or not node.output or node.output[0] in known.constants:
        return
    rule = _SHAPES.get(node.op_type)
    shape = rule(known, node) if rule is not None else None
    if shape is not None:
        known.learn_shape(node.output[0], shape)
    content = CONTENTS.get(node.op_type)
    shape = known.shape(node.output[0])
    is_list = shape is not None and len(shape) < 2
    found = content(known, node) if content is not None and is_list else None
    if found is not None and len(found) <= MAX_LENGTH:
        known.learn_content(node.output[0], found)


def _same_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    return known.shape(node.input[0])


def _broadcast_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shapes = [known.shape(name) for name in node.input if name]
    if any(shape is None for shape in shapes):
        return None
    return known.broadcast([shape for shape in shapes if shape is not None], node.output[0])


def _product_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    left, right = known.shape(node.input[0]), known.shape(node.input[1])
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    return (*known.broadcast([left[:-2], right[:-2]], node.output[0]), left[-2], right[-1])


def _transposed_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shape = known.shape(node.input[0])
    if shape is None:
        return None
    return tuple(shape[axis] for axis in integers(node, "perm") or range(len(shape))[::-1])


def _reshaped_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shape, content = known.shape(node.input[0]), known.content(input_name(node, 1))
    if content is None:
        return None
    return _reshaped(shape, content, attribute(node, "allowzero", 0), lambda a: known.unknown(node.output[0], a))


def _unsqueezed_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shape, axes = known.shape(node.input[0]), listed(node, "axes", 1, known.constants)
    if shape is None or axes is None:
        return None
    rank = len(shape) + len(axes)
    added = {from_front(axis, rank) for axis in axes}
    rest = iter(shape)
    return tuple(ONE if axis in added else next(rest) for axis in range(rank))


def _squeezed_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shape, axes = known.shape(node.input[0]), listed(node, "axes", 1, known.constants)
    if shape is None or axes is None or is_open(node, 1, known.constants):
        return None
    removed = {from_front(axis, len(shape)) for axis in axes}
    return tuple(size for axis, size in enumerate(shape) if axis not in removed)


def _expanded_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shape, content = known.shape(node.input[0]), known.content(node.input[1])
    if shape is None or content is None:
        return None
    sizes = [known.unknown(node.output[0], axis) if size is None else size for axis, size in enumerate(content)]
    return known.broadcast([shape, tuple(sizes)], node.output[0])


def _range_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    start, limit, step = (known.content(name) for name in node.input)
    if start != (Size(0),) or step != (ONE,) or limit is None or limit[0] is None:
        return None
    return (limit[0],)


def _gathered_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    table, indices = known.shape(node.input[0]), known.shape(node.input[1])
    if table is None or indices is None:
        return None
    axis = from_front(attribute(node, "axis", 0), len(table))
    return (*table[:axis], *indices, *table[axis + 1 :])


def _joined_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shapes = [shape for name in node.input if (shape := known.shape(name)) is not None]
    if len(shapes) < len(node.input) or len({len(shape) for shape in shapes}) != 1:
        return None
    axis = from_front(attribute(node, "axis", 0), len(shapes[0]))
    lengths = [shape[axis].fixed for shape in shapes]
    fixed = [length for length in lengths if length is not None]
    length = Size(sum(fixed)) if len(fixed) == len(lengths) else known.unknown(node.output[0], axis)
    return (*shapes[0][:axis], length, *shapes[0][axis + 1 :])


def _indexed_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    return known.shape(node.input[1])


def _filled_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    content = known.content(node.input[0])
    return None if content is None or None in content else tuple(size for size in content if size is not None)


def _shape_of_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    content = shape_content(known, node)
    return None if content is None else (Size(len(content)),)


def _number_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    del known, node
    return ()


def _sliced_shape(known: SymbolicShapes, node: onnx.NodeProto) -> Shape | None:
    shape, starts, ends = known.shape(node.input[0]), known.numbers(node, 1), known.content(input_name(node, 2))
    is_plain = not input_name(node, 4) or set(known.numbers(node, 4) or [0]) == {1}
    if shape is None or starts is None or ends is None or not is_plain:
        return None
    axes = known.numbers(node, 3) if input_name(node, 3) else list(range(len(starts)))
    if axes is None:
        return None
    sizes = list(shape)
    for axis, start, end in zip([from_front(axis, len(shape)) for axis in axes], starts, ends, strict=True):
        sizes[axis] = _sliced_size(known, sizes[axis], start, end) or known.unknown(node.output[0], axis)
    return tuple(sizes)


def _sliced_size(known: SymbolicShapes, size: Size, start: int, end: Size | None) -> Size | None:
    if end is None:
        return None
    if size.fixed is not None and end.fixed is not None:
        return Size(len(range(size.fixed)[start : end.fixed]))
    if start != 0 or end.fixed is not None or not end.is_length:
        return None
    limited = Size(1, (f"min({size}, {end})",))  # slice of positions up to the length of a text
    known.limit(limited, end)
    return limited


def _reshaped(shape: Shape | None, content: Content, allows_zero: int, unknown: Callable[[int], Size]) -> Shape | None:
    """The shape that a reshape to these numbers gives: 0 copies a size, -1 takes what is left."""
    sizes: list[Size | None] = list(content)
    for axis, size in enumerate(content):
        if size == Size(0) and not allows_zero:
            sizes[axis] = None if shape is None or axis >= len(shape) else shape[axis]
    if Size(-1) in sizes:
        open_axis = sizes.index(Size(-1))
        others = [size for axis, size in enumerate(sizes) if axis != open_axis]
        known = [size for size in others if size is not None]
        is_known = shape is not None and len(known) == len(others)
        sizes[open_axis] = product(shape or ()).over(product(known)) if is_known else None
    return tuple(unknown(axis) if size is None else size for axis, size in enumerate(sizes))


_SAME_SHAPE = {*UNARY, "BatchNormalization", "InstanceNormalization", "LayerNormalization", "LogSoftmax", "Softmax"}
_SHAPES: Mapping[str, Callable[[SymbolicShapes, onnx.NodeProto], Shape | None]] = {
    **dict.fromkeys(_SAME_SHAPE, _same_shape),
    **dict.fromkeys(BROADCASTING, _broadcast_shape),
    "Concat": _joined_shape,
    "ConstantOfShape": _filled_shape,
    "Expand": _expanded_shape,
    "Gather": _gathered_shape,
    "GatherElements": _indexed_shape,
    "MatMul": _product_shape,
    "Range": _range_shape,
    "Reshape": _reshaped_shape,
    "Shape": _shape_of_shape,
    "Size": _number_shape,
    "Slice": _sliced_shape,
    "Squeeze": _squeezed_shape,
    "Transpose": _transposed_shape,
    "Unsqueeze": _unsqueezed_shape,
}
