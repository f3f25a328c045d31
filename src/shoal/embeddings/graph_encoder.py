"""An encoder over a served graph: texts become rows of tokens, and rows of similar lengths run together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from shoal.arrays import F32, Array
from shoal.core.plan.graph import TensorSpec
from shoal.embeddings.encoder import Encoded, Text, no_instruction
from shoal.errors import ModelLoadError
from shoal.generation.readers import Readers
from shoal.model.encoder.bert_graph import SCORES, VECTORS
from shoal.model.encoder.folder import EncoderFolder
from shoal.model.encoder.pooling import normalized, pool
from shoal.model.encoder.text_rows import RowBatch, TextRow
from shoal.router.graph_executor import Tensors

QUICK_CHARS = 4096
"""The most characters that are tokenized in the event loop; longer texts go to a thread."""
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
_TOKEN_VECTORS = ("last_hidden_state", "token_embeddings")


class ServedGraph(Protocol):
    """The part of a served model that an encoder needs."""

    async def infer(self, inputs: Tensors, timeout_s: float | None = None, call_id: str = "") -> Mapping[str, Array]:
        """Compute all outputs for these inputs."""
        ...


class GraphEncoder:
    """Encodes or compares texts with a graph. Implements `TextEncoder`."""

    def __init__(
        self,
        folder: EncoderFolder,
        model: Callable[[], ServedGraph],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
    ) -> None:
        """
        Args:
            folder: the folder of the model.
            model: gives the model that serves its graph now.
            inputs: the inputs of its graph.
            outputs: the outputs of its graph.

        Raises:
            ModelLoadError: the graph is no encoder.
        """
        self._folder = folder
        self._model = model
        self._readers = Readers()
        self._dtypes = {spec.name: spec.dtype for spec in inputs if not spec.is_optional}
        if unknown := self._dtypes.keys() - {_IDS, _MASK, _TYPES}:
            raise ModelLoadError(f"{folder.graph}: the input {min(unknown)!r} is not one that an encoder of texts has")
        names = [spec.name for spec in outputs]
        wanted = (SCORES,) if folder.compares else (VECTORS, *_TOKEN_VECTORS)
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise ModelLoadError(
                f"{folder.graph}: there is no output {' or '.join(wanted)}, only {', '.join(names)[:200]}"
            )
        self._output = found

    @property
    def compares(self) -> bool:
        """See `TextEncoder`."""
        return self._folder.compares

    async def embed(
        self, texts: Sequence[Text], *, kind: str = "", cuts: bool = False, timeout_s: float | None = None
    ) -> Encoded:
        """See `TextEncoder`."""
        prompt = self._folder.sentences.prompt(kind)
        strings = [prompt + text for text in texts if isinstance(text, str)]
        encoded = iter(await self._rows(strings, cuts=cuts))
        rows = [
            next(encoded) if isinstance(text, str) else self._folder.rows.row_of_ids(text, cuts=cuts) for text in texts
        ]
        return await self._encode(rows, timeout_s)

    async def compare(
        self, pairs: Sequence[tuple[str, str]], *, instruction: str = "", timeout_s: float | None = None
    ) -> Encoded:
        """See `TextEncoder`."""
        if instruction:
            raise no_instruction()
        encoded = await self._encode(await self._rows(pairs, cuts=True), timeout_s)
        scores_N = (1.0 / (1.0 + np.exp(-encoded.values.reshape(-1)))).astype(np.float32)
        return Encoded(values=scores_N, num_tokens=encoded.num_tokens)

    def close(self) -> None:
        """Accept no more calls."""
        self._readers.close()

    async def _rows(self, texts: Sequence[str] | Sequence[tuple[str, str]], *, cuts: bool) -> list[TextRow]:
        if not texts:
            return []
        if sum(len(one) for text in texts for one in ((text,) if isinstance(text, str) else text)) <= QUICK_CHARS:
            return self._folder.rows.rows(texts, cuts=cuts)
        return await self._readers.run(lambda: self._folder.rows.rows(texts, cuts=cuts))

    async def _encode(self, rows: Sequence[TextRow], timeout_s: float | None) -> Encoded:
        batches = list(self._folder.rows.batches(rows))
        parts = await asyncio.gather(*(self._run(batch, timeout_s) for batch in batches))
        values = np.empty((len(rows), *parts[0].shape[1:]), np.float32)
        for batch, part in zip(batches, parts, strict=True):
            values[list(batch.places)] = part
        return Encoded(values=values, num_tokens=sum(len(row.ids) for row in rows))

    async def _run(self, batch: RowBatch, timeout_s: float | None) -> F32:
        arrays = {_IDS: batch.ids_BS, _MASK: batch.mask_BS, _TYPES: batch.type_ids_BS}
        inputs = {name: arrays[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}
        outputs = await self._model().infer(inputs, timeout_s)
        values = np.asarray(outputs[self._output], np.float32)
        if self._output in _TOKEN_VECTORS:
            sentences = self._folder.sentences
            values = pool(values, batch.mask_BS, sentences.pooling)
            return normalized(values) if sentences.is_normalized else values
        return values
