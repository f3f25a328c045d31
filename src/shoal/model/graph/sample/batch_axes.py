"""The axis along which each input and output holds independent rows: guessed from the file, then measured.

A wrong guess would mix the rows of different requests. So it counts only after runs of 1, 2 and 3 rows have shown that
outputs grow with the inputs and that each row's result is the same alone and in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import ml_dtypes
import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest
from shoal.model.graph.file.value_types import is_exact
from shoal.model.graph.sample.sample_inputs import Run
from shoal.protocol.stage_interface import TensorSpec

_ROWS = 3
_RELATIVE_TOLERANCE = 1e-3
"""Relative to the output's largest value: far above rounding differences between kernels for different numbers of rows,
far below the difference in a row that sees its neighbors."""
_NAMED_TOLERANCE = 0.1
"""The tolerance if the user says that there is a batch. Graphs that choose the scale of their integers for each batch
as a whole (ONNX Runtime's dynamic quantization) let rows influence each other by a few percent; rows that read each
other differ more."""


def guess_axes(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], named: Mapping[str, int | None]
) -> BatchAxes:
    """The axes that the user gave and, for the rest, those that the file suggests.

    The batch is the symbol with "batch" in its name, wherever it stands. Inputs without it have the batch in their
    first dimension if that is open. If none is open, the batch is the size that all first dimensions share.

    Args:
        inputs: of the graph.
        outputs: of the graph.
        named: axes that the user gave, by name; negative ones count from the end; None: an input without rows.

    Raises:
        ConfigError: the graph has no input or output of this name, or the tensor has no such axis.
    """
    given = {name: _checked_axis(name, axis, (*inputs, *outputs)) for name, axis in named.items()}
    for spec in outputs:
        if given.get(spec.name, 0) is None:
            raise ConfigError(
                f"--batch-dim {spec.name}=none: an output of a batch has rows; give none alone if there is no batch"
            )
    required = [spec for spec in inputs if not spec.is_optional]  # defaults are the same for all rows
    symbols = _batch_symbols(required)
    axes = {spec.name: given[spec.name] if spec.name in given else _guess_axis(spec, symbols) for spec in inputs}
    rows: int | None = None
    if not any(_is_open(spec, axes[spec.name]) for spec in inputs):
        first = {spec.name: given.get(spec.name, 0) for spec in required if spec.shape}
        sizes = {spec.shape[axis] for spec in required if spec.shape and (axis := first[spec.name]) is not None}
        rows = next((size for size in sizes if isinstance(size, int)), None) if len(sizes) == 1 else None
        axes = {spec.name: given.get(spec.name, first.get(spec.name) if rows else None) for spec in inputs}
    return BatchAxes(inputs=axes, outputs={spec.name: given.get(spec.name, 0) for spec in outputs}, rows=rows)


def no_batch(axes: BatchAxes) -> BatchAxes:
    """The same inputs and outputs without a batch, so that each request runs alone."""
    return BatchAxes(inputs=dict.fromkeys(axes.inputs), outputs=dict.fromkeys(axes.outputs), rows=None)


def measure_axes(guess: BatchAxes, named: Mapping[str, int], run: Run, sample: Mapping[str, Array]) -> BatchAxes:
    """Correct and confirm the guess by running the graph.

    Args:
        guess: from `guess_axes`.
        named: axes that the user gave: those of outputs are not searched for, and rows may influence each other
            slightly.
        run: the graph.
        sample: inputs for the run.

    Raises:
        NoBatch: the guess does not hold.
    """
    if all(axis is None for axis in guess.inputs.values()):
        raise NoBatch("no input has rows")
    measure = _measure_fixed if guess.rows else _measure_open
    try:
        return measure(guess, named, run, sample)
    except InvalidRequest as error:
        raise NoBatch(str(error)) from error


def take(inputs: Mapping[str, Array], axes: BatchAxes, rows: Sequence[int]) -> dict[str, Array]:
    """These rows of every batched input, and the other inputs unchanged."""
    return {
        name: array if (axis := axes.inputs.get(name)) is None else np.take(array, rows, axis=axis)
        for name, array in inputs.items()
    }


def vary_rows(sample: Mapping[str, Array], axes: BatchAxes, num_rows: int) -> dict[str, Array]:
    """`num_rows` different rows made from the sample's: floats are scaled, whole numbers reordered."""
    return {
        name: array if (axis := axes.inputs.get(name)) is None else _vary(array, axis, num_rows)
        for name, array in sample.items()
    }


class NoBatch(Exception):
    """The guess does not hold; the message says why."""


def _measure_open(guess: BatchAxes, named: Mapping[str, int], run: Run, sample: Mapping[str, Array]) -> BatchAxes:
    varied = _varied(sample, guess)
    together = {rows: run(take(varied, guess, range(rows))) for rows in (_ROWS - 1, _ROWS)}
    outputs = {
        name: _named_axis(name, named[name], together[_ROWS][name]) if name in named else _growing_axis(together, name)
        for name in guess.outputs
    }
    alone = [run(take(varied, guess, [row])) for row in range(_ROWS)]
    for name, axis in outputs.items():
        joined = np.concatenate([one[name] for one in alone], axis=axis)
        _check_close(name, joined, together[_ROWS][name], named)
    return BatchAxes(inputs=guess.inputs, outputs=outputs, rows=None)


def _measure_fixed(guess: BatchAxes, named: Mapping[str, int], run: Run, sample: Mapping[str, Array]) -> BatchAxes:
    """For a fixed number of rows: a row must give the same in a batch of nothing but its copies as among other rows."""
    assert guess.rows is not None
    varied = _varied(sample, guess)
    straight = run(varied)
    outputs = {
        name: _named_axis(name, named[name], straight[name])
        if name in named
        else _axis_of_size(straight, name, guess.rows)
        for name in guess.outputs
    }
    for row in {0, guess.rows - 1} if guess.rows > 1 else ():
        copies = [row] * guess.rows
        alone = run(take(varied, guess, copies))
        for name, axis in outputs.items():
            _check_close(name, np.take(straight[name], copies, axis), alone[name], named)
    return BatchAxes(inputs=guess.inputs, outputs=outputs, rows=guess.rows)


def _varied(sample: Mapping[str, Array], axes: BatchAxes) -> dict[str, Array]:
    """_ROWS different rows, or the fixed number of them."""
    num_rows = axes.rows or _ROWS
    for name, axis in axes.inputs.items():
        if axis is not None:
            _named_axis(name, axis, sample[name])
    return {
        name: array if (axis := axes.inputs[name]) is None else _vary(array, axis, num_rows)
        for name, array in sample.items()
    }


def _vary(array: Array, axis: int, num_rows: int) -> Array:
    """Rows whose values are shifted and, for floats, scaled, so that no normalization makes them equal again."""
    rows: list[Array] = []
    for row in range(num_rows):
        one = np.take(array, [row % array.shape[axis]], axis=axis)
        one = np.roll(one.reshape(-1), row).reshape(one.shape)
        rows.append((one * (1 + row / 8)).astype(one.dtype) if one.dtype.kind in "fV" else one)
    return np.concatenate(rows, axis=axis)


def _named_axis(name: str, axis: int, array: Array) -> int:
    if not -array.ndim <= axis < array.ndim:
        raise NoBatch(f"{name!r} has shape {list(array.shape)}")
    return axis % array.ndim


def _growing_axis(together: Mapping[int, Mapping[str, Array]], name: str) -> int:
    """The one axis along which the output has k entries for each row of the input."""
    small, large = (together[rows][name].shape for rows in (_ROWS - 1, _ROWS))
    grown = [axis for axis, sizes in enumerate(zip(small, large, strict=False)) if sizes[0] != sizes[1]]
    if len(small) != len(large) or len(grown) != 1 or small[grown[0]] * _ROWS != large[grown[0]] * (_ROWS - 1):
        raise NoBatch(f"output {name!r} has shape {list(small)} for {_ROWS - 1} rows and {list(large)} for {_ROWS}")
    return grown[0]


def _axis_of_size(outputs: Mapping[str, Array], name: str, rows: int) -> int:
    """The first axis if it has this size, otherwise the only one that has."""
    shape = outputs[name].shape
    found = [axis for axis, size in enumerate(shape) if size == rows]
    if not found or (len(found) > 1 and found[0] != 0):
        raise NoBatch(f"output {name!r} has shape {list(shape)} for {rows} {'row' if rows == 1 else 'rows'}")
    return found[0]


def _check_close(name: str, one: Array, other: Array, named: Mapping[str, int]) -> None:
    """Raises NoBatch if the output depends on the other rows of the batch."""
    if one.shape != other.shape:
        raise NoBatch(f"output {name!r} has shape {list(one.shape)} alone and {list(other.shape)} in a batch")
    if is_exact(one.dtype):
        is_close = np.array_equal(one, other)
    else:
        a, b = one.astype(np.complex128), other.astype(np.complex128)
        scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        tolerance = max(_NAMED_TOLERANCE if named else _RELATIVE_TOLERANCE, 4 * _epsilon(one.dtype))
        is_close = np.allclose(a, b, rtol=0.0, atol=tolerance * scale, equal_nan=True)
    if not is_close:
        raise NoBatch(f"rows of output {name!r} depend on the other rows of their batch")


def _epsilon(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def _batch_symbols(inputs: Sequence[TensorSpec]) -> set[str]:
    """Names of the batch: those that contain "batch", otherwise the names of all first dimensions."""
    symbols = {dim for spec in inputs for dim in spec.shape or () if isinstance(dim, str)}
    said = {symbol for symbol in symbols if "batch" in symbol.lower()}
    return said or {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}


def _guess_axis(spec: TensorSpec, symbols: set[str]) -> int | None:
    """The axis of the batch's symbol, otherwise the first dimension if it is open."""
    if not spec.shape or spec.is_optional:
        return None
    said = next((axis for axis, dim in enumerate(spec.shape) if dim in symbols), None)
    return 0 if said is None and not isinstance(spec.shape[0], int) else said


def _is_open(spec: TensorSpec, axis: int | None) -> bool:
    return axis is not None and (spec.shape is None or not isinstance(spec.shape[axis], int))


def _checked_axis(name: str, axis: int | None, specs: Sequence[TensorSpec]) -> int | None:
    spec = next((spec for spec in specs if spec.name == name), None)
    if spec is None:
        names = [spec.name for spec in specs]
        close = get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names)}"
        raise ConfigError(f"--batch-dim {name}: the model has no input or output {name!r}; {hint}")
    rank = len(spec.shape) if spec.shape is not None else None
    if rank is None or axis is None:
        return axis
    if not -rank <= axis < rank:
        raise ConfigError(
            f"--batch-dim {name}={axis}: {name!r} has {rank} dimensions; give an axis from 0 to {rank - 1}"
        )
    return axis % rank
