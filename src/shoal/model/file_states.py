"""Whether a model's files are still the ones that were opened first.

A worker that is started later reads the files again. If they have been replaced or overwritten meanwhile, as by an
update in place, it would have other weights than the workers beside it, and nobody would notice, since the shapes are
the same.
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
"""Bytes at the beginning of a file that are compared. Source: a judgment; GGUF, safetensors and ONNX begin with their
header."""
_FOLDER_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "model.bin")
_GGUF_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
"""The name of a part of a split GGUF file. Source: llama.cpp, gguf-split, `LLAMA_SPLIT_NAME`."""


def model_files(path: Path) -> list[Path]:
    """The files that a language model is read from: a GGUF file or its parts, an ONNX graph and the weights beside it
    (`model.onnx_data`), or a folder's weights and its config.json and index."""
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
    """The states of `model_files`. Raises ModelLoadError if one cannot be read."""
    return file_states(path if path.is_dir() else path.parent, (one.name for one in model_files(path)))


def change_times(path: Path) -> tuple[int, ...]:
    """When each of `model_files` was changed last, its content or what the file system says of it, in nanoseconds.

    Raises ModelLoadError where one cannot be asked.
    """
    try:
        return tuple(one.stat().st_ctime_ns for one in model_files(path))
    except OSError as error:
        raise ModelLoadError(f"cannot read {str(path)!r}: {error.strerror or error}") from error


def states_again(path: Path, states: Sequence[FileState]) -> tuple[FileState, ...]:
    """The present states of a model's files. For an ONNX graph these are the files in `states`, because only the graph
    itself names its weights' files. Raises ModelLoadError if one cannot be read."""
    if path.suffix == ".onnx":
        return file_states(path.parent, (one.name for one in states))
    return model_states(path)


def file_states(folder: Path, names: Iterable[str]) -> tuple[FileState, ...]:
    """The states of some files of a folder, given by name. Raises ModelLoadError if one cannot be read."""
    return tuple(_state(folder / name, name) for name in sorted(set(names)))


def state_of(file: BinaryIO, name: str) -> FileState:
    """The state of an open file, which stays right if its name soon leads to another file. Raises OSError."""
    status = os.fstat(file.fileno())
    digest = hashlib.sha256(os.pread(file.fileno(), _HEADER_BYTES, 0)).hexdigest()
    return FileState(
        name=name, num_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino, header_sha256=digest
    )


@contextmanager
def unchanged(states: Sequence[FileState], look: Callable[[], tuple[FileState, ...]]) -> Iterator[None]:
    """Check before and after the block that the files read in it have not changed since the model was opened first.

    Args:
        states: the files' states when the model was opened first; empty: no check.
        look: returns their present states.

    Raises:
        ModelChanged: the files have changed, before the block or during it.
        ModelLoadError: a file cannot be read.
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
