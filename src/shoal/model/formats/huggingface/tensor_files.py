"""The files of a Hugging Face directory that hold its weights, and where each tensor lies in them.

Files are mapped and only their headers are parsed. Source: safetensors format, github.com/huggingface/safetensors.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.errors import ModelLoadError
from shoal.model.formats.model_file import WITHOUT_WEIGHTS, check_inside, map_file, parse_json, read_json

MAX_HEADER_BYTES = 100_000_000
"""Source: the limit of the safetensors format itself"""
_COMPARED_BYTES = 1 << 20
"""Bytes that are compared at a time."""
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Where a tensor of a safetensors file lies."""

    data: mmap.mmap
    dtype: str
    shape: tuple[int, ...]
    start_bytes: int
    stop_bytes: int

    @property
    def num_bytes(self) -> int:
        return self.stop_bytes - self.start_bytes

    def is_same_as(self, other: Tensor) -> bool:
        """Whether both tensors have the same shape, type and bytes. Reading stops at the first difference."""
        if (self.dtype, self.shape, self.num_bytes) != (other.dtype, other.shape, other.num_bytes):
            return False
        starts = range(0, self.num_bytes, _COMPARED_BYTES)
        return all(self._bytes(start) == other._bytes(start) for start in starts)

    def _bytes(self, start: int) -> bytes:
        first = self.start_bytes + start
        return self.data[first : min(first + _COMPARED_BYTES, self.stop_bytes)]

    def items(self, dtype: str) -> npt.NDArray[Any]:
        """All items of the tensor as they lie in the file: a view."""
        itemsize = np.dtype(dtype).itemsize
        return np.frombuffer(self.data, dtype, self.num_bytes // itemsize, self.start_bytes)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the model's weights, from its index if it has one."""
    index = directory / INDEX_FILE
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelLoadError(f"{index}: there is no 'weight_map'")
        files = [directory / name for name in sorted({check_inside(name, index) for name in weight_map.values()})]
    else:
        single = directory / "model.safetensors"
        files = [single] if single.exists() else sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelLoadError(f"{directory}: there are no .safetensors files{_way_out(directory)}")
    for path in files:
        if not path.exists():
            raise ModelLoadError(f"{path} is missing, although {INDEX_FILE} names it; download the model again")
    return files


def _way_out(directory: Path) -> str:
    """What to do if there are no weights, or only some in the older format, which may run code and is not read here."""
    if not any(directory.glob("pytorch_model*.bin")):
        return f"; {WITHOUT_WEIGHTS}"
    return (
        ", only pytorch_model.bin, which can hold programs and is not read; if you trust it, write safetensors with "
        "transformers: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)"
    )


def read_header(path: Path) -> dict[str, Tensor]:
    """Where a file's tensors lie. Raises ModelLoadError."""
    data = map_file(path)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise ModelLoadError(f"{path}: truncated or not a safetensors file (a header of {length} bytes)")
    header = parse_json(f"{path}: truncated or not a safetensors file: its header", data[8 : 8 + length])
    tensors = {
        name: _read_entry(path, name, entry, data, 8 + length)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    in_order = sorted(tensors.items(), key=lambda item: item[1].start_bytes)
    for (name, tensor), (other_name, other) in pairwise(in_order):
        if other.start_bytes < tensor.stop_bytes:
            raise ModelLoadError(f"{path}: the tensors {name!r} and {other_name!r} overlap")
    return tensors


def _read_entry(path: Path, name: str, entry: Any, data: mmap.mmap, data_start: int) -> Tensor:
    """One tensor of any type: files may have tensors that no model is computed from."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise ModelLoadError(f"{path}: the header is damaged: {name!r} has no type, shape and place")
    start, stop = offsets
    if start > stop:
        raise ModelLoadError(f"{path}: the header is damaged: {name!r} ends before it begins")
    if data_start + stop > len(data):
        raise ModelLoadError(
            f"{path}: truncated: {name} ends at byte {data_start + stop}, the file has {len(data)}; download it again"
        )
    return Tensor(
        data=data, dtype=dtype, shape=tuple(shape), start_bytes=data_start + start, stop_bytes=data_start + stop
    )


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
