"""NumPy arrays and ONNX Runtime's values, which may be the same memory."""

from __future__ import annotations

import ctypes
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy the names of bfloat16 and the smaller floats
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from shoal.model.graph.value_types import ELEMENT_TYPES, dtype_of_element

Array = npt.NDArray[Any]

NUMPY_KINDS = frozenset(
    {"bool", "float16", "float32", "float64", "string"}
    | {f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Types that the binding takes from NumPy and gives to it; others travel as typed bytes."""


def to_value(array: Array, dtype: str) -> ort.OrtValue:
    """The array as a value of the type that Shoal calls `dtype`. Valid until: the array changes, unless strings."""
    if dtype in NUMPY_KINDS:
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), ELEMENT_TYPES[dtype])


def to_array(value: ort.OrtValue, dtype: str) -> Array:
    """The value as an array of its own."""
    if dtype in NUMPY_KINDS:
        return value.numpy()
    buffer = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())  # NumPy cannot be given the type itself
    return np.frombuffer(bytearray(buffer), np.dtype(dtype)).reshape(value.shape())


def as_array(value: ort.OrtValue) -> Array:
    """The value's own memory as an array, writable; a copy where it holds strings."""
    dtype = dtype_of_element(value.element_type())
    if dtype == "string":
        return value.numpy()
    raw = np.asarray(_Memory(value))
    return raw.view(np.dtype(dtype)).reshape(value.shape())


class _Memory:
    """The bytes of a value, which stays alive as long as an array looks at them."""

    def __init__(self, value: ort.OrtValue) -> None:
        self._value = value
        shape = (value.tensor_size_in_bytes(),)
        self.__array_interface__ = {"data": (value.data_ptr(), False), "shape": shape, "typestr": "|u1", "version": 3}
