"""The protocol's names of element types, and NumPy's types for them.

Source: Open Inference Protocol v2, "Tensor Data Types"; BF16 is Triton's addition.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from shoal.arrays import Array
from shoal.errors import InvalidRequest, ModelLoadError
from shoal.inference.seams import GraphLoader, ServableGraph
from shoal.protocol.stage_interface import TensorSpec

BYTES = "BYTES"
"""Strings, the only type whose elements have no fixed size."""

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""NumPy's type for each name except BYTES."""

_DATATYPES_OF_ARRAYS = {dtype: datatype for datatype, dtype in DTYPES.items()} | {np.dtype(object): BYTES}
_DATATYPES = {str(dtype): datatype for datatype, dtype in DTYPES.items()} | {"string": BYTES}


def datatype_of_spec(spec: TensorSpec) -> str:
    """The protocol's name for a graph's tensor. Raises ModelLoadError if the protocol has none."""
    datatype = _DATATYPES.get(spec.dtype)
    if datatype is None:
        raise ModelLoadError(
            f"{spec.name!r} has elements of type {spec.dtype}, for which the Open Inference Protocol has no name: "
            "use `shoal run` or `shoal map` for this model"
        )
    return datatype


def datatype_of_array(array: Array) -> str:
    """The protocol's name for an array's elements."""
    return _DATATYPES_OF_ARRAYS[array.dtype]


def nameable(array: Array) -> Array | None:
    """The same elements in a form that the protocol can name: strings as objects, numbers in this machine's byte order.
    None: it has no name for them."""
    native = array.astype(object if array.dtype.kind in "SU" else array.dtype.newbyteorder("="), copy=False)
    if native.dtype == object and not all(isinstance(item, str | bytes) for item in native.ravel().tolist()):
        return None
    return native if native.dtype in _DATATYPES_OF_ARRAYS else None


def dtype_of(datatype: str, tensor_name: str) -> np.dtype:
    """NumPy's type for a name other than BYTES. Raises InvalidRequest."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        known = ", ".join((*DTYPES, BYTES))
        raise InvalidRequest(f"input {tensor_name!r} has the unknown datatype {datatype!r}: use one of {known}")
    return dtype


def loads_named(load: GraphLoader) -> GraphLoader:
    """A loader that also raises ModelLoadError if the protocol cannot name a type of the inputs or outputs."""

    def load_checked(path: Path) -> ServableGraph:
        loaded = load(path)
        try:
            for spec in (*loaded.plan.inputs, *loaded.plan.outputs):
                datatype_of_spec(spec)
        except ModelLoadError:
            loaded.close()
            raise
        return loaded

    return load_checked
