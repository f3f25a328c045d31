"""A model of which only the settings exist: enough to plan for described machines, but not to measure or run."""

from __future__ import annotations

from functools import cached_property
from math import prod
from pathlib import Path
from typing import NoReturn

from shoal.arrays import F32
from shoal.errors import ModelLoadError, while_reading
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.blocks import form_bytes
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.packing import packing_of
from shoal.model.formats.huggingface.config import config_from_hf, holds_mxfp4, quantization_from_hf, stored_dtype
from shoal.model.formats.huggingface.matrix_forms import coded_form, form_of
from shoal.model.formats.huggingface.quantized.from_settings import QuantizedSettings
from shoal.model.formats.tensor_check import Shape, layer_shapes
from shoal.model.weights import KeptRows, Packing, Precision, Range, Weight, resolve_range

KINDS_BY_SETTING = {"float32": Kind.F32, "float16": Kind.F16, "bfloat16": Kind.BF16}


_ENCODER = "encoder."


class SettingsOnly:
    """Implements `WeightSource` with the shapes that follow from a config.json: matrices have sizes but no values.

    The sizes are those of a Hugging Face directory with these settings, in floats or quantized.

    Raises:
        ModelLoadError: the architecture or a setting is not supported, or the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        """`path`: of the config.json, whatever its name, or of its directory."""
        self._path = path
        with while_reading(path):
            self._config = config_from_hf(path)
            settings = quantization_from_hf(path)
            self._coded = QuantizedSettings(path, settings) if settings else None
            self._has_mxfp4 = holds_mxfp4(path)
        self._shapes_by_kind: dict[tuple[bool, ...], dict[str, Shape]] = {}

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """Raises ModelLoadError."""
        self._refuse()

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """Raises ModelLoadError."""
        self._refuse()

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """Bytes that the matrix would take. See `WeightSource`."""
        num_rows, num_columns = self._shape(name)
        first, last = resolve_range(rows, num_rows)
        if coded := self._coded and self._coded.matrix(name, (num_rows, num_columns)):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.num_bytes(form, last - first, resolved)
        kind = Kind.MXFP4 if self._is_mxfp4(name) else Kind.F32
        form, (left, right) = form_of(kind, name, num_columns, precision, columns)
        return form_bytes(form, kind, last - first, right - left)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """How the native kernels would hold a matrix. See `WeightSource`."""
        num_rows, num_columns = self._shape(name)
        first, last = resolve_range(rows, num_rows)
        if coded := self._coded and self._coded.matrix(name, (num_rows, num_columns)):
            form, resolved = coded_form(coded, name, precision, columns)
            return coded.packing(form, last - first, resolved)
        kind = Kind.MXFP4 if self._is_mxfp4(name) else self._kind
        form, resolved = form_of(kind, name, num_columns, precision, columns)
        return packing_of(kind, form, last - first, resolved)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> KeptRows | None:
        """Raises ModelLoadError."""
        self._refuse()

    def release_pages(self) -> None:
        """Does nothing, since nothing was read."""

    @cached_property
    def _kind(self) -> Kind:
        """The float type in which the model's weights are stored, if its settings say so."""
        return KINDS_BY_SETTING.get(stored_dtype(self._path), Kind.F32)

    def _is_mxfp4(self, name: str) -> bool:
        """Whether a matrix is one of gpt-oss's experts."""
        return self._has_mxfp4 and ".experts." in name

    def _shape(self, name: str) -> tuple[int, int]:
        is_end = name in ("embedding", "head")
        config = self._config
        if is_end:
            return config.vocab_size, config.hidden_size
        _, layer, leaf = name.removeprefix(_ENCODER).split(".", 2)
        if name.startswith(_ENCODER) and config.encoder is not None:
            shape = layer_shapes(config.encoder.layers, int(layer))[leaf]
        else:
            shape = self._layer_shapes(int(layer))[leaf]
        return shape[0], prod(shape[1:])

    def _layer_shapes(self, layer: int) -> dict[str, Shape]:
        """The shapes of a layer, which are the same for all layers of a kind."""
        config = self._config
        recurs = config.layer_recurrence(layer) is not None
        kind = config.layer_experts(layer) is not None, recurs, config.has_attention(layer), config.has_mlp(layer)
        if kind not in self._shapes_by_kind:
            self._shapes_by_kind[kind] = layer_shapes(config, layer)
        return self._shapes_by_kind[kind]

    def _refuse(self) -> NoReturn:
        raise ModelLoadError(f"{self._path}: these are only the settings of a model, without its weights")
