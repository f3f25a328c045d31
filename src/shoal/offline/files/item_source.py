"""A folder as the input of a map: each .npy or .npz file is an item. Headers are read first, contents when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest
from shoal.offline.files.array_rows import read_array
from shoal.offline.files.npy_header import NpyHeader, Shape
from shoal.offline.files.row_source import Specs, open_arrays
from shoal.offline.files.tensor_values import as_tensor
from shoal.offline.work import Failure
from shoal.protocol.stage_interface import TensorSpec
from shoal.router.graph_executor import Tensors

SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file of the folder."""

    path: Path
    num_rows: int
    """The number of rows; 1 if the graph is not batched."""
    is_single: bool
    """Whether its arrays lack the batch axis; it is one row then, and its outputs lack the axis, too."""
    row_bytes: int
    signature: str
    """Only items with equal signatures can share a batch."""


def scan_folder(folder: Path, inputs: Sequence[TensorSpec], batch: BatchAxes) -> tuple[list[Item], list[Failure]]:
    """Find the items of a folder in the order in which they are computed, and the files that are invalid.

    Items that can share a batch are adjacent, the longest first: the end of a job then consists of short chunks, which
    spread evenly, and memory is short at the beginning or never.

    Raises:
        ConfigError: the folder contains no .npy or .npz file, or two that would have the same output.
    """
    specs = {spec.name: spec for spec in inputs}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}") from None
    if not paths:
        raise ConfigError(f"{folder} contains no .npy or .npz file, so there is nothing to do")
    _refuse_equal_stems(paths)
    items: list[Item] = []
    failures: list[Failure] = []
    for path in paths:
        try:
            items.append(_read_item(path, specs, batch))
        except InvalidRequest as error:
            failures.append(Failure(name=path.name, reason=str(error)))
    return sorted(items, key=lambda item: (-item.row_bytes, item.signature, item.path.name)), failures


def load_item(item: Item, inputs: Sequence[TensorSpec], batch: BatchAxes) -> Tensors:
    """Read an item's arrays, with the batch axis and not checked against the graph. Raises InvalidRequest."""
    specs = {spec.name: spec for spec in inputs}
    tensors: dict[str, Array] = {}
    with ExitStack() as files:
        for name, (header, data) in open_arrays(item.path, specs, files).items():
            array = as_tensor(read_array(f"{item.path}: {name}", header, data), specs[name])
            axis = batch.inputs.get(name)
            tensors[name] = np.expand_dims(array, axis) if item.is_single and axis is not None else array
    return tensors


def _read_item(path: Path, specs: Specs, batch: BatchAxes) -> Item:
    with ExitStack() as files:
        headers = {name: header for name, (header, _) in open_arrays(path, specs, files).items()}
    axes = {name: axis for name in headers if (axis := batch.inputs.get(name)) is not None} if batch.is_batched else {}
    is_single = _lacks_batch_axis(headers, specs, axes)
    if is_single or not axes:
        num_rows, row_shapes = 1, {name: header.shape for name, header in headers.items()}
    else:
        num_rows = _count_rows(path, headers, axes)
        row_shapes = {name: _without(header.shape, axes.get(name)) for name, header in headers.items()}
    return Item(
        path=path,
        num_rows=num_rows,
        is_single=is_single,
        row_bytes=sum(header.num_bytes for header in headers.values()) // max(1, num_rows),
        signature=str([(name, str(headers[name].dtype), row_shapes[name]) for name in specs if name in headers]),
    )


def _lacks_batch_axis(headers: Mapping[str, NpyHeader], specs: Specs, axes: Mapping[str, int]) -> bool:
    """Whether every array has one dimension less than a batch of the graph."""
    ranks = {name: spec.shape for name, spec in specs.items() if name in axes}
    return bool(ranks) and all(
        shape is not None and len(headers[name].shape) == len(shape) - 1 for name, shape in ranks.items()
    )


def _count_rows(path: Path, headers: Mapping[str, NpyHeader], axes: Mapping[str, int]) -> int:
    counts: dict[str, int] = {}
    for name, axis in axes.items():
        shape = headers[name].shape
        if axis >= len(shape):
            raise InvalidRequest(f"{path}: {name} has shape {shape}, so no axis {axis} for the rows to lie along")
        counts[name] = shape[axis]
    if len(set(counts.values())) > 1:
        raise InvalidRequest(f"{path}: the inputs differ in rows: {', '.join(f'{k} {v}' for k, v in counts.items())}")
    return next(iter(counts.values()))


def _without(shape: Shape, axis: int | None) -> Shape:
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _refuse_equal_stems(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise ConfigError(f"{seen[path.stem]} and {path.name} would have the same output file; rename one")
        seen[path.stem] = path
