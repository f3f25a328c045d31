"""Models or parts of models received over the network: sparse files, and a record of the chunks that are there.

A chunk counts as there if its bytes match the checksum in the record. An interrupted transfer therefore continues where
it stopped, whatever a crash has left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from shoal.config import cache_root
from shoal.errors import CapacityError, RemoteProtocolError
from shoal.executor.remote.model_identity import ModelIdentity
from shoal.model.formats.needed_chunks import CHUNK_BYTES

_RECORD = struct.Struct("<II")
"""Number of a chunk, CRC-32 of its bytes."""
_RECORD_SUFFIX = ".chunks"


class ModelStore:
    """The stored files of one model. Several processes may fill it at once, as all write the same bytes."""

    def __init__(self, identity: ModelIdentity) -> None:
        """Raises RemoteProtocolError if the name of a file leads out of the store."""
        self._sizes = {name: size for name, size, _ in identity.files}
        for name in self._sizes:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise RemoteProtocolError(f"a model has no file {name!r}")
        self.folder = store_folder(identity)

    def missing(self, wanted: dict[str, list[int]]) -> dict[str, list[int]]:
        """The wanted chunks that are not there yet. Raises CapacityError if files cannot be made or do not fit."""
        missing: dict[str, list[int]] = {}
        for name, chunks in wanted.items():
            self._make(name)
            if absent := self._absent(name, chunks):
                missing[name] = absent
        needed_bytes = CHUNK_BYTES * sum(map(len, missing.values()))
        if missing and needed_bytes > (free_bytes := shutil.disk_usage(self.folder).free):
            raise CapacityError(
                f"{needed_bytes / 1000000.0:.0f} MB of the model must be kept in {self.folder.parent}, but "
                f"{free_bytes / 1000000.0:.0f} MB are free: make room, or set XDG_CACHE_HOME"
            )
        return missing

    def write(self, name: str, chunk: int, data: memoryview) -> None:
        """Store one chunk. Raises RemoteProtocolError if it is not part of the file, CapacityError if writing fails."""
        start = chunk * CHUNK_BYTES
        if name not in self._sizes or len(data) != min(CHUNK_BYTES, self._sizes[name] - start) or chunk < 0:
            raise RemoteProtocolError(f"{len(data)} bytes are not chunk {chunk} of {name!r}")
        path = self.folder / name
        try:
            with path.open("r+b") as file:
                file.seek(start)
                file.write(data)
            with _record_of(path).open("ab") as record:
                record.write(_RECORD.pack(chunk, zlib.crc32(data)))
        except OSError as error:
            raise CapacityError(f"cannot write {path}: {error.strerror}") from error

    def _make(self, name: str) -> None:
        """Make a sparse file of the full size."""
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                if os.fstat(file.fileno()).st_size != self._sizes[name]:
                    file.truncate(self._sizes[name])
        except OSError as error:
            raise CapacityError(f"cannot write {path}: {error.strerror}") from error

    def _absent(self, name: str, chunks: Iterable[int]) -> list[int]:
        path, record = self.folder / name, _record_of(self.folder / name)
        data = record.read_bytes() if record.exists() else b""
        sums = dict(_RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]))
        with path.open("rb") as file:
            return [chunk for chunk in chunks if chunk not in sums or sums[chunk] != _checksum(file.fileno(), chunk)]


def store_folder(identity: ModelIdentity) -> Path:
    """The folder in this machine's cache for a model with this content."""
    digest = hashlib.sha256(repr(identity.files).encode()).hexdigest()
    return cache_root() / "models" / digest[:32]


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + _RECORD_SUFFIX)


def _checksum(fd: int, chunk: int) -> int:
    return zlib.crc32(os.pread(fd, CHUNK_BYTES, chunk * CHUNK_BYTES))
