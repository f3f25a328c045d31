"""ONNX graphs that are built once from a model's weights, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from shoal.config import cache_root
from shoal.errors import ModelLoadError
from shoal.model.allocator import give_memory_back

_MOST_KEPT = 8
"""Built graphs of one kind that the cache keeps; older ones are removed."""


def kept_graph(kind: str, files: Iterable[Path], what: str, build: Callable[[], bytes]) -> Path:
    """Path of a graph in the cache, identified by the states of the files that it is built from.

    Args:
        kind: of graph, a folder in the cache.
        files: that it is built from.
        what: is built, and by which version of the builder.
        build: builds the graph if it is not in the cache.

    Raises:
        ModelLoadError: the graph cannot be built or written.
    """
    digest = hashlib.sha256(what.encode())
    for path in sorted(files):
        state = path.stat()
        digest.update(f"\0{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0{state.st_ino}".encode())
    cache = cache_root() / kind
    kept = cache / f"{digest.hexdigest()[:32]}.onnx"
    if not kept.is_file():
        _write(kept, build())
        give_memory_back()
        for old in sorted(cache.glob("*.onnx"), key=lambda path: path.stat().st_mtime)[:-_MOST_KEPT]:
            old.unlink(missing_ok=True)
    return kept


def _write(path: Path, content: bytes) -> None:
    """Write a file under another name and then rename it, so that nobody reads half of it. Raises ModelLoadError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be written ({error.strerror or error})") from error
