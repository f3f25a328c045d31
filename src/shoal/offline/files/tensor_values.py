"""Conversion between arrays in files and tensors of a graph: byte order, text, and floats unknown to NumPy's format."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.protocol.stage_interface import TensorSpec

_ML_DTYPES = ml_dtypes.__name__
"""Importing ml_dtypes registers the names `bfloat16` and so on with NumPy."""


def as_tensor(array: Array, spec: TensorSpec) -> Array:
    """Convert an array from a file to a tensor: text to objects, native byte order, bare bytes to their float type.

    Raises:
        InvalidRequest: bytes are not UTF-8.
    """
    match array.dtype.kind:
        case "U":
            return array.astype(object)
        case "S":
            try:
                return np.char.decode(array, "utf-8").astype(object)
            except UnicodeDecodeError as error:
                raise InvalidRequest(f"input {spec.name} holds bytes that are not UTF-8 text: {error}") from None
        case "V" if spec.dtype != "string" and array.dtype.itemsize == np.dtype(spec.dtype).itemsize:
            return array.view(spec.dtype)
        case _:
            return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_stored(array: Array) -> Array:
    """Convert a tensor for a file: text becomes fixed-width strings, the only kind in .npy files without pickle."""
    if array.dtype != object:
        return array
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel()]
    return np.array(texts, dtype=np.str_).reshape(array.shape)
