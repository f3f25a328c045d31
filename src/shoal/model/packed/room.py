"""Room for kept weights: they take a share of what is free, and those that were used longest ago give way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARE_OF_FREE = 0.5
"""Part of the disk's free space, what is kept counted as free, that all kept weights may take. Source: a judgment:
a model's packed weights are as large as its file, and whoever had room for one has room for the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    num_bytes: int
    used_ns: int


def make_room(root: Path, num_bytes: int, *, keep: Path, max_bytes: int | None = None) -> bool:
    """Removes kept files until another one fits. Returns whether it does; if it cannot, nothing is removed.

    A file that is removed while workers have it mapped stays theirs, and takes its room until they end.

    Args:
        root: the folder that has a folder for every model.
        num_bytes: of the file that is to be written.
        keep: the folder of its model, from which nothing is removed: the model's other layers are wanted next.
        max_bytes: that all files may take; None: SHARE_OF_FREE.

    Raises:
        OSError: the disk cannot be asked.
    """
    files = sorted(_files(root), key=lambda file: file.used_ns)
    held = sum(file.num_bytes for file in files)
    free = shutil.disk_usage(root).free
    limit = int((free + held) * SHARE_OF_FREE) if max_bytes is None else max_bytes
    others = [file for file in files if file.path.parent != keep]
    if held - sum(file.num_bytes for file in others) + num_bytes > limit:
        return False
    for file in others:
        if held + num_bytes <= limit:
            break
        _remove(file.path)
        held -= file.num_bytes
    return True


def _files(root: Path) -> Iterator[_File]:
    for path in root.glob("*/*"):
        try:
            status = path.lstat()
        except OSError:  # removed by another process
            continue
        yield _File(path=path, num_bytes=status.st_size, used_ns=status.st_mtime_ns)


def _remove(path: Path) -> None:
    """Removes a file, its lock, and its folder when it was the last. Two processes that no longer see the same lock
    make the same file twice, no worse."""
    for one in (path, path.with_suffix(".lock")):
        try:
            one.unlink(missing_ok=True)
        except OSError:
            return
    try:
        os.rmdir(path.parent)
    except OSError:  # others are in it
        return
