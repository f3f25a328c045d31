"""The journal of a map on disk: a header with the map's inputs, then one line for each finished part.

A line is written after the output that it describes is on disk. It is valid if it ends in a newline and is JSON; an
incomplete rest, left by a kill, is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from shoal.errors import ConfigError
from shoal.out_files import naming

Record = dict[str, Any]
_VERSION = 1


class Journal:
    """The journal of one map. It locks its file, so that no second run writes to the same output."""

    def __init__(self, file: BinaryIO, path: Path, records: list[Record], num_bytes: int, *, goes_on: bool) -> None:
        """Use `open_journal`. `num_bytes`: bytes of the valid lines."""
        self._file = file
        self._path = path
        self._num_bytes = num_bytes
        self._pending: list[Record] = []
        self.records = records
        """The records of an earlier run."""
        self.goes_on = goes_on
        """Whether an earlier run had begun; it may have written more than its records show."""

    def add(self, record: Record) -> None:
        """Add a record of finished work, which the next `commit` writes."""
        self._pending.append(record)

    @property
    def has_pending(self) -> bool:
        """Whether `commit` would write anything."""
        return bool(self._pending)

    def commit(self) -> None:
        """Write the added records, over what a failed commit may have left. Raises CapacityError.

        The outputs that they describe must have been synced before.
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
        """Close the file without a commit. Idempotent."""
        self._file.close()


def open_journal(path: Path, header: Mapping[str, str], *, resume: bool) -> Journal:
    """Open the journal of an output, or start a new one.

    Args:
        path: the path of the journal.
        header: the map's inputs, name to fingerprint, which must be the same in a resumed map.
        resume: whether to continue an earlier run, if there is one. Without it, only an earlier run that got nothing
            done is started over.

    Raises:
        ConfigError: there is an earlier run and `resume` is not set, it had other inputs, or another run is active.
        CapacityError: the journal cannot be written.
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
    """The records of the valid lines, and their bytes."""
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
    return json.dumps(record).encode() + b"\n"  # in ASCII, which can also hold names that are not UTF-8
