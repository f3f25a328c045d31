"""Tensors of a Hugging Face directory by name, for parts of a model that are not layers of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from shoal.arrays import F32
from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.blocks import to_dense
from shoal.model.formats.huggingface.tensor_files import Tensor, read_header, weight_files
from shoal.model.formats.huggingface.tensor_map import ITEM_BYTES, KINDS


def part_files(folder: Path) -> list[Path]:
    """The files from which graphs of a Hugging Face directory are built: its settings and its weights."""
    return [*folder.glob("*config.json"), *folder.glob("*.safetensors")]


class PartTensors:
    """All tensors of a directory. Whoever reads one says which shape it must have."""

    def __init__(self, folder: Path, *ends: str) -> None:
        """
        Args:
            folder: the directory.
            ends: how the name of one tensor of each part ends; what stands before it is the part's prefix.

        Raises:
            ModelLoadError: there is no such tensor or several, or a file is broken.
        """
        self.path = folder
        self._tensors: dict[str, Tensor] = {}
        for path in weight_files(folder):
            self._tensors.update(read_header(path))
        self._prefixes = ("", *map(self._prefix, ends))

    def read(self, name: str, *dims: int | None) -> F32:
        """A tensor as floats.

        Args:
            name: without the prefix of its part, or the whole name.
            dims: the shape that it must have; None: any size.

        Raises:
            ModelLoadError: the tensor is missing, of another shape or broken.
        """
        tensor = self._find(name)
        if not fits(tensor.shape, dims):
            raise ModelLoadError(f"{self.path}: {name} has the shape {list(tensor.shape)}")
        if tensor.dtype not in KINDS or tensor.num_bytes != prod(tensor.shape) * ITEM_BYTES[tensor.dtype]:
            raise ModelLoadError(f"{self.path}: {name} has type {tensor.dtype} and {tensor.num_bytes} bytes")
        items = np.frombuffer(tensor.data, np.uint8, tensor.num_bytes, tensor.start_bytes)
        return to_dense(items.reshape(1, -1), KINDS[tensor.dtype])[0].reshape(tensor.shape)

    def dtype_of(self, name: str) -> str:
        """The tensor's type in the file, such as `BF16`. Raises ModelLoadError if it is missing."""
        return self._find(name).dtype

    def _prefix(self, ends: str) -> str:
        names = [name for name in self._tensors if name.endswith(ends)]
        if len(names) != 1:
            raise ModelLoadError(f"{self.path}: expected one tensor {ends}, found {len(names)}")
        return names[0].removesuffix(ends)

    def _find(self, name: str) -> Tensor:
        found = (self._tensors.get(prefix + name) for prefix in reversed(self._prefixes))
        tensor = next((tensor for tensor in found if tensor is not None), None)
        if tensor is None:
            raise ModelLoadError(f"{self.path}: there is no tensor {name}")
        return tensor


def fits(shape: Sequence[int], dims: Sequence[int | None]) -> bool:
    """Whether a shape matches the required one; None: any size."""
    return len(shape) == len(dims) and all(want in (None, size) for want, size in zip(dims, shape, strict=True))
