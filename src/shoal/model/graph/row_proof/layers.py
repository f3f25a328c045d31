"""Layers whose operator determines where the batch is: convolutions, windows, recurrent layers, attention, trees."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from shoal.model.graph.row_proof.kinds import SHARED, Kind, Mixing, Rows
from shoal.model.graph.row_proof.walk import Rule, Walk, attribute_text
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, input_name
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size

_MODE = "coordinate_transformation_mode"
_NOT_FIRST = "rows lie where the layer does not expect them"


def first_axis(*others: int, shift: int = 0) -> Callable[[Walk, onnx.NodeProto], Kind]:
    """Rows lie along the first axis of the first input, and of `others` in the same number; all other inputs are
    shared.

    Args:
        others: indices of inputs, which may be left out.
        shift: how many axes the result has more than the first input.
    """

    def rule(walk: Walk, node: onnx.NodeProto) -> Kind:
        rows = walk.plain_rows(node.input[0])
        for index, name in enumerate(node.input[1:], 1):
            found = walk.plain_rows(name)
            if name and index in others and (found is None or rows is None or _turn(found) != _turn(rows)):
                raise Mixing(_NOT_FIRST)
            if index not in others and found is not None:
                raise Mixing(f"a parameter of {node.op_type} depends on a row")
        if rows is None:
            return SHARED
        if rows.axis != 0:
            raise Mixing(_NOT_FIRST)
        return rows.at(0, rows.rank + shift)

    return rule


def _turn(rows: Rows) -> tuple[int, Size, Size]:
    return rows.axis, rows.before, rows.after


def spectra(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Signals (batch, time, parts) to (batch, frames, frequencies, parts)."""
    rows = walk.plain_rows(node.input[0])
    if rows is None or rows.rank != 3:
        raise Mixing(_NOT_FIRST)
    return first_axis(shift=1)(walk, node)


def resize(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Other axes are resized; the batch keeps its size."""
    rows = walk.plain_rows(node.input[0])
    is_old = node.op_type == "Upsample" or walk.opset < 11
    scales, sizes = (1, 3) if is_old else (2, 3)
    walk.check_shared(() if is_old else node.input[1:2], "a region")
    if rows is None:
        walk.check_shared(node.input[1:], "a size")
        return SHARED
    axes = next((list(found.ints) for found in node.attribute if found.name == "axes"), None) or list(range(rows.rank))
    axes = [from_front(axis, rows.rank) for axis in axes]
    place = axes.index(rows.axis) if rows.axis in axes else None
    is_plain = attribute_text(node, "keep_aspect_ratio_policy") in ("", "stretch")
    if place is not None and (not is_plain or attribute_text(node, _MODE) == "tf_crop_and_resize"):
        raise Mixing("the batch may be stretched")
    if input_name(node, sizes):
        _check_sizes(walk, node, sizes, place, rows)
    else:
        walk.check_shared(node.input[scales : scales + 1], "a scale")
        _check_scale(walk, node, scales, place)
    return rows


def _check_sizes(walk: Walk, node: onnx.NodeProto, index: int, place: int | None, rows: Rows) -> None:
    content = walk.content(node, index)
    if content is None:
        walk.check_shared([node.input[index]], "a size")
        raise Mixing("sizes are computed")
    others = [size for entry, size in enumerate(content) if entry != place]
    is_kept = place is None or content[place] == rows.length(walk.batch)
    if not is_kept or not all(map(walk.is_steady, others)):
        raise Mixing("a size depends on rows or their number")


def _check_scale(walk: Walk, node: onnx.NodeProto, index: int, place: int | None) -> None:
    if place is None:
        return
    name = input_name(node, index)
    array = walk.constants.array(name) if name and name in walk.constants else None
    scales = next((list(found.floats) for found in node.attribute if found.name == "scales"), None)
    found = scales if array is None else array.reshape(-1).tolist()
    if found is None or place >= len(found) or found[place] != 1:
        raise Mixing("the batch may be stretched")


def recurrent(num_outputs: int) -> Rule:
    """LSTM, GRU, RNN: time first, then the batch (`layout` 1: the batch first). States have the batch along axis 1."""

    def rule(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
        is_first = bool(attribute(node, "layout", 0))
        axis = 0 if is_first else 1
        rows = walk.plain_rows(node.input[0])
        walk.check_shared([*node.input[1:4], *node.input[7:8]], "a weight")
        if rows is None or rows.axis != axis:
            raise Mixing(_NOT_FIRST)
        for index, wanted in ((4, 0), (5, axis), (6, axis)):
            name = input_name(node, index)
            found = walk.plain_rows(name) if name else None
            if name and not _fits(walk, name, found, rows, wanted):
                raise Mixing(_NOT_FIRST)
        states = rows.at(axis, 3)
        return (rows.at(0 if is_first else 2, 4), *(states,) * (num_outputs - 1))

    return rule


def _fits(walk: Walk, name: str, found: Rows | None, rows: Rows, axis: int) -> bool:
    """Whether a state or a length belongs to the rows, or is a constant that is equal for all of a fixed number of
    rows."""
    if found is not None:
        return _turn(found) == (axis, rows.before, rows.after)
    array = walk.constants.array(name) if name in walk.constants else None
    length = rows.length(walk.batch).fixed
    is_constant = array is not None and length is not None and array.ndim > axis and array.shape[axis] == length
    return is_constant and array is not None and bool((array == array.take([0], axis)).all())


def attention(per_row: frozenset[int], outputs: Callable[[int], tuple[int, ...]]) -> Rule:
    """Queries, keys, values, masks and past keys and values have the batch first; weights are shared.

    Args:
        per_row: inputs with a batch; shared ones must have one entry there, or none.
        outputs: ranks of the results, given that of the queries.
    """

    def rule(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
        rows = walk.plain_rows(node.input[0])
        if rows is None or rows.axis != 0:
            raise Mixing(_NOT_FIRST)
        for index, name in enumerate(node.input):
            found = walk.plain_rows(name)
            if found is not None and (index not in per_row or _turn(found) != _turn(rows)):
                raise Mixing(_NOT_FIRST)
            if name and found is None and index in per_row and not _is_one_for_all(walk, name):
                raise Mixing("there may be an entry for each place in the batch")
        return tuple(rows.at(0, rank) for rank in outputs(rows.rank))

    return rule


def _is_one_for_all(walk: Walk, name: str) -> bool:
    shape = walk.shape(name)
    return len(shape) == 0 or shape[0] == ONE


def standard_attention(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
    """ONNX's own operator: a mask is broadcast to (batch, heads, queries, keys), so its axes count from the end."""
    mask = input_name(node, 3)
    if mask:
        rows = walk.plain_rows(mask)
        shape = walk.shape(mask)
        if (rows is not None and rows.rank != 4) or (rows is None and len(shape) == 4 and shape[0] != ONE):
            raise Mixing(_NOT_FIRST)
    per_row = frozenset({0, 1, 2, 4, 5, 6} | ({3} if mask and walk.plain_rows(mask) is not None else set()))
    return attention(per_row, lambda rank: (rank, 4, 4, 4))(walk, node)


def rotary(position_index: int, tables: tuple[int, int]) -> Rule:
    """Rotated by the angles at each row's own positions, or at positions that all rows share."""

    def rule(walk: Walk, node: onnx.NodeProto) -> Kind:
        rows = walk.plain_rows(node.input[0])
        name = input_name(node, position_index)
        positions = walk.plain_rows(name) if name else None
        if rows is None or rows.axis != 0:
            raise Mixing(_NOT_FIRST)
        if positions is not None and _turn(positions) != _turn(rows):
            raise Mixing(_NOT_FIRST)
        if name and positions is None and not _is_one_for_all(walk, name):
            raise Mixing("there may be a position for each place in the batch")
        for table in tables:
            found = walk.plain_rows(node.input[table])
            shape = walk.shape(node.input[table])
            if found is not None and (name or _turn(found) != _turn(rows)):
                raise Mixing(_NOT_FIRST)
            if found is None and not name and shape[0] != ONE:
                raise Mixing("there may be a table for each place in the batch")
        return rows

    return rule


def row_by_row(*ranks: int) -> Rule:
    """Models over tables (trees, linear models, scalers): one result for each row of a matrix.

    Args:
        ranks: of the results; 0: that of the input.
    """

    def rule(walk: Walk, node: onnx.NodeProto) -> Kind | tuple[Kind, ...]:
        rows = walk.plain_rows(node.input[0])
        walk.check_shared(node.input[1:], "a parameter")
        if rows is None or rows.axis != 0 or rows.rank < 2:
            raise Mixing(_NOT_FIRST)
        return tuple(rows.at(0, rank or rows.rank) for rank in ranks)

    return rule


def feature_vector(walk: Walk, node: onnx.NodeProto) -> Kind:
    """Columns are placed side by side."""
    found = [walk.plain_rows(name) for name in node.input]
    if any(rows is None or _turn(rows) != (0, ONE, ONE) for rows in found):
        raise Mixing(_NOT_FIRST)
    return Rows(rank=2, axis=0)
