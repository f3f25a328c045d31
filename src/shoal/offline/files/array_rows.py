"""Reading of some rows of an array in a .npy file or a .npz member, without reading the whole array."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from shoal.arrays import Array
from shoal.errors import InvalidRequest
from shoal.offline.files.npy_header import (
    NpyHeader,
    Span,
    as_bytes,
    check_room,
    empty_rows,
    num_lanes,
    read_header,
    row_spans,
)

_MAX_LANES = 64
"""The most open positions in one member of a .npz file. Each has a decompressor of its own (about 50 KB) that runs
through the member once, so each takes the time of a pass over the input."""


class Bytes(Protocol):
    """The bytes of an array, in a file or in memory."""

    def read_into(self, target: memoryview, lane: int, offset: int) -> int:
        """Read into the front of `target` from `offset` on. Returns the number of bytes, 0 at the end."""
        ...

    def close(self) -> None:
        """Close the file. Idempotent."""
        ...


class FileBytes:
    """The bytes of a plain file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read_into(self, target: memoryview, lane: int, offset: int) -> int:
        """See Bytes."""
        return os.preadv(self._file.fileno(), [target], offset)

    def close(self) -> None:
        """See Bytes."""
        self._file.close()


class MemberBytes:
    """The bytes of a stored or compressed member of a zip file, decompressed while they are read."""

    def __init__(self, archive: zipfile.ZipFile, member: str) -> None:
        self._archive = archive
        self._member = member
        self._lanes: dict[int, Any] = {}

    def read_into(self, target: memoryview, lane: int, offset: int) -> int:
        """See Bytes. Going back in a lane restarts its decompression."""
        if lane not in self._lanes:
            self._lanes[lane] = self._archive.open(self._member)
        stream = self._lanes[lane]
        if stream.tell() != offset:
            stream.seek(offset)
        return stream.readinto(target)

    def close(self) -> None:
        """Close every lane; the archive stays open."""
        for stream in self._lanes.values():
            stream.close()
        self._lanes.clear()


class ArrayRows:
    """Rows of an array in .npy form."""

    def __init__(self, name: str, header: NpyHeader, data: Bytes, axis: int) -> None:
        """`axis`: the axis of the rows. `name`: for messages."""
        self.num_rows = header.shape[axis]
        self._name = name
        self._header = header
        self._data = data
        self._axis = axis

    def read(self, first: int, last: int) -> Array:
        """Read the rows first:last as a new array. Cheap if ranges ascend. Raises InvalidRequest."""
        check_room(self._name, self._header, last - first, self._axis)
        rows = empty_rows(self._header, self._axis, last - first)
        target = as_bytes(rows)
        for span in row_spans(self._header, self._axis, first, last):
            part, target = target[: span.num_bytes], target[span.num_bytes :]
            _fill(part, self._name, self._data, span)
        return rows


def read_array(name: str, header: NpyHeader, data: Bytes) -> Array:
    """Read the whole array. `name`: for messages. Raises InvalidRequest."""
    check_room(name, header)
    array = np.empty(header.shape, header.dtype, order="F" if header.is_fortran else "C")
    span = Span(lane=0, offset=header.data_offset, num_bytes=header.num_bytes)
    _fill(as_bytes(array), name, data, span)
    return array


def _fill(target: memoryview, name: str, data: Bytes, span: Span) -> None:
    offset = span.offset
    while target:
        try:
            count = data.read_into(target, span.lane, offset)
        except (OSError, zlib.error, EOFError, zipfile.BadZipFile) as error:
            raise InvalidRequest(f"{name} cannot be read: {error}") from error
        if not count:
            raise InvalidRequest(f"{name} is cut short")
        target, offset = target[count:], offset + count


def open_npy(path: Path) -> tuple[NpyHeader, FileBytes]:
    """Read the header of a .npy file. Raises InvalidRequest."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe might block forever
            raise InvalidRequest(f"{path} is not a regular file")
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    try:
        return read_header(file, str(path), os.fstat(file.fileno()).st_size), FileBytes(file)
    except BaseException:
        file.close()
        raise


def open_npz(path: Path) -> zipfile.ZipFile:
    """Open a .npz file. Raises InvalidRequest."""
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # a damaged directory makes the reader raise many kinds of errors
        raise InvalidRequest(f"{path} is not a .npz file: {error}") from None


def member_headers(archive: zipfile.ZipFile, path: Path) -> dict[str, tuple[str, NpyHeader]]:
    """The arrays of a .npz file by name: the name of the member and its header. Raises InvalidRequest."""
    headers: dict[str, tuple[str, NpyHeader]] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        try:
            with archive.open(info) as member:
                headers[name] = info.filename, read_header(member, f"{path}: {name}", info.file_size)
        except (OSError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
            raise InvalidRequest(f"{path}: {name} cannot be read: {error}") from None
    return headers


def check_lanes(name: str, header: NpyHeader, axis: int) -> None:
    """Check that the rows of a .npz member are in few enough places to be streamed. Raises InvalidRequest."""
    if (lanes := num_lanes(header, axis)) > _MAX_LANES:
        raise InvalidRequest(
            f"{name}: the rows along axis {axis} are spread over {lanes} places of a .npz file, more than can be read "
            "side by side; save it in C order, or as .npy"
        )
