"""Tensors as JSON values: flat or nested lists in, flat lists out.

JSON has no NaN and no infinity. Both become `null` in answers, which every parser takes (Triton writes the bare words
`NaN` and `Infinity`, which many refuse); `null` in requests is NaN. Binary tensors carry them exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from shoal.errors import InvalidRequest
from shoal.router.graph_executor import Array
from shoal.server.oip.datatypes import BYTES, dtype_of
from shoal.server.oip.tensor_bytes import num_elements


def array_from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> Array:
    """An input's array.

    Raises:
        InvalidRequest: the values are not what datatype and shape announce.
    """
    count = num_elements(name, shape)
    if not isinstance(data, list):
        raise InvalidRequest(f"input {name!r}: `data` must be a list")
    items = cast(list[Any], data)
    values = _strings(name, items) if datatype == BYTES else _numbers(name, datatype, items)
    if values.ndim > 1 and values.shape != tuple(shape) and values.size:
        raise InvalidRequest(f"input {name!r}: `data` is nested as {list(values.shape)}, but `shape` is {list(shape)}")
    if values.size != count:
        raise InvalidRequest(
            f"input {name!r} has {values.size} values, but a tensor of the shape {list(shape)} has {count}"
        )
    return values.reshape(shape)


def json_of_array(array: Array) -> list[Any]:
    """An output's elements, row-major, as values that `msgspec.json` encodes (NaN and infinity as null)."""
    flat = array.ravel()
    if flat.dtype == object:
        return [item.decode(errors="replace") if isinstance(item, bytes) else item for item in flat.tolist()]
    if flat.dtype.name == "bfloat16":
        flat = flat.astype(np.float32)
    return flat.tolist()


def _strings(name: str, data: list[Any]) -> Array:
    values = np.array(data, dtype=object)
    if not all(isinstance(value, str) for value in values.ravel().tolist()):
        raise InvalidRequest(f"input {name!r}: `data` must hold strings only, equally many in every nested list")
    return values


def _numbers(name: str, datatype: str, data: list[Any]) -> Array:
    dtype = dtype_of(datatype, name)
    try:
        found = np.array(data)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"input {name!r}: nested lists of `data` must be equally long") from error
    if found.dtype.kind in _ACCEPTED_KINDS[dtype.kind] or not found.size:
        return _cast(name, datatype, found, dtype)
    if dtype.kind in "iu" and found.dtype.kind in "fO":
        return _cast(name, datatype, _whole_numbers(name, datatype, data), dtype)
    if dtype.kind in "fV" and found.dtype.kind == "O":
        return _cast(name, datatype, _floats_or_nulls(name, datatype, found), dtype)
    raise _not_of_type(name, datatype)


_ACCEPTED_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "fiu", "V": "fiu"}
"""Kinds of JSON values by kind of tensor, in NumPy's letters; V is what ml_dtypes' bfloat16 calls itself."""


def _whole_numbers(name: str, datatype: str, data: list[Any]) -> Array:
    """Integers that NumPy found no common type for: small ones beside some of 64 bits without a sign."""
    values = np.array(data, dtype=object)
    if not all(isinstance(value, int) for value in values.ravel().tolist()):
        raise _not_of_type(name, datatype)
    return values


def _floats_or_nulls(name: str, datatype: str, found: Array) -> Array:
    if not all(value is None or isinstance(value, int | float) for value in found.ravel().tolist()):
        raise _not_of_type(name, datatype)
    return found.astype(np.float64)


def _cast(name: str, datatype: str, found: Array, dtype: np.dtype) -> Array:
    if dtype.kind in "iu" and found.size:
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise InvalidRequest(f"input {name!r} holds a value outside of {datatype}: {limits.min} to {limits.max}")
    with np.errstate(over="ignore"):  # too large for a float type is infinite in it
        return found.astype(dtype)


def _not_of_type(name: str, datatype: str) -> InvalidRequest:
    return InvalidRequest(f"input {name!r}: `data` holds values that are not {datatype}")
