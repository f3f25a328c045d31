"""Operators that read or write some entries, by indices that rows share or that belong to each row."""

from __future__ import annotations

import onnx

from shoal.model.graph.row_proof.kinds import SHARED, Kind, Mixing, Rows
from shoal.model.graph.row_proof.walk import Walk, same_rows
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, input_name, integers
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size

_TO_THE_END = 10**9
"""Exporters write at least this for "to the end of the axis"; no batch has so many rows."""
_BY_PLACE = "rows are picked by their place"


def slice_out(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Ranges along other axes, and all of the rows' own axis."""
    rows = walk.plain_rows(node.input[0])
    starts, ends = _bounds(walk, node, "starts", 1), _bounds(walk, node, "ends", 2)
    axes, steps = walk.axes(node, 3), _bounds(walk, node, "steps", 4)
    if starts is None or ends is None or len(starts) != len(ends):
        raise Mixing("a bound depends on a row")
    if rows is None:
        walk.check_shared(node.input[1:], "a bound")
        return SHARED
    for place, axis in enumerate(axes if axes is not None else range(len(starts))):
        start, end, step = starts[place], ends[place], ONE if steps is None else steps[place]
        if from_front(axis, rows.rank) != rows.axis:
            if not all(map(walk.is_steady, (start, end, step))):
                raise Mixing("a bound depends on rows or their number")
        elif start != Size(0) or step != ONE or not _is_end(end, rows, walk.batch):
            raise Mixing(_BY_PLACE)
    return rows


def _bounds(walk: Walk, node: onnx.NodeProto, name: str, index: int) -> list[Size | None] | None:
    """Numbers from an input, or from an attribute in old operator sets; None for those left out or unknown."""
    if not input_name(node, index):
        found = integers(node, name)
        return None if found is None else list(map(Size, found))
    content = walk.content(node, index)
    if content is None:
        walk.check_shared([node.input[index]], "a bound")
        raise Mixing("bounds are computed")
    return list(content)


def _is_end(end: Size | None, rows: Rows, batch: Size) -> bool:
    return end is not None and (end == rows.length(batch) or (end.fixed or 0) >= _TO_THE_END)


def gather(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Entries along another axis, or entries of a table for each row."""
    data, indices = walk.plain_rows(node.input[0]), walk.rows(node.input[1])
    rank = walk.rank(node.input[0])
    axis = from_front(attribute(node, "axis", 0), rank)
    num_indices = walk.rank(node.input[1])
    new_rank = rank - 1 + num_indices
    if data is None and indices is None:
        return SHARED
    if data is not None and indices is None:
        if data.axis == axis:
            raise Mixing(_BY_PLACE)
        return data.at(data.axis if data.axis < axis else data.axis - 1 + num_indices, new_rank)
    assert indices is not None
    if data is None:
        if indices.index is not None:
            raise Mixing("there is an entry for each place in the batch")
        return indices.at(axis + indices.axis, new_rank)
    if data.axis == axis and indices.index == "all" and _is_simple(data) and _is_simple(indices):
        return Rows(rank=new_rank, axis=axis + indices.axis)
    raise Mixing("each row picks from all rows")


def _is_simple(rows: Rows) -> bool:
    return rows.before == rows.after == ONE


def gather_elements(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Each row's own entries along another axis, read or written."""
    rows = same_rows(walk, node.input)
    if from_front(attribute(node, "axis", 0), rows.rank) == rows.axis:
        raise Mixing("each row picks from all rows")
    return rows


def gather_nd(walk: Walk, node: onnx.NodeProto) -> Kind:
    """As `gather`, with several numbers in each index."""
    data, indices = walk.plain_rows(node.input[0]), walk.rows(node.input[1])
    num_batch = attribute(node, "batch_dims", 0)
    length = walk.shape(node.input[1])[-1].fixed
    if length is None:
        raise Mixing("how many numbers make an index is computed")
    picked = walk.rank(node.input[1]) - 1
    rank = picked + walk.rank(node.input[0]) - num_batch - length
    if indices is not None and indices.axis == indices.rank - 1:
        raise Mixing("an index is made of several rows")
    if num_batch:
        if data is None or indices is None or data.axis >= num_batch or indices.index is not None:
            raise Mixing(_BY_PLACE)
        if (data.axis, data.before, data.after) != (indices.axis, indices.before, indices.after):
            raise Mixing("rows meet along different axes")
        return data.at(data.axis, rank)
    if data is None:
        if indices is None or indices.index is not None:
            raise Mixing("there is an entry for each place in the batch")
        return indices.at(indices.axis, rank)
    if indices is None:
        if data.axis < length:
            raise Mixing(_BY_PLACE)
        return data.at(picked + data.axis - length, rank)
    if _is_own_row(data, indices, length):
        return Rows(rank=rank, axis=indices.axis)
    raise Mixing("each row picks from all rows")


def scatter_nd(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Each row's own updates, written into it."""
    data, indices, updates = walk.plain_rows(node.input[0]), walk.rows(node.input[1]), walk.plain_rows(node.input[2])
    length = walk.shape(node.input[1])[-1].fixed
    if data is None or length is None:
        raise Mixing("rows are written over each other")
    picked = walk.rank(node.input[1]) - 1
    if indices is None and data.axis >= length:
        wanted = data.at(picked + data.axis - length, picked + data.rank - length)
        if updates is None or updates != wanted:
            raise Mixing("what is written does not come with its row")
        return data
    is_own = indices is not None and _is_own_row(data, indices, length)
    rank = picked + data.rank - length
    if is_own and indices is not None and updates == Rows(rank=rank, axis=indices.axis):
        return data
    raise Mixing("rows are written over each other")


def _is_own_row(data: Rows, indices: Rows, length: int) -> bool:
    """Whether the first number of each index is the row that the index belongs to."""
    says = indices.index == "first" or (indices.index == "all" and length == 1)
    return says and data.axis == 0 and _is_simple(data) and _is_simple(indices) and indices.axis < indices.rank - 1


def one_hot(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Adds an axis."""
    rows = walk.plain_rows(node.input[0])
    walk.check_shared(node.input[1:], "a depth")
    if rows is None:
        return SHARED
    axis = from_front(attribute(node, "axis", -1), rows.rank + 1)
    return rows.at(rows.axis + (axis <= rows.axis), rows.rank + 1)


def reverse_sequence(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Each row is reversed by its own length, along another axis."""
    rows, lengths = walk.plain_rows(node.input[0]), walk.plain_rows(node.input[1])
    is_batch = rows is not None and attribute(node, "batch_axis", 1) == rows.axis
    if rows is None or lengths is None or not is_batch or attribute(node, "time_axis", 0) == rows.axis:
        raise Mixing("rows are reversed")
    if (rows.before, rows.after) != (lengths.before, lengths.after):
        raise Mixing("rows meet along different axes")
    return rows


def pad(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Pads other axes, by numbers that rows share."""
    rows = walk.plain_rows(node.input[0])
    walk.check_shared(node.input[2:3], "a value for padding")
    listed = tuple(map(Size, integers(node, "pads") or ()))
    content = walk.content(node, 1) if input_name(node, 1) else listed
    if content is None:
        walk.check_shared([node.input[1]], "a number of pads")
        raise Mixing("numbers of pads are computed")
    if not all(map(walk.is_steady, content)):
        raise Mixing("a number of pads depends on rows")
    if rows is None:
        return SHARED
    axes = walk.axes(node, 3) if input_name(node, 3) else None
    places = list(range(rows.rank)) if axes is None else [from_front(axis, rows.rank) for axis in axes]
    half = len(content) // 2
    for place, axis in enumerate(places):
        if axis == rows.axis and {content[place], content[half + place]} != {Size(0)}:
            raise Mixing("the batch is padded")
    return rows
