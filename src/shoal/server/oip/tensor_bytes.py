"""Tensors as raw bytes: REST's binary tensor extension and gRPC's raw contents.

Elements are row-major and little-endian, as in memory. A BYTES element is its length in 4 bytes, followed by its bytes.
Source: Triton, "Binary Tensor Data Extension".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.server.oip.datatypes import BYTES, dtype_of

_LENGTH = struct.Struct("<I")

MAX_RANK = 32
"""Source: NumPy 1's limit; no operator of ONNX needs more than 8."""
MAX_ELEMENTS = 1 << 40
"""Limit for the product of all sizes except 0: more than any memory holds, and far below overflows in NumPy's
arithmetic."""
MAX_STRINGS = 1 << 16
MAX_STRING_BYTES = 8 << 20
"""Limits for the strings of a tensor and their bytes. Each string is an object that is checked and packed
separately."""


def num_elements(name: str, shape: Sequence[int]) -> int:
    """Elements of a tensor of this shape. Raises InvalidRequest for an impossible shape."""
    if len(shape) > MAX_RANK:
        raise InvalidRequest(f"input {name!r} has {len(shape)} dimensions, but at most {MAX_RANK} are allowed")
    if shape and min(shape) < 0:
        raise InvalidRequest(f"input {name!r} has the shape {list(shape)}: no size may be negative")
    if math.prod(size for size in shape if size) > MAX_ELEMENTS:
        raise InvalidRequest(f"input {name!r} has a shape of more than {MAX_ELEMENTS} elements")
    return math.prod(shape)


def check_strings(name: str, count: int, num_bytes: int) -> None:
    """Raises InvalidRequest for a tensor with too many strings, or too many bytes of strings."""
    if count > MAX_STRINGS:
        raise InvalidRequest(f"input {name!r} has {count} strings, but at most {MAX_STRINGS} are allowed in a request")
    if num_bytes > MAX_STRING_BYTES:
        raise InvalidRequest(
            f"input {name!r} has {num_bytes} bytes of strings, but at most {MAX_STRING_BYTES} are allowed"
        )


def array_from_bytes(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Array:
    """An input's array. Elements of fixed size are not copied if they are aligned; the array is then read-only.

    Raises:
        InvalidRequest: the bytes do not match datatype and shape.
    """
    count = num_elements(name, shape)
    if datatype == BYTES:
        return _strings(name, count, raw).reshape(shape)
    dtype = dtype_of(datatype, name)
    if len(raw) != count * dtype.itemsize:
        raise InvalidRequest(
            f"input {name!r} has {len(raw)} bytes of data, but {datatype} of the shape {list(shape)} takes "
            f"{count * dtype.itemsize}"
        )
    if datatype == "BOOL":  # any byte except 0 is true, but only 1 may be in memory
        return (np.frombuffer(raw, np.uint8) != 0).reshape(shape)
    array = np.frombuffer(raw, dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def bytes_of_array(array: Array) -> bytes | memoryview:
    """An output's elements, without a copy if possible. Valid until: the array is written to."""
    if array.dtype == object:
        return b"".join(_string_pieces(array))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def text_of_element(name: str, element: bytes) -> str:
    """One string of an input. Raises InvalidRequest if it is not UTF-8, which ONNX requires."""
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input {name!r} holds a string that is not UTF-8: {error.reason}") from error


def _strings(name: str, count: int, raw: bytes | memoryview) -> Array:
    check_strings(name, count, len(raw))
    if count * _LENGTH.size > len(raw):
        raise InvalidRequest(f"input {name!r} has {len(raw)} bytes of data, but its shape takes {count} strings")
    array = np.empty(count, dtype=object)
    num_found = 0
    for element in _elements(name, bytes(raw)):
        if num_found == count:
            raise InvalidRequest(f"input {name!r} has more strings than its shape takes, {count}")
        array[num_found] = text_of_element(name, element)
        num_found += 1
    if num_found != count:
        raise InvalidRequest(f"input {name!r} has {num_found} strings, but its shape takes {count}")
    return array


def _elements(name: str, raw: bytes) -> Iterator[bytes]:
    first = 0
    while first < len(raw):
        start = first + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, first)[0] if start <= len(raw) else start
        if end > len(raw):
            raise InvalidRequest(f"input {name!r}: a string's announced length goes past the end of the data")
        yield raw[start:end]
        first = end


def _string_pieces(array: Array) -> Iterator[bytes]:
    for element in array.ravel().tolist():
        encoded = element if isinstance(element, bytes) else str(element).encode()
        yield _LENGTH.pack(len(encoded))
        yield encoded
