"""A Hugging Face directory of safetensors as a WeightSource.

Files are mapped and only their headers are parsed; NumPy has no bfloat16, so the bytes are widened here.
Source: safetensors format, github.com/huggingface/safetensors, README.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from shoal.arrays import F32, I64, U8
from shoal.errors import ModelLoadError
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.blocks import (
    FLOATS,
    Form,
    columns_to_weight,
    form_bytes,
)
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.packing import keeps_values, packing_of
from shoal.model.formats.huggingface.config import family_from_hf, quantization_from_hf
from shoal.model.formats.huggingface.directory_check import check_directory
from shoal.model.formats.huggingface.families.family import Family
from shoal.model.formats.huggingface.matrix_forms import coded_form, floats_to_weight, form_of
from shoal.model.formats.huggingface.mxfp4 import (
    mxfp4_rows,
    scales_of,
)
from shoal.model.formats.huggingface.quantized.coded_matrix import CodedMatrix
from shoal.model.formats.huggingface.quantized.table import find_coded
from shoal.model.formats.huggingface.tensor_files import Tensor, read_header, weight_files
from shoal.model.formats.huggingface.tensor_map import ITEM_BYTES, KINDS, TensorMap
from shoal.model.formats.model_file import release_pages
from shoal.model.formats.tensor_part import Naming, TensorPart
from shoal.model.weights import (
    DenseWeight,
    KeptRows,
    Packing,
    Precision,
    Range,
    RawRows,
    Weight,
)

NORMS = ("attn_norm", "q_norm", "k_norm", "post_attn_norm", "mlp_norm", "post_mlp_norm", "final_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model's settings and tensors, read from another file format."""

    family: Family
    config: DecoderConfig
    tensors: Mapping[str, Tensor]


class SafetensorsDir:
    """The weights of a Hugging Face directory, in one or several files, read when asked for. Implements `WeightSource`.

    Raises:
        ModelLoadError: a file is missing or broken, the architecture is not supported, or the tensors are not those of
            the model that config.json describes.
    """

    naming: Naming = "huggingface"

    def __init__(self, directory: Path, opened: Opened | None = None) -> None:
        """`opened`: the folder's content, if it was read in another way."""
        self._family, self._config = (opened.family, opened.config) if opened else family_from_hf(directory)
        self._tensors: dict[str, Tensor] = dict(opened.tensors) if opened else {}
        for path in () if opened else weight_files(directory):
            self._add(path)
        quantization = {} if opened else quantization_from_hf(directory)
        coded = find_coded(directory, quantization, self._tensors) if quantization else {}
        self._coded: Mapping[str, CodedMatrix] = coded
        self._map = TensorMap(directory, self._family, self._config, self._tensors, coded)
        check_directory(self._map)
        self._config = replace(self._config, tied_embeddings=self._map.is_tied())

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """A matrix, or a part of it, at this precision; `auto` is fp32 if the files hold floats. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.weight(form, self._numbers(part), resolved)
        kind, form, resolved = self._form(name, part, precision, columns)
        to_weight = floats_to_weight if kind in FLOATS else columns_to_weight
        return to_weight(self._rows(part), kind, form, resolved)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """A norm weight or bias in fp32. Norm weights include the 1 that the family's layers add. See
        `WeightSource`."""
        part = self.locate(name).cut(span)
        values = self._map.floats_of(part.tensor)
        shape = self._tensors[part.tensor].shape
        if len(shape) == 3:  # taps of a convolution
            values = values.reshape(shape[0], -1)
        values = values[self._numbers(part)].reshape(-1)
        if part.tensor.endswith("A_log"):  # fp64, so that all machines get the same fp32 number
            return -np.exp(values.astype(np.float64)).astype(np.float32)
        adds_one = self._family.norms_add_one and name.rpartition(".")[2] in NORMS
        return values + np.float32(1) if adds_one else values.copy()

    def _numbers(self, part: TensorPart) -> slice | I64:
        """Numbers of the part's rows in its tensor."""
        return part.numbers(self._config.rope.rotary_dim)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """The value that `matrix(...).num_bytes` would have, from the headers alone."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.num_bytes(form, part.num_rows, resolved)
        kind, form, (first, last) = self._form(name, part, precision, columns)
        return form_bytes(form, kind, part.num_rows, last - first)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels hold a matrix: floats in the file's own precision. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.packing(form, part.num_rows, resolved)
        kind, form, resolved = self._form(name, part, precision, columns)
        return packing_of(kind, form, part.num_rows, resolved)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> KeptRows | None:
        """A matrix as it lies in the file, if its values are kept. See `WeightSource`."""
        part = self.locate(name).cut(rows)
        if coded := self._coded_of(part):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.kept(form, self._numbers(part), resolved)
        kind, form, resolved = self._form(name, part, precision, columns)
        if not keeps_values(kind, form):
            return None
        return RawRows(kind=kind, rows_NB=self._rows(part), order_N=None, columns=resolved)

    def release_pages(self) -> None:
        """See `WeightSource`."""
        for data in {id(tensor.data): tensor.data for tensor in self._tensors.values()}.values():
            release_pages(data)

    def _coded_of(self, part: TensorPart) -> CodedMatrix | None:
        """A quantized matrix, unless it is transposed: then its scales would lie across it, and it counts as floats."""
        return None if part.turned else self._coded.get(part.tensor)

    def _form(
        self, name: str, part: TensorPart, precision: Precision, columns: Range | None
    ) -> tuple[Kind, Form, Range]:
        """The kind of a matrix in the file, the form of the whole matrix, and the range of columns that is wanted."""
        shape = self._map.shape(part.tensor)
        if part.tensor in self._coded:
            kind = Kind.F32
        else:
            kind = Kind.MXFP4 if self._map.is_mxfp4(part.tensor) else KINDS[self._tensors[part.tensor].dtype]
        as_floats = Kind.F32 if kind in FLOATS else kind
        num_columns = part.num_inputs if part.turned else shape[-1]
        form, resolved = form_of(as_floats, name, num_columns, precision, columns)
        return kind, form, resolved

    def _add(self, path: Path) -> None:
        for name, tensor in read_header(path).items():
            if name in self._tensors:
                raise ModelLoadError(f"{path}: the tensor {name!r} is in another file of the model, too")
            self._tensors[name] = tensor

    def _rows(self, part: TensorPart) -> U8:
        """The bytes [N, row_bytes] of some rows; a view of the file if they lie there in this order."""
        if coded := self._coded.get(part.tensor):
            values = coded.weight("dense", slice(part.start, part.stop), (0, coded.shape[1]))
            assert isinstance(values, DenseWeight)
            return np.ascontiguousarray(values.values_NK.T).view(np.uint8)
        tensor = self._tensors[part.tensor]
        if self._map.is_mxfp4(part.tensor):
            return mxfp4_rows(tensor, self._tensors[scales_of(part.tensor)], slice(part.start, part.stop, part.step))
        item_bytes = ITEM_BYTES[tensor.dtype]
        items = np.frombuffer(tensor.data, f"u{item_bytes}", prod(tensor.shape), tensor.start_bytes)
        numbers = part.numbers(self._config.rope.rotary_dim)
        if part.turned:
            rows_NK = items.reshape(tensor.shape)[part.start : part.stop].T
        elif self._map.is_transposed(part.tensor) and part.stack == 0:
            rows_NK = items.reshape(tensor.shape).T[numbers]
        elif self._map.is_transposed(part.tensor):
            num_rows = tensor.shape[2]
            matrix_KN = items.reshape(tensor.shape)[part.start // num_rows]
            first = part.start % num_rows
            rows_NK = matrix_KN[:, first : first + part.num_rows * part.step : part.step].T
        else:
            rows_NK = items.reshape(-1, tensor.shape[-1])[numbers]
        return np.ascontiguousarray(rows_NK).view(np.uint8)

    def locate(self, name: str) -> TensorPart:
        """The rows of a tensor that hold a matrix or vector, given its name in `WeightSource`."""
        return self._map.locate(name)
