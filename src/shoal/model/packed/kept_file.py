"""A file of packed weights: a header that states exactly what the file must hold, the weights, a checksum.

    magic, version, bytes of the description, bytes of the file | description, JSON | zeros up to a page
    weights, as they lie in memory
    checksum of all bytes before it

A reader computes the header that it expects from the model's own file, and compares all of its bytes. So nothing that a
damaged file says is ever used.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.arrays import U8
from shoal.model.packed.memory import file_memory
from shoal.model.packed.pack import Arrangement

if TYPE_CHECKING:
    from shoal._native import ThreadPool

VERSION = 1
"""Version of this format and of the layout of packed matrices. Raise it when either changes."""
_MAGIC = b"SHOALPKW"
_HEAD = struct.Struct("<8sIIQ")
_CHECKSUM = struct.Struct("<Q")
_PAGE_BYTES = 4096
"""Weights begin at a multiple of this. Source: the smallest page size of existing processors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFormat:
    """Content of a file: its header and the number of bytes of its weights."""

    header: bytes
    weight_bytes: int

    @property
    def num_bytes(self) -> int:
        return len(self.header) + self.weight_bytes + _CHECKSUM.size


def kept_format(arrangement: Arrangement, about: Mapping[str, Any]) -> KeptFormat:
    """The format of a file with these matrices. `about`: what else must be the same for the file to be used; written as
    JSON."""
    matrices = [[placed.name, placed.form, placed.start_bytes] for placed in arrangement.matrices]
    description = json.dumps({**about, "matrices": matrices}).encode()
    header_bytes = -(-(_HEAD.size + len(description)) // _PAGE_BYTES) * _PAGE_BYTES
    num_bytes = header_bytes + arrangement.num_bytes + _CHECKSUM.size
    head = _HEAD.pack(_MAGIC, VERSION, len(description), num_bytes)
    return KeptFormat(header=(head + description).ljust(header_bytes, b"\0"), weight_bytes=arrangement.num_bytes)


def read_kept(path: Path, kept: KeptFormat, pool: ThreadPool) -> U8 | None:
    """The weights of a file, mapped; None if there is no such file, or it does not have this format or checksum.

    Mutates: the file's modification time, which says when it was last used.
    """
    try:
        with _opened(path, os.O_RDONLY) as fd:
            if os.fstat(fd).st_size != kept.num_bytes:
                return None
            memory = file_memory(fd, kept.num_bytes)
    except (OSError, ValueError):
        return None
    if memory[: len(kept.header)].tobytes() != kept.header or _checksum(memory, pool) != _written_checksum(memory):
        return None
    _touch(path)
    return _weights(memory, kept)


def write_kept(path: Path, kept: KeptFormat, weights: U8, pool: ThreadPool) -> U8:
    """Write a file and return its weights, mapped. Other processes see the whole file or none.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)  # left by a process that was killed
    try:
        with _opened(new, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            _write_all(fd, memoryview(kept.header))
            _write_all(fd, weights.data)
            memory = file_memory(fd, len(kept.header) + kept.weight_bytes)
            _write_all(fd, memoryview(_CHECKSUM.pack(_whole_checksum(memory, pool))))
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return _weights(memory, kept)


def _weights(memory: U8, kept: KeptFormat) -> U8:
    return memory[len(kept.header) : len(kept.header) + kept.weight_bytes]


def _checksum(memory: U8, pool: ThreadPool) -> int:
    return _whole_checksum(memory[: -_CHECKSUM.size], pool)


def _whole_checksum(memory: U8, pool: ThreadPool) -> int:
    from shoal._native import checksum

    return checksum(pool, memory)


def _written_checksum(memory: U8) -> int:
    return _CHECKSUM.unpack(memory[-_CHECKSUM.size :].tobytes())[0]


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:  # the folder is read-only
        return


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0), 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
