"""Input and output arrays of an ONNX graph as files."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.core.graph_plan import TensorSpec
from shoal.errors import ConfigError

Array = npt.NDArray[Any]


def is_graph(model: str) -> bool:
    """Whether a MODEL argument names an ONNX file, by its suffix."""
    return model.lower().endswith(".onnx")


def read_arrays(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays of an .npz file by name, or of an .npy file for a graph with one input.

    Raises:
        ConfigError: the file is missing, broken or of another kind, or an .npy file for several inputs.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {_only_input(path, specs): _as_text(loaded)}
        with loaded:
            return {name: _as_text(loaded[name]) for name in loaded.files}
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).strip() or type(error).__name__
        if "pickle" in reason:  # NumPy takes whatever it does not know for one
            reason = "it is neither, or holds Python objects"
        raise ConfigError(f"cannot read {path} as .npz or .npy: {reason.splitlines()[0]}") from error


def check_writable(path: Path) -> None:
    """Refuse an output file that cannot be written before anything is computed. Raises ConfigError."""
    if path.suffix != ".npz":
        raise ConfigError(f"-o {path}: outputs are written as .npz")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"-o {path}: cannot be written; is there such a folder, and may you write there?")


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file, whole or not at all. Raises ConfigError when the disk refuses."""
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(fd, "wb") as file:
                np.savez(file, allow_pickle=False, **{name: _without_objects(array) for name, array in arrays.items()})
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def _only_input(path: Path, specs: Sequence[TensorSpec]) -> str:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise ConfigError(f"{path} holds one array, but the model takes {len(specs)}: give an .npz file with {names}")
    return specs[0].name


def _as_text(array: Array) -> Array:
    """NumPy's fixed-width strings as the objects that graphs take."""
    return array.astype(object) if array.dtype.kind in "US" else array


def _without_objects(array: Array) -> Array:
    """Strings as NumPy's fixed-width ones, which need no pickle."""
    return array.astype(np.str_) if array.dtype == object else array
