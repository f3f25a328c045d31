"""The output of a map over rows: one .npy file for each output, written in any order without holding rows in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest
from shoal.offline.files.array_rows import ArrayRows, open_npy
from shoal.offline.files.npy_header import NpyHeader, as_bytes, row_spans
from shoal.offline.files.tensor_values import as_stored
from shoal.out_files import naming, sync_file

_COPY_ROWS = 4096
"""Rows copied at once if strings are longer than those before."""
_REGISTERED = 2
"""The value of `dtype.isbuiltin` for ml_dtypes' types, for which the format has no names, only bare bytes."""


class NpyWriter:
    """A .npy file of known shape that is filled row range by row range."""

    def __init__(self, path: Path, header: NpyHeader, axis: int) -> None:
        """Use `create` or `reopen`."""
        self.path = path
        self._header = header
        self._axis = axis
        with naming(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @classmethod
    def create(cls, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], axis: int) -> NpyWriter:
        """Create a file and allocate its space, so that a full disk is noticed now. Raises CapacityError."""
        with naming(path), path.open("wb") as file:
            known = np.dtype(f"V{dtype.itemsize}") if dtype.isbuiltin == _REGISTERED else dtype
            layout = {"descr": np.lib.format.dtype_to_descr(known), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, layout)
            header = NpyHeader(shape=shape, dtype=dtype, is_fortran=False, data_offset=file.tell())
            if header.num_bytes:
                file.flush()
                os.posix_fallocate(file.fileno(), header.data_offset, header.num_bytes)
        return cls(path, header, axis)

    @classmethod
    def reopen(cls, path: Path, axis: int) -> NpyWriter:
        """Reopen a file that an earlier run began. Raises ConfigError if it is missing or invalid."""
        try:
            header, data = open_npy(path)
        except InvalidRequest as error:
            raise ConfigError(f"cannot continue: {error}; give another -o") from None
        data.close()
        return cls(path, header, axis)

    def write(self, first: int, rows: Array) -> None:
        """Write rows to their place.

        Raises:
            ConfigError: they have another shape or type than those before.
            CapacityError: the file cannot be written.
        """
        rows = as_stored(rows)
        self._check(rows)
        rows = np.ascontiguousarray(rows, self._header.dtype)
        data = as_bytes(rows)
        for span in row_spans(self._header, self._axis, first, first + rows.shape[self._axis]):
            part, data = data[: span.num_bytes], data[span.num_bytes :]
            self._write_at(part, span.offset)

    def blank(self, row: int, num_rows: int) -> None:
        """Fill one of `num_rows` rows with NaN. Raises CapacityError."""
        if self._header.dtype.kind in "fc":
            each = self._header.shape[self._axis] // num_rows
            shape = (*self._header.shape[: self._axis], each, *self._header.shape[self._axis + 1 :])
            self.write(each * row, np.full(shape, np.nan, self._header.dtype))

    def sync(self) -> None:
        """Wait until everything written is on the disk. Raises CapacityError."""
        with naming(self.path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the files. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self, rows: Array) -> None:
        own = self._header
        wanted = (*own.shape[: self._axis], rows.shape[self._axis], *own.shape[self._axis + 1 :])
        if rows.shape != wanted:
            raise ConfigError(
                f"{self.path.name}: rows of shape {_row_shape(rows.shape, self._axis)} come after rows of shape "
                f"{_row_shape(own.shape, self._axis)}, which one array cannot hold; give a folder with one file an item"
            )
        if rows.dtype.kind == own.dtype.kind == "U" and rows.dtype.itemsize > own.dtype.itemsize:
            self._widen(rows.dtype)
        elif rows.dtype.kind != own.dtype.kind or rows.dtype.itemsize > own.dtype.itemsize:
            raise ConfigError(f"{self.path.name}: {rows.dtype} values come after {own.dtype} values")

    def _widen(self, dtype: np.dtype[Any]) -> None:
        """Copy all rows into a file with room for longer strings."""
        wider = NpyWriter.create(self.path.with_name(f"{self.path.name}.wider"), self._header.shape, dtype, self._axis)
        header, data = open_npy(self.path)
        reader = ArrayRows(str(self.path), header, data, self._axis)
        for first in range(0, reader.num_rows, _COPY_ROWS):
            wider.write(first, reader.read(first, min(reader.num_rows, first + _COPY_ROWS)))
        data.close()
        wider.sync()
        with naming(self.path):
            os.replace(wider.path, self.path)
        os.close(self._fd)
        self._fd, self._header = wider._fd, wider._header

    def _write_at(self, data: memoryview, offset: int) -> None:
        with naming(self.path):
            while data:
                count = os.pwrite(self._fd, data, offset)
                data, offset = data[count:], offset + count


class RowSink:
    """The output folder of a map over rows. Files are named `NAME.npy.part` until they are complete."""

    def __init__(self, folder: Path, outputs: Sequence[str], batch: BatchAxes, num_rows: int, *, goes_on: bool) -> None:
        """`goes_on`: whether an earlier run has written rows. Raises ConfigError if its files are missing, or if there
        are files without an earlier run."""
        self._axes: Mapping[str, int | None] = batch.outputs
        self._num_rows = num_rows
        self.paths = {name: folder / f"{stem}.npy" for name, stem in zip(outputs, file_stems(outputs), strict=True)}
        self._writers: dict[str, NpyWriter] = {}
        for name, path in self.paths.items():
            if goes_on:
                self._writers[name] = NpyWriter.reopen(path if path.exists() else _partial(path), self._axis(name))
            elif path.exists():
                raise ConfigError(f"{path} exists already; give another -o, or remove it")

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet, so that there are no files."""
        return not self._writers

    def write(self, first: int, outputs: Mapping[str, Array], num_rows: int) -> None:
        """Write the outputs of `num_rows` rows from `first` on to their place.

        Raises:
            ConfigError: they do not match those before.
            CapacityError: a file cannot be written.
        """
        for name in self.paths:
            rows, axis = outputs[name], self._axis(name)
            each, rest = divmod(rows.shape[axis], max(1, num_rows)) if axis < rows.ndim else (0, 1)
            if rest:
                raise ConfigError(
                    f"output {name} has shape {rows.shape} for {num_rows} rows, so axis {axis} is not the "
                    "axis of its rows"
                )
            if name not in self._writers:
                shape = (*rows.shape[:axis], each * self._num_rows, *rows.shape[axis + 1 :])
                path, dtype = _partial(self.paths[name]), as_stored(rows).dtype
                self._writers[name] = NpyWriter.create(path, shape, dtype, axis)
            self._writers[name].write(each * first, rows)

    def blank(self, row: int) -> None:
        """Mark a row without result by NaN; types without NaN keep 0 or empty strings."""
        for writer in self._writers.values():
            writer.blank(row, self._num_rows)

    def sync(self) -> None:
        """Wait until everything written is on the disk. Raises CapacityError."""
        for writer in self._writers.values():
            writer.sync()
        for folder in {writer.path.parent for writer in self._writers.values()}:
            sync_file(folder)

    def finish(self) -> None:
        """Give the complete files their names. Raises CapacityError."""
        self.sync()
        for name, writer in self._writers.items():
            with naming(writer.path):
                os.replace(writer.path, self.paths[name])
        self.close()

    def close(self) -> None:
        """Close the files. Idempotent."""
        for writer in self._writers.values():
            writer.close()

    def _axis(self, name: str) -> int:
        axis = self._axes[name]
        assert axis is not None, "a batched graph has rows in every output"
        return axis


def file_stems(names: Sequence[str]) -> list[str]:
    """A file name for each output, since graphs allow characters in names that file systems do not."""
    stems: list[str] = []
    for name in names:
        stem = re.sub(r"[^\w.:+-]", "_", name).lstrip(".") or "output"
        while stem in stems:
            stem += "_"
        stems.append(stem)
    return stems


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _row_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])
