"""A file of rows as the input of a map, of which some are read at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest
from shoal.offline.files.array_rows import (
    ArrayRows,
    Bytes,
    MemberBytes,
    check_lanes,
    member_headers,
    open_npy,
    open_npz,
    read_array,
)
from shoal.offline.files.npy_header import NpyHeader
from shoal.offline.files.tensor_values import as_tensor
from shoal.protocol.stage_interface import TensorSpec
from shoal.router.graph_executor import Tensors

Specs = Mapping[str, TensorSpec]


class RowSource(Protocol):
    """Rows of all inputs of a graph."""

    num_rows: int

    def read(self, first: int, last: int) -> Tensors:
        """Read the inputs of the rows first:last, not checked against the graph; cheap if ranges ascend. Raises
        InvalidRequest."""
        ...

    def close(self) -> None:
        """Close the files. Idempotent."""
        ...


class ArraySource:
    """Rows of the arrays of a .npy or .npz file."""

    def __init__(
        self, specs: Specs, columns: Mapping[str, ArrayRows], shared: Tensors, *, path: Path, files: ExitStack
    ) -> None:
        """`shared`: inputs that every run gets completely. `files`: closed with this object. Raises InvalidRequest."""
        self._specs = specs
        self._columns = columns
        self._shared = shared
        self._files = files
        counts = {column: rows.num_rows for column, rows in columns.items()}
        if len(set(counts.values())) != 1:
            raise InvalidRequest(
                f"{path}: the inputs differ in rows: {', '.join(f'{k} {v}' for k, v in counts.items())}"
            )
        self.num_rows = next(iter(counts.values()))

    def read(self, first: int, last: int) -> Tensors:
        """See RowSource."""
        rows = {name: as_tensor(rows.read(first, last), self._specs[name]) for name, rows in self._columns.items()}
        return {**rows, **self._shared}

    def close(self) -> None:
        """See RowSource."""
        self._files.close()


def open_rows(path: Path, inputs: tuple[TensorSpec, ...], batch: BatchAxes) -> RowSource:
    """Open a file of rows. Its arrays have rows along the input's axis in `batch`.

    Raises:
        ConfigError: the file is of an unknown kind, does not match the graph's inputs, or is damaged.
    """
    if not batch.is_batched:
        raise ConfigError(
            f"{path} is one input of many rows, but no batch dimension was found in the model: name it with "
            "--batch-dim INPUT=AXIS, or give a folder with one file for each run"
        )
    specs = {spec.name: spec for spec in inputs}
    try:
        return _open(path, specs, batch)
    except InvalidRequest as error:
        raise ConfigError(str(error)) from None


def _open(path: Path, specs: Specs, batch: BatchAxes) -> RowSource:
    if path.suffix == ".parquet":
        from shoal.offline.files.parquet_rows import ParquetSource

        return ParquetSource(path, specs, batch)
    if path.suffix not in (".npy", ".npz"):
        raise ConfigError(f"{path} is neither a folder nor a .npy, .npz or .parquet file")
    with ExitStack() as files:
        arrays = open_arrays(path, specs, files)
        columns, shared = _sort_inputs(path, specs, batch, arrays)
        return ArraySource(specs, columns, shared, path=path, files=files.pop_all())


def open_arrays(path: Path, specs: Specs, files: ExitStack) -> dict[str, tuple[NpyHeader, Bytes]]:
    """Header and content of the array for each input in a .npy or .npz file. Opened files are added to `files`.

    Raises:
        InvalidRequest: the file is damaged, or lacks an array for an input without default.
    """
    if path.suffix == ".npy":
        required = required_names(specs)
        if len(required) != 1:
            names = ", ".join(specs)
            raise InvalidRequest(f"{path} holds one array, but the model takes {names}: give a .npz with those names")
        header, file = open_npy(path)
        files.callback(file.close)
        return {required[0]: (header, file)}
    archive = files.enter_context(open_npz(path))
    arrays: dict[str, tuple[NpyHeader, Bytes]] = {}
    for name, (member, header) in _by_input_name(member_headers(archive, path), specs).items():
        data = MemberBytes(archive, member)
        files.callback(data.close)
        arrays[name] = (header, data)
    check_names(path, set(arrays), specs)
    return arrays


def _by_input_name(headers: Mapping[str, tuple[str, NpyHeader]], specs: Specs) -> Mapping[str, tuple[str, NpyHeader]]:
    """Arrays by input name; those saved without names (arr_0, arr_1, ...) are taken in the order of the inputs."""
    if list(headers) == [f"arr_{place}" for place in range(len(specs))]:
        return dict(zip(specs, headers.values(), strict=True))
    return headers


def check_names(path: Path, names: set[str], specs: Specs) -> None:
    """Check that there is one array for every required input and no others. Raises InvalidRequest."""
    missing, unknown = [name for name in required_names(specs) if name not in names], sorted(names - set(specs))
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(unknown)}"] * bool(unknown)
        raise InvalidRequest(f"{path} {' and '.join(parts)}; the model takes {', '.join(specs)}")


def required_names(specs: Specs) -> list[str]:
    """The inputs without default."""
    return [name for name, spec in specs.items() if not spec.is_optional]


def _sort_inputs(
    path: Path, specs: Specs, batch: BatchAxes, arrays: Mapping[str, tuple[NpyHeader, Bytes]]
) -> tuple[dict[str, ArrayRows], dict[str, Array]]:
    """The inputs that are read row by row, and those that every run gets completely."""
    columns: dict[str, ArrayRows] = {}
    shared: dict[str, Array] = {}
    for name, (header, data) in arrays.items():
        axis = batch.inputs[name]
        title = f"{path}: {name}"
        if axis is None:
            shared[name] = as_tensor(read_array(title, header, data), specs[name])
        elif axis >= len(header.shape):
            raise InvalidRequest(f"{title} has shape {header.shape}, so no axis {axis} for the rows to lie along")
        else:
            if path.suffix == ".npz":
                check_lanes(title, header, axis)
            columns[name] = ArrayRows(title, header, data, axis)
    return columns, shared
