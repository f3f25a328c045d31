"""Rows of tensors: counting, taking, joining, padding and splitting them along the batch axes of a graph.

Inputs are exactly the graph's inputs and were checked before. An input without a batch axis is shared by all rows; in a
graph that is not batched, the whole request is one row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import InvalidRequest
from shoal.router.graph_executor import Tensors


def count_rows(inputs: Tensors, axes: BatchAxes) -> int:
    """The number of rows of a request; 1 if the graph is not batched.

    Raises:
        InvalidRequest: the inputs have no rows, have different numbers of rows, or lack the axis.
    """
    if not axes.is_batched:
        return 1
    counts = {name: _size(name, inputs[name], axis) for name, axis in axes.inputs.items() if axis is not None}
    num_rows = next(iter(counts.values()))
    if len(counts) > 1 and any(count != num_rows for count in counts.values()):
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InvalidRequest(f"the inputs disagree on the number of rows: {listed}")
    if not num_rows:
        raise InvalidRequest(f"input {next(iter(counts))!r} has 0 rows; give at least one")
    return num_rows


def row_cost(inputs: Tensors, axes: BatchAxes) -> int:
    """The cost of one row: its elements plus those of shared inputs, at least 1."""
    num_rows = count_rows(inputs, axes) if axes.is_batched else 1
    elements = (inputs[name].size // (1 if axis is None else num_rows) for name, axis in axes.inputs.items())
    return max(1, sum(elements))


def signature(inputs: Tensors, axes: BatchAxes) -> Hashable:
    """What requests must have in common to share a batch: types, shapes except the batch axis, and shared inputs.

    The value is hashable, and equal for requests that may share a batch; None if the graph is not batched.
    """
    if not axes.is_batched:
        return None
    return tuple([_input_signature(inputs[name], axis) for name, axis in axes.inputs.items()])


def take_rows(inputs: Tensors, axes: BatchAxes, first: int, last: int) -> dict[str, Array]:
    """The rows first:last of a request, as views; shared inputs are unchanged."""
    return {name: _slice(inputs[name], axis, first, last) for name, axis in axes.inputs.items()}


def join_rows(parts: Sequence[Tensors], axes: BatchAxes) -> dict[str, Array]:
    """Join the inputs of parts with equal signatures, at least one, into a batch. A single part is not copied."""
    return _join(parts, axes.inputs)


def pad_rows(inputs: Tensors, axes: BatchAxes, num_rows: int) -> dict[str, Array]:
    """Repeat the last row until there are `num_rows`. Any graph can compute a real row, unlike other padding."""
    return {name: _pad(inputs[name], axis, num_rows) for name, axis in axes.inputs.items()}


def split_rows(
    outputs: Mapping[str, Array], axes: BatchAxes, counts: Sequence[int], num_rows: int
) -> list[dict[str, Array]]:
    """Split a batch's outputs into those of its parts, as views.

    Args:
        outputs: the outputs of one run. An output's length may be a multiple of the rows; each row has as many entries.
        axes: the batch axes of the graph.
        counts: rows of each part, in their order in the batch.
        num_rows: rows of the run, including padding; rows beyond those in `counts` are dropped.

    Raises:
        InvalidRequest: the length of an output is no multiple of the number of rows.
    """
    if len(counts) == 1 and counts[0] == num_rows:
        return [dict(outputs)]
    ends = np.cumsum(counts).tolist()
    scales = {name: _entries_per_row(name, outputs[name], axis, num_rows) for name, axis in axes.outputs.items()}
    return [
        {
            name: _slice(outputs[name], axis, (end - count) * scales[name], end * scales[name])
            for name, axis in axes.outputs.items()
        }
        for end, count in zip(ends, counts, strict=True)
    ]


def join_outputs(parts: Sequence[Mapping[str, Array]], axes: BatchAxes) -> dict[str, Array]:
    """Join the outputs of a request's parts, at least one, in row order. A single part is not copied."""
    return _join(parts, axes.outputs)


class RowAssembler:
    """Outputs that are assembled from pieces in any order; each piece is written once to its place."""

    def __init__(self, axes: BatchAxes, num_rows: int) -> None:
        """`num_rows`: rows of all pieces together."""
        self._axes = axes
        self._num_rows = num_rows
        self._whole: dict[str, Array] = {}

    def write(self, outputs: Mapping[str, Array], first: int, num_rows: int, ran_rows: int) -> None:
        """Write the outputs of `num_rows` rows from `first` on, which ran as `ran_rows` rows with padding.

        Raises:
            InvalidRequest: the outputs do not match those of other pieces, or are no multiple of the rows.
        """
        (own,) = split_rows(outputs, self._axes, (num_rows,), ran_rows)
        for name, axis in self._axes.outputs.items():
            part = own[name]
            if axis is None:
                self._whole.setdefault(name, np.array(part))
                continue
            entries = _entries_per_row(name, part, axis, num_rows)
            shape = (*part.shape[:axis], entries * self._num_rows, *part.shape[axis + 1 :])
            whole = self._whole[name] if name in self._whole else np.empty(shape, part.dtype)
            if whole.shape != shape:
                raise InvalidRequest(
                    f"output {name!r} of shape {list(part.shape)} does not fit that of other rows, "
                    f"{list(whole.shape)}; send one row at a time"
                )
            self._whole[name] = whole
            _slice(whole, axis, first * entries, (first + num_rows) * entries)[...] = part

    def outputs(self) -> dict[str, Array]:
        """All outputs, once every piece has been written."""
        return self._whole


def _size(name: str, array: Array, axis: int) -> int:
    try:
        return array.shape[axis]
    except IndexError:
        raise InvalidRequest(f"input {name!r} has shape {array.shape}, but its rows lie along axis {axis}") from None


def _input_signature(array: Array, axis: int | None) -> Hashable:
    shape = array.shape
    if axis is None:
        return array.dtype, shape, tuple(array.ravel().tolist()) if array.dtype.hasobject else _digest(array)
    return array.dtype, (shape[1:] if axis == 0 else (*shape[:axis], None, *shape[axis + 1 :]))


def _digest(array: Array) -> bytes:
    """A cryptographic digest of an array's values. hashlib releases Python's lock meanwhile."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()


def _slice(array: Array, axis: int | None, first: int, last: int) -> Array:
    if axis is None:
        return array
    return array[first:last] if axis == 0 else array[(slice(None),) * axis + (slice(first, last),)]


def _join(parts: Sequence[Mapping[str, Array]], axes: Mapping[str, int | None]) -> dict[str, Array]:
    first = parts[0]
    if len(parts) == 1:
        return dict(first)
    return {
        name: first[name] if axis is None else np.concatenate([part[name] for part in parts], axis)
        for name, axis in axes.items()
    }


def _pad(array: Array, axis: int | None, num_rows: int) -> Array:
    if axis is None or array.shape[axis] >= num_rows:
        return array
    last_row = _slice(array, axis, array.shape[axis] - 1, array.shape[axis])
    return np.concatenate([array, np.repeat(last_row, num_rows - array.shape[axis], axis)], axis)


def _entries_per_row(name: str, array: Array, axis: int | None, num_rows: int) -> int:
    if axis is None:
        return 1
    length = array.shape[axis] if axis < array.ndim else 0
    if length % num_rows or not length:
        raise InvalidRequest(
            f"output {name!r} of shape {array.shape} cannot be cut into the {num_rows} rows of the batch; "
            "send one row at a time"
        )
    return length // num_rows
