"""The output of a map over a folder: one file for each item."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError
from shoal.offline.files.item_source import Item
from shoal.offline.files.tensor_values import as_stored
from shoal.out_files import sync_file, whole_file


class ItemSink:
    """Writes `STEM.npy` if a graph has one output, otherwise `STEM.npz` with an array for each output."""

    def __init__(self, folder: Path, outputs: Sequence[str], batch: BatchAxes) -> None:
        self.folder = folder
        self._outputs = outputs
        self._batch = batch
        self._unsynced: list[Path] = []

    def path(self, item: Item) -> Path:
        """The path of an item's output."""
        return self.folder / f"{item.path.stem}{'.npy' if len(self._outputs) == 1 else '.npz'}"

    def refuse_existing(self, items: Iterable[Item]) -> None:
        """Check that no output exists already. Raises ConfigError."""
        for item in items:
            if (path := self.path(item)).exists():
                raise ConfigError(f"{path} exists already; give another -o, or remove it")

    def write(self, item: Item, outputs: Mapping[str, Array]) -> None:
        """Write an item's output atomically. Raises CapacityError."""
        arrays = {name: self._as_item(item, name, outputs[name]) for name in self._outputs}
        path = self.path(item)
        with whole_file(path) as file:
            if len(arrays) == 1:
                np.lib.format.write_array(file, arrays[self._outputs[0]], allow_pickle=False)
            else:
                with zipfile.ZipFile(file, "w") as archive:
                    for name, array in arrays.items():
                        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, array, allow_pickle=False)
        self._unsynced.append(path)

    def sync(self) -> None:
        """Wait until everything written is on disk. Raises CapacityError."""
        for path in self._unsynced:
            sync_file(path)
        if self._unsynced:
            sync_file(self.folder)
        self._unsynced.clear()

    def _as_item(self, item: Item, name: str, array: Array) -> Array:
        axis = self._batch.outputs.get(name)
        if item.is_single and axis is not None and array.shape[axis] == 1:
            array = array.squeeze(axis)
        return as_stored(array)
