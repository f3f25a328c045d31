"""Opens a model's files. Only regular files are ever read.

A downloaded folder may hold a device, or a named pipe, on which a read would wait forever. Links are followed: the
cache of the Hugging Face hub consists of them.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from shoal.errors import ModelLoadError

MAX_JSON_BYTES = 256 << 20
"""The largest published tokenizer.json has 33 MB, the largest index 12 MB; parsing takes about ten times the size in
memory."""
GENAI_FILE = "genai_config.json"
"""The settings that onnxruntime-genai's model builder writes beside an ONNX graph. Source: onnxruntime-genai, docs."""
WITHOUT_WEIGHTS = (
    "measuring and running need the weights; without them, only `shoal plan MODEL --cluster FILE` works, where FILE "
    "describes all machines"
)
"""End of error messages about models without weights."""
_READ_SUFFIXES = {".json", ".jinja", ".model", ".safetensors", ".gguf"}


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file without reading it. Raises ModelLoadError if it is missing, empty or not a regular file."""
    with _open(path) as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ModelLoadError(f"{path}: the file is empty") from error


def release_pages(data: mmap.mmap) -> None:
    """Release the memory of a mapped file's pages. The system may cache them, and reads them again when they are
    used."""
    if hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelLoadError."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JSON_BYTES:
            raise ModelLoadError(f"{path} has {size} bytes, but at most {MAX_JSON_BYTES} are read as JSON")
        data = file.read(MAX_JSON_BYTES)
    return parse_json(path, data)


def parse_json(what: object, data: bytes) -> dict[str, Any]:
    """A JSON object from bytes; `what` names them in errors. Raises ModelLoadError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{what}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{what} is not a JSON object")
    return value


def check_inside(name: object, named_by: Path) -> str:
    """The name of a file that must lie in the same folder as the file that names it.

    Raises:
        ModelLoadError: the name is not a string, or leads out of the folder.
    """
    if not isinstance(name, str):
        raise ModelLoadError(f"{named_by} names a file by {name!r:.200}, which is not a string")
    if name in ("", ".", "..") or any(separator in name for separator in "/\\\0"):
        raise ModelLoadError(f"{named_by} names the file {name!r:.200}, which is not in the model's folder")
    return name


def check_regular(paths: Iterable[Path]) -> None:
    """Raises ModelLoadError if a file that exists, and that a loader would read, is not a regular file."""
    for path in paths:
        if path.suffix in _READ_SUFFIXES and path.exists() and not path.is_file():
            raise ModelLoadError(f"{path} is not a regular file")


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file. Raises ModelLoadError. Without O_NONBLOCK, opening a pipe that nobody writes to never
    returns."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}: cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ModelLoadError(f"{path} is not a regular file")
        yield file
