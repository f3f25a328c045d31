"""Tensors as JSON: flat or nested lists are read, flat lists are written.

Large ones are read and written in pieces, because converting between lists of Python objects and arrays holds Python's
lock.

JSON has neither NaN nor infinity. Both become `null` in answers, which every parser accepts (Triton writes the bare
words `NaN` and `Infinity`, which many refuse); `null` in requests is NaN. Binary tensors transmit them exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.server.bodies.json_bounds import JsonBounds, check_json
from shoal.server.oip.datatypes import BYTES, dtype_of
from shoal.server.oip.tensor_bytes import MAX_STRINGS, check_strings, num_elements

_PIECE = 1 << 14
"""Elements that are read or written at once: about a millisecond of Python's lock."""
_BLOCK_BYTES = 1 << 20
_STRINGS = JsonBounds(max_items=MAX_STRINGS, max_groups=MAX_STRINGS)
_COMMA = ord(",")
_NO_STRUCTURE = bytes(sorted(set(range(256)) - set(b"[],")))


def array_from_json_text(name: str, datatype: str, shape: Sequence[int], text: memoryview) -> Array:
    """As `array_from_json`, from the text of `data`, which may be large.

    Raises:
        InvalidRequest: the values do not match datatype and shape.
    """
    count = num_elements(name, shape)
    if datatype == BYTES:
        check_json(text, _STRINGS)
        return array_from_json(name, datatype, shape, msgspec.json.decode(text))
    structure = _structure_of(text)
    is_flat = structure == b"[%b]" % (b"," * (min(count, len(text)) - 1))
    if not 0 < count <= len(text) or not (is_flat or _is_nested(structure, shape)):
        raise InvalidRequest(
            f"input {name!r}: `data` must be one flat list of {count} values, or be nested as `shape` is: {list(shape)}"
        )
    array = np.empty(count, dtype_of(datatype, name))
    commas = np.flatnonzero(np.frombuffer(text, np.uint8) == _COMMA)
    ends = [*commas[_PIECE - 1 :: _PIECE].tolist(), len(text)]
    first_byte = first = 0
    for end in ends:
        values = msgspec.json.decode(b"[%b]" % bytes(text[first_byte:end]).translate(None, b"[]"))
        array[first : first + len(values)] = array_from_json(name, datatype, [len(values)], values)
        first_byte, first = end + 1, first + len(values)
    return array.reshape(shape)


def _is_nested(structure: bytes, shape: Sequence[int]) -> bool:
    """Whether these are the brackets and commas of lists that are nested according to a shape."""
    length = 0
    for size in reversed(shape):
        length = 2 + size * length + max(0, size - 1)
    if length != len(structure):  # so that no more is built than was sent
        return False
    text = b""
    for size in reversed(shape):
        text = b"[" + b",".join([text] * size) + b"]"
    return text == structure


def _structure_of(text: memoryview) -> bytes:
    """The brackets and commas of a JSON text without strings."""
    blocks = range(0, len(text), _BLOCK_BYTES)
    return b"".join([bytes(text[first : first + _BLOCK_BYTES]).translate(None, _NO_STRUCTURE) for first in blocks])


def array_from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> Array:
    """Read an input's array from JSON.

    Raises:
        InvalidRequest: the values do not match datatype and shape.
    """
    count = num_elements(name, shape)
    if not isinstance(data, list):
        raise InvalidRequest(f"input {name!r}: `data` must be a list")
    items = cast(list[Any], data)
    try:
        values = _strings(name, items) if datatype == BYTES else _numbers(name, datatype, items)
    except (ValueError, OverflowError, MemoryError) as error:
        raise InvalidRequest(f"input {name!r}: `data` cannot be made an array of {datatype}: {error}") from error
    if values.ndim > 1 and values.shape != tuple(shape) and values.size:
        raise InvalidRequest(f"input {name!r}: `data` is nested as {list(values.shape)}, but `shape` is {list(shape)}")
    if values.size != count:
        raise InvalidRequest(
            f"input {name!r} has {values.size} values, but a tensor of the shape {list(shape)} has {count}"
        )
    return values.reshape(shape)


def json_of_array(array: Array) -> bytes:
    """An output's elements as the text of a flat list, row-major; NaN and infinity are null."""
    flat = array.ravel()
    pieces = [_json_of(flat[first : first + _PIECE])[1:-1] for first in range(0, len(flat), _PIECE)]
    return b"[%b]" % b",".join(pieces)


def _json_of(flat: Array) -> bytes:
    if flat.dtype == object:
        texts = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in flat.tolist()]
        return msgspec.json.encode(texts)
    if flat.dtype.name == "bfloat16":
        flat = flat.astype(np.float32)
    return msgspec.json.encode(flat.tolist())


def _strings(name: str, data: list[Any]) -> Array:
    values = np.array(data, dtype=object)
    texts = values.ravel().tolist()
    if not all(isinstance(value, str) for value in texts):
        raise InvalidRequest(f"input {name!r}: `data` must hold strings only, equally many in every nested list")
    check_strings(name, len(texts), sum(len(text.encode()) for text in texts))
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
"""Accepted kinds of JSON values for each kind of tensor, in NumPy's letters; V is the kind of ml_dtypes' bfloat16."""


def _whole_numbers(name: str, datatype: str, data: list[Any]) -> Array:
    """Integers for which NumPy found no common type: small ones together with unsigned ones of 64 bits."""
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
            raise InvalidRequest(
                f"input {name!r} has a value that does not fit {datatype}: {limits.min} to {limits.max}"
            )
    with np.errstate(over="ignore"):  # values too large for a float type become infinite
        return found.astype(dtype)


def _not_of_type(name: str, datatype: str) -> InvalidRequest:
    return InvalidRequest(f"input {name!r}: `data` contains values that are not {datatype}")
