"""The weights of a model's encoder, presented as those of a model of its own."""

from __future__ import annotations

from shoal.arrays import F32
from shoal.model.decoder_config import DecoderConfig, EncoderConfig
from shoal.model.weights import KeptRows, Packing, Precision, Range, Weight, WeightSource


class EncoderSource:
    """Drops the prefix `encoder.` of the names of a whole model's weights. Implements `WeightSource`."""

    def __init__(self, source: WeightSource, encoder: EncoderConfig) -> None:
        """`source`: the weights of the whole model, to which `encoder` belongs."""
        self._source, self._config = source, encoder.layers

    @property
    def config(self) -> DecoderConfig:
        return self._config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        """See `WeightSource`."""
        return self._source.matrix(f"encoder.{name}", precision, rows=rows, columns=columns)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        """See `WeightSource`."""
        return self._source.vector(f"encoder.{name}", span=span)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        """See `WeightSource`."""
        return self._source.matrix_bytes(f"encoder.{name}", precision, rows=rows, columns=columns)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        """See `WeightSource`."""
        return self._source.packing(f"encoder.{name}", precision, rows=rows, columns=columns)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> KeptRows | None:
        """See `WeightSource`."""
        return self._source.raw_rows(f"encoder.{name}", precision, rows=rows, columns=columns)

    def release_pages(self) -> None:
        """See `WeightSource`."""
        self._source.release_pages()
