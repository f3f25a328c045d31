"""Writes a GGUF file, its metadata first and then one tensor at a time. A failure leaves no file behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.arrays import U8
from shoal.errors import CapacityError, ConfigError, ModelLoadError
from shoal.model.formats.gguf.file import GgufFile
from shoal.model.formats.gguf.kinds import BLOCK_SIZES, DEFAULT_ALIGNMENT, Kind
from shoal.model.formats.gguf.writing.encode import GgufPrecision, choose_kind, encode
from shoal.model.formats.gguf.writing.metadata import (
    architecture_of,
    described,
    differences,
    metadata_of,
    rope_tensors,
)
from shoal.model.formats.gguf.writing.tensors import OutTensor, out_tensors
from shoal.model.weights import WeightSource

FILE_TYPES = {
    **{Kind.F32: 0, Kind.F16: 1, Kind.Q4_0: 2, Kind.Q4_1: 3, Kind.Q8_0: 7, Kind.Q5_0: 8, Kind.Q5_1: 9},
    **{Kind.BF16: 32, Kind.MXFP4: 38},
}
"""Source: llama.h, enum llama_ftype"""
QUANTIZATION_VERSION = 2
"""Source: ggml.h, GGML_QNT_VERSION"""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    tensor: OutTensor
    kind: Kind

    @property
    def byte_shape(self) -> tuple[int, ...]:
        weights, num_bytes = BLOCK_SIZES[self.kind]
        return (*self.tensor.shape[:-1], self.tensor.shape[-1] // weights * num_bytes)

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.byte_shape))


def write_gguf_file(
    source: WeightSource,
    path: Path,
    precision: GgufPrecision,
    *,
    tokenizer: Mapping[str, Any],
    name: str,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Counter[Kind]:
    """Write a model as a GGUF file. Returns the number of tensors of each kind.

    Args:
        source: of the whole model.
        path: of the file, which other processes see only when it is complete.
        precision: of the matrices.
        tokenizer: metadata of the tokenizer by its full keys.
        name: of the model.
        overwrite: whether an existing file is replaced.
        progress: called with the number of tensors that are written, and of all tensors.

    Raises:
        ConfigError: the file exists already, or cannot be written.
        ModelLoadError: GGUF cannot describe the model, or its weights cannot be read.
        CapacityError: the disk has too little room.
    """
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already; overwrite it with --force")
    architecture = architecture_of(source.config)
    tensors = [*_rope_tensors(source), *out_tensors(source.config, architecture)]
    steps = 2 * len(tensors)
    placed = list[_Placed]()
    for number, tensor in enumerate(tensors):
        kind = Kind.F32 if tensor.is_vector else choose_kind(source, tensor.parts, precision)
        placed.append(_Placed(tensor=tensor, kind=kind))
        progress(number + 1, steps)
    with _written_whole(path, sum(one.num_bytes for one in placed)) as new:
        writer = _writer(source, new, architecture, placed, tokenizer, name)
        try:
            for number, one in enumerate(placed):
                if one.tensor.parts and (number == 0 or not placed[number - 1].tensor.parts):
                    _check_reads_alike(source, new, placed)
                writer.write_tensor_data(_data(source, one))
                source.release_pages()
                progress(len(tensors) + number + 1, steps)
        finally:
            writer.close()
    return Counter(one.kind for one in placed)


def _rope_tensors(source: WeightSource) -> Iterator[OutTensor]:
    for name, values in rope_tensors(source.config).items():
        yield OutTensor(name=name, parts=(), shape=values.shape, is_vector=True, values=values)


def _writer(
    source: WeightSource,
    path: Path,
    architecture: str,
    placed: Sequence[_Placed],
    tokenizer: Mapping[str, Any],
    name: str,
) -> Any:
    """A writer of the gguf package that has written everything but the tensors' data."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_name(name)
    most = Counter(one.kind for one in placed if not one.tensor.is_vector).most_common(1)
    if most and most[0][0] in FILE_TYPES:
        writer.add_file_type(FILE_TYPES[most[0][0]])
    writer.add_quantization_version(QUANTIZATION_VERSION)
    for key, value in metadata_of(source.config, architecture).items():
        add_value(writer, f"{architecture}.{key}", value)
    for key, value in tokenizer.items():
        add_value(writer, key, value)
    for one in placed:
        kind = GGMLQuantizationType(one.kind)
        writer.add_tensor_info(one.tensor.name, one.byte_shape, np.dtype(np.uint8), one.num_bytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()  # and flushes it
    return writer


def add_value(writer: Any, key: str, value: Any) -> None:
    """Add a key to the metadata, with the type of its value."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value))


def _check_reads_alike(source: WeightSource, path: Path, placed: Sequence[_Placed]) -> None:
    """Check that reading the file gives the model's settings. Most of its tensors are still holes at that time.

    Raises:
        ModelLoadError: it does not.
    """
    begun = path.stat().st_size
    os.truncate(path, begun + sum(one.num_bytes + DEFAULT_ALIGNMENT for one in placed) + DEFAULT_ALIGNMENT)
    try:
        written = GgufFile(path).config
    finally:
        os.truncate(path, begun)
    meant = source.config
    if differing := differences(meant, written):
        raise ModelLoadError(f"GGUF cannot describe this model: {described(differing, meant, written)}")


def _data(source: WeightSource, one: _Placed) -> U8:
    tensor = one.tensor
    if tensor.values is not None:
        return np.ascontiguousarray(tensor.values, "<f4").view(np.uint8)
    if tensor.is_vector:
        values = [
            part.ordered(source.matrix(part.name, "fp32").values_NK[0])  # type: ignore[union-attr]
            if part.name.endswith("shared_router")
            else part.ordered(source.vector(part.name))
            for part in tensor.parts
        ]
        return np.ascontiguousarray(np.concatenate(values), "<f4").view(np.uint8)
    rows = np.concatenate([encode(source, part, one.kind) for part in tensor.parts])
    rows = rows if tensor.order_N is None else rows[tensor.order_N]
    return rows.reshape(one.byte_shape)


@contextmanager
def _written_whole(path: Path, num_bytes: int) -> Iterator[Path]:
    """A temporary file in the same folder, which takes the name at the end, and is removed if the block fails."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CapacityError(
            f"{path} needs {num_bytes / 1000000000.0:.1f} GB, but the disk has {free / 1000000000.0:.1f} GB free"
        )
    new = folder / f".{path.name}.{os.getpid()}.new"
    try:
        yield new
        with open(new, "rb") as written:
            os.fsync(written.fileno())
        os.replace(new, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CapacityError(f"{path} cannot be written whole: the disk is full") from error
        raise ConfigError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
