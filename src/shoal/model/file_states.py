"""Whether a model's files are still those that were opened first.

A worker that is started later reads the files anew. If they have been replaced or written to meanwhile, as an update in
place does, it would hold other weights than the workers beside it, and nobody would notice: the shapes are the same.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shoal.errors import ModelChanged, ModelLoadError
from shoal.protocol.worker_messages import FileState

CHANGED = "the model's file has changed since the server started; start it again"
_HEADER_BYTES = 1 << 16
"""Bytes at the beginning that are compared. Source: a judgment; GGUF, safetensors and ONNX begin with their header."""
_FOLDER_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "model.bin")
_GGUF_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
"""A split GGUF file. Source: llama.cpp, gguf-split, `LLAMA_SPLIT_NAME`."""


def model_files(path: Path) -> list[Path]:
    """The files that a language model is read from: a GGUF file or its parts, an ONNX graph and its weights beside it
    (`model.onnx_data`), or a folder's weights and what says how to read them."""
    if path.suffix == ".onnx":
        return sorted(one for one in path.parent.glob(f"{glob.escape(path.name)}*") if one.is_file())
    if path.is_dir():
        return sorted(one for pattern in _FOLDER_FILES for one in path.glob(pattern) if one.is_file())
    part = _GGUF_PART.fullmatch(path.name)
    if part is None:
        return [path]
    stem, count = part.groups()
    return sorted(path.parent.glob(f"{glob.escape(stem)}-?????-of-{count}.gguf"))


def model_states(path: Path) -> tuple[FileState, ...]:
    """The states of `model_files`. Raises ModelLoadError where one cannot be read."""
    return file_states(path if path.is_dir() else path.parent, (one.name for one in model_files(path)))


def states_again(path: Path, states: Sequence[FileState]) -> tuple[FileState, ...]:
    """The states as they are now of a model's files. Of an ONNX graph those that it was read from: the names of its
    weights' files are in it. Raises ModelLoadError where one cannot be read."""
    if path.suffix == ".onnx":
        return file_states(path.parent, (one.name for one in states))
    return model_states(path)


def file_states(folder: Path, names: Iterable[str]) -> tuple[FileState, ...]:
    """The states of some files of a folder, by name. Raises ModelLoadError where one cannot be read."""
    return tuple(_state(folder / name, name) for name in sorted(set(names)))


def state_of(file: BinaryIO, name: str) -> FileState:
    """The state of a file that is open, whatever its name leads to a moment later. Raises OSError."""
    status = os.fstat(file.fileno())
    digest = hashlib.sha256(os.pread(file.fileno(), _HEADER_BYTES, 0)).hexdigest()
    return FileState(
        name=name, num_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino, header_sha256=digest
    )


@contextmanager
def unchanged(states: Sequence[FileState], look: Callable[[], tuple[FileState, ...]]) -> Iterator[None]:
    """Files that are read in the block are what they were, when it begins and when it ends.

    Args:
        states: as they were when the model was opened first; none: they are not looked at.
        look: takes the states as they are.

    Raises:
        ModelChanged: they are others, or became others while they were read.
        ModelLoadError: they cannot be read.
    """
    if states:
        _check(states, look())
    yield
    if states:
        _check(states, look())


def _check(then: Sequence[FileState], now: Sequence[FileState]) -> None:
    changed = {state.name for state in {*then} ^ {*now}}
    if changed:
        raise ModelChanged(f"{CHANGED} ({', '.join(sorted(changed))})")


def _state(path: Path, name: str) -> FileState:
    try:
        with path.open("rb") as file:
            return state_of(file, name)
    except OSError as error:
        raise ModelLoadError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
