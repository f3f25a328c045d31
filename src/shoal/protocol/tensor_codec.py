"""Encoding of graph messages and tensors. Tensors usually lie in memory that both sides map."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.arrays import Array
from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.protocol.graph_messages import Envelope, TensorRef

_LENGTH = struct.Struct("<I")
_NUMBERS = "biufc"
"""NumPy's kinds of types that can be sent, besides ml_dtypes' types and strings."""
_MAX_RANK = 64
"""The most dimensions. Source: NumPy 2 refuses arrays of more."""
_MAX_ELEMENTS = 1 << 40
"""The largest product of the sizes other than 0, far from an overflow in NumPy's arithmetic, also for empty arrays."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode_envelope(envelope: Envelope) -> bytes:
    """Encode an envelope as a frame. Raises LocalProtocolError if a value does not fit the wire format."""
    try:
        return _encoder.encode(envelope)
    except (msgspec.MsgspecError, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"cannot encode {type(envelope.message).__name__}: {error}") from error


def decode_envelope(frame: bytes | bytearray | memoryview) -> Envelope:
    """Decode a frame. Raises RemoteProtocolError if it is malformed."""
    try:
        return _decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"malformed message: {error}") from error


def to_bytes(array: Array) -> npt.NDArray[np.uint8]:
    """An array's bytes, flat; copied only if it is not contiguous. Strings: u32 length and UTF-8, one after the
    other."""
    if array.dtype == object:
        return np.frombuffer(_pack_strings(array.ravel().tolist()), np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def dtype_name(array: Array) -> str:
    """The name of an array's dtype in messages and in a TensorSpec."""
    return "string" if array.dtype == object else array.dtype.name


def from_bytes(data: memoryview, ref: TensorRef) -> Array:
    """The array that `ref` describes, read in place; strings are decoded. Raises RemoteProtocolError if it is
    malformed."""
    too_large = math.prod(size for size in ref.shape if size) > _MAX_ELEMENTS
    if len(ref.shape) > _MAX_RANK or min(ref.shape, default=0) < 0 or too_large:
        raise RemoteProtocolError(f"tensor {ref.name!r} has the impossible shape {ref.shape}")
    count = int(np.prod(ref.shape, dtype=object))
    if ref.dtype == "string":
        return _unpack_strings(data, count, ref)
    dtype = _dtype_named(ref.dtype)
    if count * dtype.itemsize != len(data):
        raise RemoteProtocolError(f"tensor {ref.name!r} of shape {ref.shape} came with {len(data)} bytes")
    return np.frombuffer(data, dtype, count).reshape(ref.shape)


def _dtype_named(name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    return _small_dtype(name, dtype) if dtype is None or dtype.kind not in _NUMBERS else dtype


def _small_dtype(name: str, known: np.dtype[Any] | None) -> np.dtype[Any]:
    """One of ml_dtypes' types, which few processes need. `known`: NumPy's own type of this name, if any."""
    import ml_dtypes

    small = getattr(ml_dtypes, name, None)
    if not isinstance(small, type):
        why = f"no such tensor type: {name!r}" if known is None else f"tensors of type {name!r} do not travel"
        raise RemoteProtocolError(why)
    dtype = np.dtype(small)
    if dtype.hasobject or not dtype.itemsize:
        raise RemoteProtocolError(f"tensors of type {name!r} do not travel")
    return dtype


def _pack_strings(values: Iterable[str | bytes]) -> bytes:
    parts: list[bytes] = []
    for value in values:
        data = value if isinstance(value, bytes) else value.encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _unpack_strings(data: memoryview, count: int, ref: TensorRef) -> Array:
    values: list[str] = []
    position = 0
    try:
        while position < len(data):
            (length,) = _LENGTH.unpack_from(data, position)
            position += _LENGTH.size + length
            values.append(str(data[position - length : position], "utf-8"))
    except (struct.error, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"tensor {ref.name!r} holds broken strings: {error}") from error
    if len(values) != count or position != len(data):
        raise RemoteProtocolError(f"tensor {ref.name!r} of shape {ref.shape} came with {len(values)} strings")
    strings = np.empty(count, dtype=object)
    strings[:] = cast("list[Any]", values)
    return strings.reshape(ref.shape)
