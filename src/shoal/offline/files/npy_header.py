"""The header of a .npy file, and the places of rows along an axis in the file.

Source: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays" (numpy.lib.format).
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import psutil

from shoal.arrays import Array
from shoal.errors import InvalidRequest

Shape = tuple[int, ...]
_MAX_EXTENT_BYTES = 1 << 63
"""The most bytes of an array in NumPy."""
_MAX_RANK = 64
"""The most dimensions. Source: NumPy 2 refuses arrays of more."""
_TEXT_BYTES = 64
"""Bytes of a str object besides its characters. Source: sys.getsizeof of a short str, plus its place in the array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NpyHeader:
    """The layout of one array in a file."""

    shape: Shape
    dtype: np.dtype[Any]
    is_fortran: bool
    """Whether the array is stored in Fortran order."""
    data_offset: int
    """Bytes before the first value."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all values, without the header."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Contiguous bytes of a range of rows in a file."""

    lane: int
    """The index among the successive parts of the file within which rows ascend."""
    offset: int
    num_bytes: int


def read_header(file: IO[bytes], name: str, file_bytes: int) -> NpyHeader:
    """Read the header of a .npy file that is open at its start and has `file_bytes` bytes.

    Raises:
        InvalidRequest: the file is no .npy file, is truncated, or contains Python objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise InvalidRequest(f"{name} is a .npy file of version {version[0]}.{version[1]}, which is for records")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    except (InvalidRequest, OSError, RuntimeError, zlib.error, zipfile.BadZipFile):
        raise
    except Exception as error:  # the header is a Python expression, whose reader raises all kinds of errors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidRequest(f"{name} is not a .npy file: {reason}") from None
    if dtype.hasobject or dtype.names:
        kind = "Python objects" if dtype.hasobject else "records"
        raise InvalidRequest(f"{name} holds {kind}; save plain numbers or strings (astype) instead")
    is_whole = all(type(length) is int and length >= 0 for length in shape)
    extent = math.prod(max(1, length) for length in shape if is_whole) * dtype.itemsize  # also if a length is 0
    if len(shape) > _MAX_RANK or not is_whole or not 0 < extent < _MAX_EXTENT_BYTES:
        raise InvalidRequest(f"{name} has the impossible shape {shape} of {dtype}")
    header = NpyHeader(shape=shape, dtype=dtype, is_fortran=is_fortran, data_offset=file.tell())
    if file_bytes < header.data_offset + header.num_bytes:
        missing = header.data_offset + header.num_bytes - file_bytes
        raise InvalidRequest(f"{name} is cut short: {missing} bytes of its {shape} {dtype} array are missing")
    return header


def check_room(name: str, header: NpyHeader, num_rows: int | None = None, axis: int = 0) -> None:
    """Check that an array fits into free memory before any is allocated, since a header may claim any size.

    Args:
        name: the name for the message.
        header: the header of the array.
        num_rows: the number of rows to read; None: the whole array.
        axis: the axis of the rows.

    Raises:
        InvalidRequest: the array does not fit.
    """
    shape = header.shape if num_rows is None else (*header.shape[:axis], num_rows, *header.shape[axis + 1 :])
    count = math.prod(shape)
    needed = count * header.dtype.itemsize + (count * _TEXT_BYTES if header.dtype.kind in "SU" else 0)
    if needed > (free := psutil.virtual_memory().available):
        raise InvalidRequest(f"{name} of shape {shape} takes {needed / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free")


def row_spans(header: NpyHeader, axis: int, first: int, last: int) -> Iterator[Span]:
    """The bytes of the rows first:last along `axis`, in the order of the file."""
    shape, axis = _file_order(header, axis)
    row_bytes = math.prod(shape[axis + 1 :]) * header.dtype.itemsize
    for lane in range(math.prod(shape[:axis])):
        start = header.data_offset + (lane * shape[axis] + first) * row_bytes
        yield Span(lane=lane, offset=start, num_bytes=(last - first) * row_bytes)


def num_lanes(header: NpyHeader, axis: int) -> int:
    """The number of contiguous spans of a range of rows in the file."""
    shape, axis = _file_order(header, axis)
    return math.prod(shape[:axis])


def empty_rows(header: NpyHeader, axis: int, num_rows: int) -> Array:
    """An uninitialized array for some rows, in the order of the file."""
    shape = (*header.shape[:axis], num_rows, *header.shape[axis + 1 :])
    return np.empty(shape, header.dtype, order="F" if header.is_fortran else "C")


def as_bytes(array: Array) -> memoryview:
    """The memory of a contiguous array in its own order, without a copy."""
    return array.reshape(-1, order="A").view(np.uint8).data if array.nbytes else memoryview(b"")


def _file_order(header: NpyHeader, axis: int) -> tuple[Shape, int]:
    """Shape and axis as they would be in C order."""
    if header.is_fortran:
        return header.shape[::-1], len(header.shape) - 1 - axis
    return header.shape, axis
