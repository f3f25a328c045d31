"""The Python interface to encoders of texts: vectors of texts, and texts ranked by how well they answer a query."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np

from shoal.api.work.loop_thread import LoopThread
from shoal.api.work.model_at_work import at_work, unmetered_plane
from shoal.api.work.row_graphs import row_graph_loader
from shoal.arrays import F32
from shoal.config import LaunchConfig
from shoal.core.batching.config import BatchingConfig
from shoal.embeddings.encoder import TextEncoder
from shoal.embeddings.graph_encoder import GraphEncoder
from shoal.embeddings.language_encoder import language_encoder
from shoal.embeddings.ranking import scores_of
from shoal.embeddings.vectors import shortened
from shoal.errors import InvalidRequest, ModelLoadError
from shoal.inference.model_files import named_models
from shoal.inference.repository import ModelRepository
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.launch.loaded_model import LoadedModel
from shoal.model.encoder.decoder_settings import read_decoder_settings
from shoal.model.encoder.find import find_encoder_folder
from shoal.model.encoder.folder import EncoderFolder, open_encoder
from shoal.model.encoder.sentence_settings import SentenceSettings
from shoal.model.encoder.yes_no import YesNoSettings

_MAX_WAITING = 1 << 20
"""Texts that may wait: as many as one call may have."""
_NAME = "encoder"


@dataclass(frozen=True, slots=True)
class RankedText:
    """A ranked text."""

    index: int
    """The position of the text among those that were given."""
    score: float
    text: str


class Encoder:
    """A loaded encoder of texts. Close it, or use it in a `with` block. Thread-safe.

    A worker that dies is started again, and its texts are computed again.

    Examples:
        >>> with shoal.Encoder("all-MiniLM-L6-v2/", split="dp=2") as encoder:  # doctest: +SKIP
        ...     vectors = encoder.embed(["the tide", "a shoal of fish"])
        ...     best = encoder.rank("what swims?", ["the tide", "a shoal of fish"], top_n=1)
    """

    def __init__(self, model: str | Path, *, split: str = "auto", threads: int | None = None) -> None:
        """Plan, start the workers and load the weights.

        Args:
            model: a folder in the format of sentence-transformers, `pkg:NAME` or `hf:org/name`; or a language model
                that makes vectors from its last token, in any form that `shoal.LLM` takes.
            split: see `load`.
            threads: compute threads of each worker; None shares the machine's cores evenly.

        Raises:
            ConfigError: the split makes no sense for this model.
            ModelLoadError: the model is missing, broken, or makes no vectors.
            CapacityError: the model does not fit into memory.
            WorkerLost: workers died while they were loading, again and again.
        """
        self._found: list[TextEncoder] = []
        folder = find_encoder_folder(str(model))
        if folder is not None:
            service = partial(_graph_at_work, open_encoder(folder), split, threads, self._found)
            self._thread = LoopThread(service, "encoder")
        else:
            self._thread = _language_thread(str(model), split, threads, self._found)
        self._finalizer = weakref.finalize(self, self._thread.close)

    @property
    def compares(self) -> bool:
        """Whether the model compares texts with a query and makes no vectors."""
        return self._found[0].compares

    @overload
    def embed(self, texts: str, *, kind: str = "", dimensions: int | None = None, cuts: bool = False) -> F32: ...
    @overload
    def embed(
        self, texts: Sequence[str], *, kind: str = "", dimensions: int | None = None, cuts: bool = False
    ) -> F32: ...
    def embed(
        self, texts: str | Sequence[str], *, kind: str = "", dimensions: int | None = None, cuts: bool = False
    ) -> F32:
        """Compute a vector for each text.

        Args:
            texts: one text, or several, which are computed together.
            kind: what the texts are, such as `query` or `document`, for models that distinguish them.
            dimensions: how many of the first numbers of each vector to keep; None keeps all.
            cuts: whether to cut texts that are too long.

        Returns:
            [H] for one text, [N, H] for several.

        Raises:
            InvalidRequest: a text is too long, or the model makes no vectors.
            WorkerLost: no worker is left to compute on, and none could be started again.
            ModelClosed: the encoder was closed.
        """
        return self._thread.run(self._embed(texts, kind, dimensions, cuts=cuts))

    async def aembed(
        self, texts: str | Sequence[str], *, kind: str = "", dimensions: int | None = None, cuts: bool = False
    ) -> F32:
        """The asyncio form of `embed`, for any event loop."""
        return await self._thread.arun(self._embed(texts, kind, dimensions, cuts=cuts))

    def rank(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> list[RankedText]:
        """Rank texts by how well they answer a query, the best first. Texts that are too long are cut.

        Args:
            query: the question.
            texts: the texts to rank.
            top_n: how many texts to return, >= 1; None returns all.

        Raises:
            ShoalError: for the same reasons as in `embed`.
        """
        return self._thread.run(self._rank(query, texts, top_n))

    async def arank(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> list[RankedText]:
        """The asyncio form of `rank`, for any event loop."""
        return await self._thread.arun(self._rank(query, texts, top_n))

    def close(self) -> None:
        """Stop all workers. Idempotent."""
        self._finalizer()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _embed(self, texts: str | Sequence[str], kind: str, dimensions: int | None, *, cuts: bool) -> F32:
        (encoder,) = self._found
        if encoder.compares:
            raise InvalidRequest("this model compares texts and makes no vectors: use rank")
        given = [texts] if isinstance(texts, str) else list(texts)
        if not given:
            raise InvalidRequest("there are no texts", param="texts")
        values = (await encoder.embed(given, kind=kind, cuts=cuts)).values
        vectors = values if dimensions is None else shortened(values, dimensions)
        return vectors[0] if isinstance(texts, str) else vectors

    async def _rank(self, query: str, texts: Sequence[str], top_n: int | None) -> list[RankedText]:
        if not texts:
            return []
        scores_N = (await scores_of(self._found[0], [(query, text) for text in texts])).values
        order = map(int, np.argsort(-scores_N, kind="stable")[:top_n])
        return [RankedText(index=index, score=float(scores_N[index]), text=texts[index]) for index in order]


def _language_thread(model: str, split: str, threads: int | None, found: list[TextEncoder]) -> LoopThread:
    """A language model that makes vectors or ranks. Raises ModelLoadError where its files do not say so."""
    planned = plan_model(LaunchConfig(model=model, split=split, threads=threads))
    with ExitStack() as on_failure:
        on_failure.callback(planned.close)
        sentences = read_decoder_settings(planned.model.path)
        if sentences is None:
            raise ModelLoadError(f"{model} is not an encoder of texts, and its files mention neither vectors nor ranks")
        on_failure.pop_all()
    loaded = launch(planned)
    with ExitStack() as on_failure:
        on_failure.callback(loaded.close)
        thread = LoopThread(partial(_language_at_work, loaded, sentences, found), "encoder")
        on_failure.pop_all()
    return thread


@asynccontextmanager
async def _language_at_work(
    loaded: LoadedModel, sentences: SentenceSettings | YesNoSettings, found: list[TextEncoder]
) -> AsyncGenerator[None, None]:
    data_plane = unmetered_plane(loaded)
    async with at_work(loaded, data_plane):
        found.append(language_encoder(data_plane, sentences))
        yield


@asynccontextmanager
async def _graph_at_work(
    folder: EncoderFolder, split: str, threads: int | None, found: list[TextEncoder]
) -> AsyncGenerator[None, None]:
    """The graph's workers, started by the loop's thread, which lives as long as they."""
    load = row_graph_loader(split, threads)
    files = named_models({_NAME: folder.graph})
    repository = ModelRepository(lambda: files, load, lambda file: BatchingConfig(max_queue_rows=_MAX_WAITING))
    try:
        repository.load_now(_NAME)
        plan = repository.get(_NAME).plan
        found.append(GraphEncoder(folder, lambda: repository.get(_NAME), plan.inputs, plan.outputs))
        repository.start()
        yield
    finally:
        for one in found:
            one.close()
        await repository.close()
