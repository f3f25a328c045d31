"""Parquet files with pyarrow (optional): columns as inputs, and outputs as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import InvalidRequest, MissingExtra
from shoal.offline.files.array_rows import ArrayRows, open_npy
from shoal.protocol.stage_interface import TensorSpec
from shoal.router.graph_executor import Tensors

_READ_ROWS = 1024
"""Rows decoded at once: enough to make pyarrow's cost per call negligible, few compared with a row group."""
_LARGEST_VALUE_BYTES = 8
"""The most bytes of a number."""
_WRITE_ROWS = 65536
"""Rows of a row group that is written, which determine the memory for writing."""


class ParquetSource:
    """Rows of a Parquet file: each column is an input; a list column has a vector (nested: a matrix) in each row."""

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec], batch: BatchAxes) -> None:
        """Open a file. Raises InvalidRequest if it is no Parquet file or its columns do not match, and MissingExtra
        without pyarrow."""
        arrow = load_arrow()
        for name, axis in batch.inputs.items():
            if axis != 0 and not specs[name].is_optional:
                raise InvalidRequest(f"{path}: rows of a Parquet file lie along axis 0, but those of {name} do not")
        specs = {name: spec for name, spec in specs.items() if not spec.is_optional}  # optional inputs have no rows
        try:
            self._file: Any = arrow.parquet.ParquetFile(path)
        except (OSError, arrow.ArrowException) as error:
            raise InvalidRequest(f"{path} cannot be read as Parquet: {_first_line(error)}") from None
        if missing := [name for name in specs if name not in self._file.schema_arrow.names]:
            self.close()
            raise InvalidRequest(f"{path} lacks the columns {', '.join(missing)}; the model takes {', '.join(specs)}")
        self.num_rows: int = self._file.metadata.num_rows
        _check_room(path, self._file.metadata)
        self._path = path
        self._specs = specs
        self._errors: Any = arrow.ArrowException
        self._tables: Any = None
        self._table: Any = None
        self._first = 0
        """The index of the first row in `_table`."""
        self._last = 0

    def read(self, first: int, last: int) -> Tensors:
        """See RowSource."""
        if first == last:
            return {name: _no_rows(spec) for name, spec in self._specs.items()}
        if self._tables is None or first < self._first:
            self._seek(first)
        pieces: list[Any] = []
        position = first
        while position < last:
            while position >= self._last:
                self._advance()
            count = min(last, self._last) - position
            pieces.append(self._table.slice(position - self._first, count))
            position += count
        return {name: self._column(name, [piece.column(name) for piece in pieces]) for name in self._specs}

    def close(self) -> None:
        """See RowSource."""
        self._file.close()

    def _seek(self, first: int) -> None:
        """Start at the row group that contains a row."""
        start, group = 0, 0
        while start + (rows := self._file.metadata.row_group(group).num_rows) <= first:
            start, group = start + rows, group + 1
        groups = list(range(group, self._file.num_row_groups))
        self._tables = self._file.iter_batches(_READ_ROWS, row_groups=groups, columns=list(self._specs))
        self._first = self._last = start

    def _advance(self) -> None:
        try:
            self._table = next(self._tables)
        except (OSError, self._errors) as error:
            raise InvalidRequest(f"{self._path} is damaged after row {self._last}: {_first_line(error)}") from error
        self._first, self._last = self._last, self._last + self._table.num_rows

    def _column(self, name: str, pieces: list[Any]) -> Array:
        title = f"{self._path}: column {name}"
        parts = [_rows(title, piece) for piece in pieces]
        if len({part.shape[1:] for part in parts}) > 1:
            raise InvalidRequest(f"{title} has lists of different lengths; pad them")
        rows = np.concatenate(parts)
        spec = self._specs[name]
        if spec.shape is not None and len(spec.shape) == 2 and rows.ndim == 1:
            return rows[:, np.newaxis]
        return rows


def _no_rows(spec: TensorSpec) -> Array:
    """An array without rows, for a column without rows, whose list lengths are unknown."""
    shape = [dim if isinstance(dim, int) else 0 for dim in (spec.shape or (0,))[1:]]
    return np.empty((0, *shape), object if spec.dtype == "string" else np.dtype(spec.dtype))


def write_parquet(path: Path, columns: Mapping[str, Path]) -> None:
    """Convert .npy files with rows along axis 0 into one Parquet file, piece by piece.

    Raises:
        OSError: the file cannot be written.
    """
    arrow = load_arrow()
    opened = {name: open_npy(file) for name, file in columns.items()}
    rows = {name: ArrayRows(name, header, data, 0) for name, (header, data) in opened.items()}
    num_rows = next(iter(rows.values())).num_rows
    writer: Any = None
    try:
        for first in range(0, max(1, num_rows), _WRITE_ROWS):
            last = min(num_rows, first + _WRITE_ROWS)
            table = arrow.table({name: _arrow_column(arrow, one.read(first, last)) for name, one in rows.items()})
            writer = writer or arrow.parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
        for _, data in opened.values():
            data.close()


def _check_room(path: Path, metadata: Any) -> None:
    """Check that decoded rows fit into free memory; repeated values take almost no room in the file.

    Raises:
        InvalidRequest: they do not fit.
    """
    free = psutil.virtual_memory().available
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        num_values = sum(group.column(column).num_values for column in range(group.num_columns))
        needed = num_values * _LARGEST_VALUE_BYTES * min(1.0, _READ_ROWS / max(1, group.num_rows))
        if needed > free:
            raise InvalidRequest(
                f"{path}: {_READ_ROWS} rows of its row group {index} take {needed / 1e9:,.1f} GB, but "
                f"{free / 1e9:,.1f} GB are free"
            )


def load_arrow() -> ModuleType:
    """Import pyarrow with its Parquet part. Raises MissingExtra if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("Parquet needs pyarrow", "parquet") from None
    return pyarrow


def _rows(name: str, column: Any) -> Array:
    """A column as an array, rows first."""
    lengths: list[int] = []
    num_rows = len(column)
    while str(column.type).split("<")[0] in ("list", "large_list", "fixed_size_list"):
        _refuse_null(name, column)
        sizes = _list_sizes(column)
        if len(set(sizes)) > 1:
            raise InvalidRequest(f"{name} has lists of different lengths ({min(sizes)} to {max(sizes)}); pad them")
        lengths.append(sizes[0] if len(sizes) else 0)
        column = column.flatten()
    _refuse_null(name, column)
    values: Array = np.asarray(column.to_numpy(zero_copy_only=False))
    return values.reshape(num_rows, *lengths)


def _refuse_null(name: str, column: Any) -> None:
    if column.null_count:
        raise InvalidRequest(f"{name} has {column.null_count} nulls; a graph takes values only")


def _list_sizes(column: Any) -> list[int]:
    if str(column.type).startswith("fixed_size_list"):
        return [column.type.list_size] * len(column)
    return list(map(int, np.diff(column.offsets.to_numpy())))


def _arrow_column(arrow: Any, rows: Array) -> Any:
    """Convert rows to a column: vectors to lists of fixed size, matrices to lists of lists."""
    column = arrow.array(rows.reshape(-1))
    for size in _innermost_first(rows.shape[1:]):
        column = arrow.FixedSizeListArray.from_arrays(column, size)
    return column


def _innermost_first(shape: tuple[int, ...]) -> Iterator[int]:
    return iter(shape[::-1])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
