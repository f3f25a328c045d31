"""The header of a GGUF file: metadata and where each tensor lies, without reading any tensor or tokenizer array.

The gguf package's reader builds a Python object for every token, seconds for a large vocabulary; every worker opens
the file, so long arrays are only stepped over here and decoded when asked for.
Source: GGUF specification, github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from shoal.arrays import U8
from shoal.errors import ModelLoadError
from shoal.model.formats.gguf.kinds import BLOCK_SIZES, DEFAULT_ALIGNMENT, Kind, ValueType
from shoal.model.formats.gguf.strings import read_strings, skip_strings
from shoal.model.formats.model_file import map_file, release_pages

VERSIONS = (2, 3)
MAX_DIMS = 4
"""Source: GGML_MAX_DIMS in ggml.h"""
MAX_NAME_CHARS = 512
"""of a tensor: eight times GGML_MAX_NAME in ggml.h, and few enough for a message"""
_FEWEST_KEY_BYTES = 8 + 4 + 1
"""Bytes of a key with an empty name: length of the name, type, a value of one byte."""
_FEWEST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
"""Bytes of a tensor with an empty name: length of the name, number of dimensions, one dimension, type, offset."""
SCALAR_FORMATS = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies. `shape` has the length of a row last, the reverse of the file's order."""

    kind: Kind
    shape: tuple[int, ...]
    start_bytes: int
    row_bytes: int

    @property
    def num_rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def stop_bytes(self) -> int:
        return self.start_bytes + self.num_rows * self.row_bytes


class GgufHeader:
    """A GGUF file whose header is parsed and whose tensors are mapped, not read.

    Raises:
        ModelLoadError: the file is not GGUF, has another version or byte order, or is shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        """Scalars and strings by key; arrays are read with `array`."""
        self.tensors: dict[str, TensorInfo] = {}
        self._array_starts: dict[str, int] = {}
        self._position = self._header_bytes = 0
        self._data = map_file(path)
        try:
            self._parse()
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise ModelLoadError(f"{path}: the GGUF header is corrupt near byte {self._position} ({error})") from error
        self._check_size()
        self._check_overlaps()

    @property
    def array_names(self) -> list[str]:
        """Keys whose values are arrays."""
        return list(self._array_starts)

    def array_length(self, key: str) -> int:
        """Number of items of an array of the metadata, without decoding it; 0 if the file has no such array."""
        if key not in self._array_starts:
            return 0
        self._position = self._array_starts[key]
        return self._array_head()[1]

    def array(self, key: str) -> list[Any] | None:
        """An array of the metadata, decoded now; None if the file has no such array."""
        if key not in self._array_starts:
            return None
        self._position = self._array_starts[key]
        return self._read_array()

    def digest(self) -> str:
        """SHA-256 of the header: equal for two files with the same metadata and tensor layout."""
        return hashlib.sha256(memoryview(self._data)[: self._header_bytes]).hexdigest()

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> U8:
        """The bytes [rows, row_bytes] of some rows of a tensor: a view of the file, valid until this object is
        dropped."""
        tensor = self.tensors[name]
        data = np.frombuffer(self._data, np.uint8, tensor.num_rows * tensor.row_bytes, tensor.start_bytes)
        return data.reshape(tensor.num_rows, tensor.row_bytes)[start:stop]

    def release_pages(self) -> None:
        """See `WeightSource.release_pages`."""
        release_pages(self._data)

    def _parse(self) -> None:
        if self._data[:4] != b"GGUF":
            raise ModelLoadError(f"{self.path}: not a GGUF file (it does not begin with the bytes 'GGUF')")
        self._position = 4
        version = self._scalar("<I")
        if version not in VERSIONS:
            raise ModelLoadError(f"{self.path}: GGUF version {version} is not supported, only little-endian 2 and 3")
        num_tensors, num_keys = self._scalar("<Q"), self._scalar("<Q")
        self._check_left(num_keys * _FEWEST_KEY_BYTES, f"{num_keys} keys")
        for _ in range(num_keys):
            self._read_key()
        self._check_left(num_tensors * _FEWEST_TENSOR_BYTES, f"{num_tensors} tensors")
        infos = [self._read_tensor_info() for _ in range(num_tensors)]
        self._header_bytes = self._position
        alignment = self._alignment()
        data_start = -(-self._position // alignment) * alignment
        for name, kind, shape, offset in infos:
            if name in self.tensors:
                raise ValueError(f"there are two tensors {name!r}")
            if offset % alignment:
                raise ValueError(f"tensor {name!r} begins at {offset}, which is no multiple of {alignment}")
            self.tensors[name] = self._place(name, kind, shape, data_start + offset)

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment!r}, not a power of two")
        return alignment

    def _check_left(self, num_bytes: int, what: str) -> None:
        """Refuse a count that the file claims before anything is made from it."""
        if num_bytes > len(self._data) - self._position:
            raise ValueError(f"{what}, for which the file is too short")

    def _scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._data, self._position)
        self._position += struct.calcsize(form)
        return value

    def _string(self) -> str:
        length = self._scalar("<Q")
        self._check_left(length, f"a string of {length} bytes")
        start = self._position
        self._position += length
        return self._data[start : self._position].decode("utf-8", errors="replace")

    def _read_key(self) -> None:
        key = self._string()
        if key in self.metadata or key in self._array_starts:
            raise ValueError(f"the key {key!r} is there twice")
        kind = ValueType(self._scalar("<I"))
        if kind == ValueType.ARRAY:
            self._array_starts[key] = self._position
            self._skip_array()
        else:
            self.metadata[key] = self._value(kind)

    def _value(self, kind: ValueType) -> Any:
        return self._string() if kind == ValueType.STRING else self._scalar(SCALAR_FORMATS[kind])

    def _array_head(self) -> tuple[ValueType, int]:
        kind, count = ValueType(self._scalar("<I")), self._scalar("<Q")
        if kind == ValueType.ARRAY:
            raise ValueError("an array of arrays")
        item_bytes = 8 if kind == ValueType.STRING else struct.calcsize(SCALAR_FORMATS[kind])
        self._check_left(count * item_bytes, f"an array of {count} items")
        return kind, count

    def _skip_array(self) -> None:
        kind, count = self._array_head()
        if kind != ValueType.STRING:
            self._position += count * struct.calcsize(SCALAR_FORMATS[kind])
            return
        self._position = skip_strings(self._data, self._position, count)

    def _read_array(self) -> list[Any]:
        kind, count = self._array_head()
        if kind == ValueType.STRING:
            return read_strings(self._data, self._position, count)
        return np.frombuffer(self._data, SCALAR_FORMATS[kind], count, self._position).tolist()

    def _read_tensor_info(self) -> tuple[str, int, tuple[int, ...], int]:
        name, num_dims = self._string(), self._scalar("<I")
        if len(name) > MAX_NAME_CHARS:
            raise ValueError(f"a tensor has a name of {len(name)} characters")
        if num_dims > MAX_DIMS:
            raise ValueError(f"tensor {name!r} of {num_dims} dimensions")
        dims = [self._scalar("<Q") for _ in range(num_dims)]
        if 0 in dims:
            raise ValueError(f"tensor {name!r} has a dimension of 0")
        return name, self._scalar("<I"), tuple(reversed(dims)) or (1,), self._scalar("<Q")

    def _place(self, name: str, kind_number: int, shape: tuple[int, ...], start: int) -> TensorInfo:
        try:
            kind = Kind(kind_number)
        except ValueError:
            raise ModelLoadError(f"{self.path}: tensor {name!r} has the unknown GGML type {kind_number}") from None
        block_weights, block_bytes = BLOCK_SIZES[kind]
        if shape[-1] % block_weights:
            raise ValueError(f"tensor {name!r}: rows of {shape[-1]} do not divide into {kind.name} blocks")
        return TensorInfo(kind=kind, shape=shape, start_bytes=start, row_bytes=shape[-1] // block_weights * block_bytes)

    def _check_size(self) -> None:
        expected = max((tensor.stop_bytes for tensor in self.tensors.values()), default=0)
        if expected > len(self._data):
            raise ModelLoadError(
                f"{self.path}: truncated: its tensors need {expected} bytes, the file has {len(self._data)}; "
                "download it again"
            )

    def _check_overlaps(self) -> None:
        """Refuse two tensors over the same bytes, by which a small file could stand for any amount of weights."""
        in_order = sorted(self.tensors.items(), key=lambda item: item[1].start_bytes)
        for (name, tensor), (other_name, other) in pairwise(in_order):
            if other.start_bytes < tensor.stop_bytes:
                raise ModelLoadError(f"{self.path}: the tensors {name!r} and {other_name!r} overlap")
