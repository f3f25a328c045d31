"""Input and output arrays of an ONNX graph as files."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from shoal.arrays import Array
from shoal.errors import ConfigError, InvalidRequest
from shoal.model.graph.file.value_types import is_exact
from shoal.offline.files.array_rows import Bytes, MemberBytes, member_headers, open_npy, open_npz, read_array
from shoal.offline.files.npy_header import NpyHeader
from shoal.offline.files.tensor_values import as_stored, as_tensor
from shoal.protocol.stage_interface import TensorSpec


def read_arrays(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays of an .npz file by name, or of an .npy file for a graph with one input.

    Raises:
        ConfigError: the file is missing, broken, of another kind or too large for the memory that is free; or an .npy
            file for several inputs.
    """
    by_name = {spec.name: spec for spec in specs}
    try:
        with ExitStack() as files:
            opened = _open(path, specs, files)
            return {name: _read(f"{path}: {name}", *parts, by_name.get(name)) for name, parts in opened.items()}
    except InvalidRequest as error:
        raise ConfigError(str(error)) from None


def _open(path: Path, specs: Sequence[TensorSpec], files: ExitStack) -> dict[str, tuple[NpyHeader, Bytes]]:
    """Header and content of each array; what is opened is closed with `files`. Raises InvalidRequest, ConfigError."""
    if not path.exists():
        raise ConfigError(f"{path} does not exist")
    if not path.is_file():
        raise ConfigError(f"{path} is not a regular file: give an .npz or .npy file")
    if not zipfile.is_zipfile(path):
        header, content = open_npy(path)
        files.callback(content.close)
        return {_only_input(path, specs): (header, content)}
    archive = files.enter_context(open_npz(path))
    opened: dict[str, tuple[NpyHeader, Bytes]] = {}
    for name, (member, header) in member_headers(archive, path).items():
        content = MemberBytes(archive, member)
        files.callback(content.close)
        opened[name] = header, content
    return opened


def _read(title: str, header: NpyHeader, content: Bytes, spec: TensorSpec | None) -> Array:
    """`spec`: of the input; None where the graph has none of that name, which whoever checks the inputs will say."""
    array = read_array(title, header, content)
    return array if spec is None else as_tensor(array, spec)


def check_writable(path: Path) -> None:
    """Refuse an output file that cannot be written before anything is computed. Raises ConfigError."""
    if path.suffix != ".npz":
        raise ConfigError(f"-o {path}: outputs are written as .npz, so give a name that ends in .npz")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"-o {path} cannot be written: check that the folder exists and that you may write to it")


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file, whole or not at all. Raises ConfigError when the disk refuses."""
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(fd, "wb") as file:
                np.savez(file, allow_pickle=False, **{name: _storable(array) for name, array in arrays.items()})
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def _only_input(path: Path, specs: Sequence[TensorSpec]) -> str:
    required = [spec.name for spec in specs if not spec.is_optional]
    if len(required) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise ConfigError(f"{path} holds one array, but the model takes {len(specs)}: give an .npz file with {names}")
    return required[0]


def _storable(array: Array) -> Array:
    """What a .npz file can hold: text of fixed width; numbers that NumPy's format does not know as the next wider ones
    that it does, which hold all their values."""
    if array.dtype.isbuiltin != 1 and array.dtype != object and array.dtype.kind not in "US":
        return array.astype(np.int8 if is_exact(array.dtype) else np.float32)
    return as_stored(array)
