"""Makes room for kept weights: they may take a share of the free space, and the least recently used ones are
removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARE_OF_FREE = 0.5
"""Fraction of the disk's free space, counting what is kept as free, that all kept weights may take. Source: a judgment:
a model's packed weights are as large as its file, so whoever had room for one has room for the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    num_bytes: int
    used_ns: int


def make_room(root: Path, num_bytes: int, *, keep: Path, max_bytes: int | None = None) -> bool:
    """Remove kept files until another one fits. Returns whether it does; if it cannot, nothing is removed.

    Workers that have a removed file mapped keep it, and it takes its space until they end.

    Args:
        root: the folder that has a folder for every model.
        num_bytes: of the file that is to be written.
        keep: the folder of its model, from which nothing is removed, since the model's other layers are needed next.
        max_bytes: limit for all files; None: SHARE_OF_FREE of the free space.

    Raises:
        OSError: the file system does not answer.
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
    """Of folders that are Shoal's own: behind a link there may be anything."""
    for path in (path for folder in root.glob("*") if not folder.is_symlink() for path in folder.glob("*")):
        try:
            status = path.lstat()
        except OSError:  # removed by another process
            continue
        yield _File(path=path, num_bytes=status.st_size, used_ns=status.st_mtime_ns)


def _remove(path: Path) -> None:
    """Remove a file, its lock, and its folder if that is then empty. If two processes hold different locks because of
    this, both write the same file, which does no harm."""
    for one in (path, path.with_suffix(".lock")):
        try:
            one.unlink(missing_ok=True)
        except OSError:
            return
    try:
        os.rmdir(path.parent)
    except OSError:  # the folder is not empty
        return
