"""What a map has done, on disk: a header that says what it was started with, then one line for each finished part.

A line is written after what it speaks of has reached the disk, and believed when it ends in a newline and is JSON; what
a kill left behind it is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from shoal.errors import ConfigError
from shoal.offline.files.out_files import naming

Record = dict[str, Any]
_VERSION = 1


class Journal:
    """The record of one map. Holds a lock on its file, so that no second run writes into the same output."""

    def __init__(self, file: BinaryIO, path: Path, records: list[Record], num_bytes: int, *, goes_on: bool) -> None:
        """Use `open_journal`. `num_bytes`: of the good lines."""
        self._file = file
        self._path = path
        self._num_bytes = num_bytes
        self._pending: list[Record] = []
        self.records = records
        """what had been done before"""
        self.goes_on = goes_on
        """whether an earlier run had begun; it may have written more than it got to record"""

    def add(self, record: Record) -> None:
        """Something is done; to be written by the next `commit`."""
        self._pending.append(record)

    @property
    def has_pending(self) -> bool:
        """Whether `commit` would write anything."""
        return bool(self._pending)

    def commit(self) -> None:
        """Write what was added, over what a failed commit may have left. Raises CapacityError.

        What it speaks of must have been synced before.
        """
        lines = memoryview(b"".join(_line(record) for record in self._pending))
        written = 0
        with naming(self._path):
            while written < len(lines):
                written += os.pwrite(self._file.fileno(), lines[written:], self._num_bytes + written)
            os.fsync(self._file.fileno())
        self._num_bytes += written
        self._pending.clear()

    def close(self) -> None:
        """Let go of the file; what was not committed is forgotten. Idempotent."""
        self._file.close()


def open_journal(path: Path, header: Mapping[str, str], *, resume: bool) -> Journal:
    """Open the journal of an output, or start one.

    Args:
        path: of the journal.
        header: what the map is given, name to fingerprint; a resumed one must have been given the same.
        resume: whether to go on where an earlier run stopped; with nothing to go on with, it starts. Without it, a run
            that got nothing done is started over.

    Raises:
        ConfigError: there is one and `resume` is not set, or it was started with something else; or another run has it.
        CapacityError: it cannot be written.
    """
    with naming(path):
        path.touch()
        file = path.open("r+b", buffering=0)
    try:
        _lock(file, path)
        lines, good_bytes = _parse(file.read())
        if not resume and len(lines) > 1:
            raise ConfigError(
                f"{path.parent} contains the output of an earlier run; continue it with --resume, or give another -o"
            )
        if not resume:
            lines, good_bytes = [], 0
        if lines:
            _compare(path, lines[0], header)
        with naming(path):
            file.truncate(good_bytes)
        journal = Journal(file, path, lines[1:], good_bytes, goes_on=bool(lines))
        if not lines:
            journal.add({"shoal_map": _VERSION, **header})
            journal.commit()
    except BaseException:
        file.close()
        raise
    return journal


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{path.parent} is being written by another run") from None


def _parse(content: bytes) -> tuple[list[Record], int]:
    """Whole lines, and the bytes that they take."""
    records: list[Record] = []
    good_bytes = 0
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        records.append(record)
        good_bytes += len(line)
    return records, good_bytes


def _compare(path: Path, found: Record, header: Mapping[str, str]) -> None:
    if found.get("shoal_map") != _VERSION:
        raise ConfigError(f"{path} was written by another version of shoal; give another -o")
    for name, value in header.items():
        if found.get(name) != value:
            raise ConfigError(
                f"{path.parent} was started with another {name}; give the same one with --resume, or give another -o"
            )


def _line(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
