"""A model with an adapter merged into its weights as they are read, so that it costs nothing at run time."""

from __future__ import annotations

from shoal.arrays import F32
from shoal.model.adapter.adapter import Adapter
from shoal.model.adapter.low_rank import LowRank
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.gguf.blocks import columns_to_weight, form_bytes
from shoal.model.formats.gguf.kinds import Kind
from shoal.model.formats.gguf.packing import packing_of
from shoal.model.formats.huggingface.matrix_forms import form_of
from shoal.model.weights import DenseWeight, KeptRows, Packing, Precision, Range, Weight, WeightSource, resolve_range


class MergedSource:
    """Weights of another source, some of them replaced by W + scale * B A. Implements `WeightSource`.

    Sums are in fp32, whatever the file's type: `auto` keeps them so, and other precisions quantize them.
    """

    def __init__(self, source: WeightSource, adapter: Adapter) -> None:
        """`source`: of the whole model."""
        self._source = source
        self._terms = adapter.terms

    @property
    def config(self) -> DecoderConfig:
        return self._source.config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """See `WeightSource`."""
        term = self._terms.get(name)
        if term is None:
            return self._source.matrix(name, precision, rows=rows, columns=columns)
        form, (first, last) = form_of(Kind.F32, name, term.a.shape[1], precision, columns)
        weight = self._source.matrix(name, "fp32", rows=rows)
        assert isinstance(weight, DenseWeight)
        merged_NK = weight.values_NK[:, first:last] + term.part(rows, (first, last)).product()
        return columns_to_weight(merged_NK.view("u1"), Kind.F32, form, (0, last - first))

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """See `WeightSource`."""
        return self._source.vector(name, span=span)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """See `WeightSource`."""
        term = self._terms.get(name)
        if term is None:
            return self._source.matrix_bytes(name, precision, rows=rows, columns=columns)
        form, (first, last) = form_of(Kind.F32, name, term.a.shape[1], precision, columns)
        return form_bytes(form, Kind.F32, self._num_rows(name, term, rows), last - first)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """See `WeightSource`."""
        term = self._terms.get(name)
        if term is None:
            return self._source.packing(name, precision, rows=rows, columns=columns)
        form, resolved = form_of(Kind.F32, name, term.a.shape[1], precision, columns)
        return packing_of(Kind.F32, form, self._num_rows(name, term, rows), resolved)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> KeptRows | None:
        """See `WeightSource`. None for sums, which are not in a file."""
        return None if name in self._terms else self._source.raw_rows(name, precision, rows=rows, columns=columns)

    def release_pages(self) -> None:
        """See `WeightSource`."""
        self._source.release_pages()

    def _num_rows(self, name: str, term: LowRank, rows: Range | None) -> int:
        first, last = resolve_range(rows, term.b.shape[0])
        return last - first
