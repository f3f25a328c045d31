"""Checks whether arrays fit a graph's inputs, and says what it expects if they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy the names of the smaller floats)
import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import InvalidRequest
from shoal.protocol.stage_interface import TensorSpec


def check_inputs(
    specs: Sequence[TensorSpec],
    tensors: Mapping[str, Array],
    *,
    defaults: Mapping[str, Array] | None = None,
    batch: BatchAxes | None = None,
    convert: bool,
) -> dict[str, Array]:
    """The tensors in the graph's order, contiguous, each of the type and shape that the graph expects.

    Args:
        specs: the graph's inputs.
        tensors: what was given.
        defaults: of inputs that may be left out; None: all must be given.
        batch: the axes of rows, along which any size is accepted even if the graph fixes it (rows are then computed in
            groups of that size). None: all fixed sizes must match.
        convert: accept other types if no value changes (integers) or values are only rounded (floats).

    Raises:
        InvalidRequest: `param` names the input; the message says what was expected.
    """
    names = [spec.name for spec in specs]
    for name in tensors:
        if name not in names:
            close = get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(map(repr, names)) or 'none'}"
            raise InvalidRequest(f"the model has no input {name!r}; {hint}", name)
    sizes: dict[str, tuple[int, str]] = {}
    checked: dict[str, Array] = {}
    for spec in specs:
        if spec.name not in tensors and defaults is not None and spec.name in defaults:
            checked[spec.name] = defaults[spec.name]
            continue
        if spec.name not in tensors:
            raise InvalidRequest(f"input {spec.name!r} is missing: expected {expected(spec)}", spec.name)
        array = _typed(spec, np.asarray(tensors[spec.name]), convert=convert)
        _check_shape(spec, array, batch, sizes)
        checked[spec.name] = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return checked


def expected(spec: TensorSpec) -> str:
    """The expected type and shape, such as `float32 of shape [N, 3, 224, 224]`."""
    if spec.shape is None:
        return f"{spec.dtype} of any shape"
    return f"{spec.dtype} of shape [{', '.join('any' if dim is None else str(dim) for dim in spec.shape)}]"


def _typed(spec: TensorSpec, array: Array, *, convert: bool) -> Array:
    if spec.dtype == "string":
        if array.dtype.kind in "USO":
            return _texts(spec, array)
    else:
        wanted = np.dtype(spec.dtype)
        if array.dtype == wanted:
            return array
        if array.dtype.newbyteorder("=") == wanted:
            return array.astype(wanted)
        if convert and (converted := _converted(array, wanted)) is not None:
            return converted
    raise InvalidRequest(f"input {spec.name!r} is {array.dtype.name}: expected {expected(spec)}", spec.name)


def _texts(spec: TensorSpec, array: Array) -> Array:
    """An array of `str`; bytes are UTF-8."""
    items = array.astype(object).ravel().tolist()
    if all(type(item) is str for item in items):
        return array.astype(object, copy=False)
    texts = np.empty(len(items), dtype=object)
    try:
        texts[:] = [item.decode() if isinstance(item, bytes) else item for item in items]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input {spec.name!r} holds text that is not UTF-8 ({error.reason})", spec.name) from None
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise InvalidRequest(f"input {spec.name!r} holds {wrong!r}: expected {expected(spec)}", spec.name)
    return texts.reshape(array.shape)


def _converted(array: Array, wanted: np.dtype[Any]) -> Array | None:
    """The same numbers in another type: floats may be rounded, whole numbers must all fit. None if they do not."""
    if array.dtype.kind not in "biuf" or wanted.kind == "b" or wanted.kind == "c":
        return None
    is_float = wanted.kind not in "biu"
    if not is_float and array.dtype.kind == "f":
        return None
    with np.errstate(over="ignore"):
        converted = array.astype(wanted)
    return converted if is_float or np.array_equal(converted, array) else None


def _check_shape(spec: TensorSpec, array: Array, batch: BatchAxes | None, sizes: dict[str, tuple[int, str]]) -> None:
    """`sizes`: for each symbolic dimension, the size seen so far and the input that had it. Mutates: `sizes`."""
    batch_axis = None if batch is None else batch.inputs.get(spec.name)
    if spec.shape is None:
        return
    if array.ndim != len(spec.shape):
        raise InvalidRequest(
            f"input {spec.name!r} has {array.ndim} dimensions {list(array.shape)}: expected {expected(spec)}", spec.name
        )
    for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(dim, int):
            if size != dim and axis != batch_axis:
                raise InvalidRequest(
                    f"input {spec.name!r} has shape {list(array.shape)}: expected {expected(spec)}", spec.name
                )
        elif dim is not None:
            seen, where = sizes.setdefault(dim, (size, spec.name))
            if seen != size:
                raise InvalidRequest(
                    f"inputs {where!r} and {spec.name!r} must agree in {dim!r}, but it is {seen} in one and {size} in "
                    "the other",
                    spec.name,
                )
