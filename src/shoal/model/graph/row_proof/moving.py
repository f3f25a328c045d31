"""Operators that move, repeat or count entries without computing with them: where the rows are afterwards."""

from __future__ import annotations

from dataclasses import replace

import onnx

from shoal.model.graph.row_proof.kinds import SHARED, Kind, Mixing, Rows
from shoal.model.graph.row_proof.walk import NUM_ROWS, Walk, check_single
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, integers, moved_axis
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Shape, Size, product
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import Content


def transpose(walk: Walk, node: onnx.NodeProto) -> Kind:
    """The rows move with their axis."""
    rows = walk.rows(node.input[0])
    if rows is None:
        return SHARED
    order = integers(node, "perm") or list(range(rows.rank))[::-1]
    return _kept(rows).at(order.index(rows.axis), rows.rank)


def squeeze(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Removes axes of size 1, but must not remove the axis of the rows, of which there may be one."""
    rows = walk.rows(node.input[0])
    axes = walk.axes(node, 1)
    if rows is None:
        return SHARED
    if axes is None:
        shape = walk.shape(node.input[0])
        if any(size.fixed is None for size in shape):
            raise Mixing("Squeeze removes whatever has one entry, a lone row too")
        axes = [axis for axis, size in enumerate(shape) if size == ONE]
    removed = [from_front(axis, rows.rank) for axis in axes]
    if rows.axis in removed:
        raise Mixing("Squeeze removes the axis of the rows")
    return _kept(rows).at(moved_axis(rows.axis, removed), rows.rank - len(removed))


def unsqueeze(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Adds axes of size 1."""
    rows = walk.rows(node.input[0])
    axes = walk.axes(node, 1)
    if rows is None:
        return SHARED
    if axes is None:
        raise Mixing("Unsqueeze has no axes")
    rank = rows.rank + len(axes)
    added = {from_front(axis, rank) for axis in axes}
    old = [axis for axis in range(rank) if axis not in added]
    return _kept(rows).at(old[rows.axis], rank)


def flatten(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Makes two axes: what lies before `axis`, and the rest."""
    rows = walk.rows(node.input[0])
    if rows is None:
        return SHARED
    shape = walk.shape(node.input[0])
    axis = from_front(attribute(node, "axis", 1), len(shape))
    return _carried(rows, shape, (product(shape[:axis]), product(shape[axis:])), walk.batch)


def reshape(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Rows keep their order in memory: they are on an axis that begins and ends at row boundaries."""
    rows = walk.rows(node.input[0])
    content = walk.content(node, 1)
    if content is None:
        walk.rows(node.input[1])
        raise Mixing("a shape is computed")
    if rows is None:
        if sum(not walk.is_steady(size) or size == Size(-1) for size in content) == 1:
            return SHARED  # one number that is not known is what the others leave
        raise Mixing("a shape depends on the number of rows")
    shape = walk.shape(node.input[0])
    return _carried(rows, shape, _target(walk, node, shape, content), walk.batch)


def _target(walk: Walk, node: onnx.NodeProto, shape: Shape, content: Content) -> Shape:
    """The shape that a reshape gives. If one number is known only in a run, it is what the others leave.

    Raises:
        Mixing: there are several such numbers, and one of them may depend on rows.
    """
    sizes: list[Size | None] = list(content)
    for axis, size in enumerate(content):
        if size == Size(0) and not attribute(node, "allowzero", 0):
            sizes[axis] = shape[axis] if axis < len(shape) else None
        elif not walk.is_followed(size) or (size is not None and not size.is_length):
            sizes[axis] = None
    open_axes = [axis for axis, size in enumerate(sizes) if size is None]
    if len(open_axes) > 1 and not all(walk.is_followed(content[axis]) for axis in open_axes):
        raise Mixing("a shape depends on rows or their number")
    if len(open_axes) == 1:
        rest = product(size for size in sizes if size is not None)
        sizes[open_axes[0]] = product(shape).over(rest)
    return tuple(walk.known.unknown(node.output[0], a) if size is None else size for a, size in enumerate(sizes))


def _carried(rows: Rows, shape: Shape, target: Shape, batch: Size) -> Rows:
    """The rows of a value after a reshape. Raises Mixing if no axis of the new shape is made of rows.

    In memory, entry number `place` belongs to row `place // stride % rows`, and `outer` runs of all rows follow each
    other: an axis is made of rows if its strides, or what lies before it, divide these.
    """
    outer = product(shape[: rows.axis]).times(rows.before)
    stride = product(shape[rows.axis + 1 :]).times(rows.after)
    for axis, size in enumerate(target):
        before, after = outer.over(product(target[:axis])), stride.over(product(target[axis + 1 :]))
        if before is None and after is not None:
            before = size.over(batch.times(after))
        elif after is None and before is not None:
            after = size.over(batch.times(before))
        if before is not None and after is not None and size == before.times(batch).times(after):
            return replace(_kept(rows), axis=axis, rank=len(target), before=before, after=after)
    raise Mixing("a reshape tears rows apart or puts parts of several together")


def expand(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Repeats axes of size 1, while the axis of the rows keeps its length. A shared value may be repeated for each
    row."""
    rows, content = walk.rows(node.input[0]), walk.content(node, 1)
    if content is None:
        walk.rows(node.input[1])
        raise Mixing("a shape is computed")
    if rows is None:
        return _repeated(walk, node, content)
    rank = max(rows.rank, len(content))
    for place, size in enumerate(content):
        is_rows_axis = len(content) - place == rows.from_end
        if is_rows_axis and size not in (ONE, rows.length(walk.batch)):
            raise Mixing("rows are stretched to a number that may not be theirs")
        if not is_rows_axis and not walk.is_steady(size):
            raise Mixing("a shape depends on rows or their number")
    return rows.at(rank - rows.from_end, rank)


def _repeated(walk: Walk, node: onnx.NodeProto, content: Content) -> Kind:
    """A shared value, broadcast to a shape that contains the number of rows in one place."""
    rank = max(walk.rank(node.input[0]), len(content))
    rows = _rows_of_shape(walk, content, rank)
    check_single(walk, [node.input[0]], rows)
    return rows


def _rows_of_shape(walk: Walk, content: Content, rank: int) -> Rows:
    """Rows of a value that is equal in all of them, from its shape: they lie along the axis whose size is a multiple of
    their number."""
    open_axes = [place for place, size in enumerate(content) if not walk.is_steady(size)]
    size = content[open_axes[0]] if len(open_axes) == 1 else None
    after = None if size is None else size.over(walk.batch)
    if after is None or not walk.is_steady(after):
        raise Mixing("a shape depends on rows or their number")
    return Rows(rank=rank, axis=rank - len(content) + open_axes[0], after=after)


def tile(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Repeats along other axes, or repeats a shared value for each row."""
    rows, content = walk.rows(node.input[0]), walk.content(node, 1)
    if content is None:
        walk.check_shared(node.input[1:], "a number of repeats")
        raise Mixing("numbers of repeats are computed")
    if rows is None:
        found = _rows_of_shape(walk, content, len(content))
        return replace(found, after=found.after.times(walk.shape(node.input[0])[found.axis]))
    if content[rows.axis] != ONE:
        raise Mixing("rows are repeated")
    if not all(walk.is_steady(size) for size in content):
        raise Mixing("a number of repeats depends on rows or their number")
    return rows


def constant_of_shape(walk: Walk, node: onnx.NodeProto) -> Kind:
    """The same number everywhere, hence in each row."""
    content = walk.content(node, 0)
    if content is None:
        walk.rows(node.input[0])
        raise Mixing("a shape is computed")
    return _rows_of_shape(walk, content, len(content))


def counting(walk: Walk, node: onnx.NodeProto) -> Kind:
    """The range up to the number of rows, in which each entry is the number of its row. Other ranges mix rows."""
    start, limit, step = (walk.known.content(name) for name in node.input)
    if start == (Size(0),) and limit == (walk.batch,) and step == (ONE,):
        return Rows(rank=1, axis=0, index="all")
    raise Mixing("a range depends on rows or their number")


def shape_of(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Sizes are followed as numbers; as a value, a shape depends on the number of rows."""
    del walk, node
    return NUM_ROWS


def concat(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Concatenates along other axes, if all values have rows in the same place."""
    found = [walk.rows(name) for name in node.input]
    first = found[0]
    if first is None or any(rows is None or (rows.rank, rows.place) != (first.rank, first.place) for rows in found):
        raise Mixing("what has rows is joined with what has none there")
    axis = from_front(attribute(node, "axis", 0), first.rank)
    if axis == first.axis:
        raise Mixing("batches are put one behind the other")
    indices = [rows.index for rows in found if rows is not None]
    if not any(indices):
        return first
    shape = walk.shape(node.input[0])
    if indices[0] == "all" and not any(indices[1:]) and axis == first.rank - 1 and shape[-1] == ONE:
        return replace(first, index="first")
    raise Mixing("the place of a row in its batch")


def split(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
    """Splits along other axes."""
    rows = walk.plain_rows(node.input[0])
    walk.check_shared(node.input[1:], "a length")
    if rows is None:
        return (SHARED,) * len(node.output)
    if from_front(attribute(node, "axis", 0), rows.rank) == rows.axis:
        raise Mixing("a batch is split")
    return (rows,) * len(node.output)


def _kept(rows: Rows) -> Rows:
    """The rows, whose `index` must not be `first`: that refers to the last axis, which may be another one now."""
    if rows.index == "first":
        raise Mixing("the place of a row in its batch")
    return rows
