"""Converts between NumPy arrays and ONNX Runtime's values, which may share memory."""

from __future__ import annotations

import ctypes

import ml_dtypes  # noqa: F401  teaches NumPy the names of bfloat16 and the smaller floats
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.helper import make_opsetid, make_tensor_value_info

from shoal.arrays import Array
from shoal.model.graph.file.value_types import ELEMENT_TYPES, dtype_of_element
from shoal.model.runtime_sessions import session_options, start_session

NUMPY_KINDS = frozenset(
    {"bool", "float16", "float32", "float64", "string"}
    | {f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Types that the binding exchanges with NumPy directly; others are passed as typed bytes."""
_PACKED_KINDS = frozenset({"int4", "uint4", "float4_e2m1fn", "int2", "uint2"})
"""Types of which ONNX Runtime packs several elements into a byte, while NumPy uses a byte for each."""
_TEXT_MODEL_VERSIONS = (8, 17)
"""File format and operator set of the model that makes a value of texts: any version that ONNX Runtime knows."""


def to_value(array: Array, dtype: str) -> ort.OrtValue:
    """The array as a value of the type that Shoal calls `dtype`, with the same rank.

    Valid until: the array changes, unless the value holds texts or several elements a byte.
    """
    if dtype == "string":
        return _text_value(array)
    if dtype in NUMPY_KINDS:
        return ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
    if dtype in _PACKED_KINDS:
        return _packed_value(array, ELEMENT_TYPES[dtype])
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.asarray(array, order="C"), ELEMENT_TYPES[dtype])


def to_array(value: ort.OrtValue, dtype: str) -> Array:
    """A copy of the value as an array."""
    return value.numpy() if dtype in NUMPY_KINDS else as_array(value).copy()


def as_array(value: ort.OrtValue) -> Array:
    """The value's own memory as a writable array; a copy if it holds texts or several elements a byte."""
    element = value.element_type()
    dtype = dtype_of_element(element)
    if dtype == "string":
        return value.numpy()
    raw = np.asarray(_Memory(value))
    if dtype in _PACKED_KINDS:
        tensor = onnx.TensorProto(data_type=element, dims=value.shape(), raw_data=raw.tobytes())
        return numpy_helper.to_array(tensor)
    return raw.view(np.dtype(dtype)).reshape(value.shape())


def _text_value(array: Array) -> ort.OrtValue:
    """Texts as the output of a model that contains them, because the binding makes values of texts in no other way."""
    texts = onnx.TensorProto(name="texts", data_type=onnx.TensorProto.STRING, dims=array.shape)
    texts.string_data.extend(text if isinstance(text, bytes) else str(text).encode() for text in array.ravel().tolist())
    format_version, operator_set = _TEXT_MODEL_VERSIONS
    model = onnx.ModelProto(ir_version=format_version, opset_import=[make_opsetid("", operator_set)])
    output = make_tensor_value_info("texts", onnx.TensorProto.STRING, None)
    model.graph.MergeFrom(onnx.GraphProto(name="texts", initializer=[texts], output=[output]))
    return start_session(model.SerializeToString(), session_options(1)).run_with_ort_values(["texts"], {})[0]


def _packed_value(array: Array, element: int) -> ort.OrtValue:
    value = ort.OrtValue.ortvalue_from_shape_and_type(array.shape, element)
    packed = numpy_helper.from_array(array).raw_data
    ctypes.memmove(value.data_ptr(), packed, len(packed))
    return value


class _Memory:
    """The bytes of a value, which they keep alive as long as an array uses them."""

    def __init__(self, value: ort.OrtValue) -> None:
        self._value = value
        shape = (value.tensor_size_in_bytes(),)
        self.__array_interface__ = {"data": (value.data_ptr(), False), "shape": shape, "typestr": "|u1", "version": 3}
