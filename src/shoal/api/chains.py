"""The Python interface to chains: a chain of models as a callable."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from shoal.api.chain_language import LanguageModels
from shoal.api.work.loop_thread import LoopThread
from shoal.api.work.row_graphs import row_graph_loader
from shoal.chains.definition import Chain, read_chain
from shoal.core.batching.config import BatchingConfig
from shoal.inference.model_files import named_models
from shoal.inference.repository import ModelRepository
from shoal.inference.served_chain import ServedChain
from shoal.machines.opening import SharedMachines

UNDER_WAY = 32
"""Requests of a stream that are computed at once: enough to fill the graphs' batches, and few enough for the memory."""

_MAX_WAITING = 1 << 20
"""Rows of a graph that may wait: as many as the requests in progress can yield."""


class LoadedChain:
    """A loaded chain. Call it with its inputs; close it, or use it in a `with` block. Thread-safe.

    A worker that dies is started again, and its unfinished work is computed again.
    """

    def __init__(
        self, chain: Chain, *, split: str = "auto", threads: int | None = None, cluster: str | None = None
    ) -> None:
        """Load every graph, as `shoal serve` does. See `chain`."""
        self.chain = chain
        self._served: list[ServedChain] = []
        with ExitStack() as on_failure:
            shared = on_failure.enter_context(SharedMachines())
            shared.expect([*chain.models.values(), *chain.own_models])
            load = row_graph_loader(split, threads, cluster, shared)
            language = on_failure.enter_context(LanguageModels([chain], shared, cluster))
            thread = LoopThread(partial(_in_service, chain, load, language, self._served), "chain")
            on_failure.pop_all()
        self._thread = thread
        self._finalizer = weakref.finalize(self, _close, thread, language, shared)

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """Compute the chain's outputs.

        Args:
            inputs: the chain's inputs by name: files as bytes, texts as strings, tensors as arrays.

        Raises:
            InvalidRequest: an input is missing or unknown, or a step cannot work with it.
            RequestError: a step failed.
            WorkerLost: no worker is left to compute on, and none could be started again.
            ModelClosed: the chain was closed.
        """
        return self._thread.run(self._served[0].infer(inputs))

    async def acall(self, **inputs: Any) -> dict[str, Any]:
        """The asyncio form of a call, for any event loop."""
        return await self._thread.arun(self._served[0].infer(inputs))

    def submit(self, inputs: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """Start a request and return a future of its outputs. Cancelling the future cancels the request."""
        return self._thread.submit(self._served[0].infer(dict(inputs)))

    def stream(self, requests: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Compute many requests, as many at once as keep the workers busy, and yield their outputs in order.

        Args:
            requests: the inputs of each request by name; a request is read when there is room for it.

        Raises:
            ShoalError: for the same reasons as in a call.
        """
        under_way: deque[Future[dict[str, Any]]] = deque()
        try:
            for request in requests:
                under_way.append(self.submit(request))
                if len(under_way) == UNDER_WAY:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """Stop all workers. Idempotent."""
        self._finalizer()

    def __enter__(self) -> LoadedChain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def chain(
    place: str | Path, *, split: str = "auto", threads: int | None = None, cluster: str | Path | None = None
) -> LoadedChain:
    """Load a chain of models.

    Args:
        place: a YAML file that describes the chain, or a folder with `chain.yaml`; docs/chains.md says how.
        split: of every graph: see `load`. By default each is measured, and split for the most rows a second.
        threads: compute threads per worker; None shares the machine's cores evenly.
        cluster: see `LaunchOptions`.

    Raises:
        ConfigError: the file does not describe a chain, or the split makes no sense for a graph.
        ModelLoadError: a graph cannot be read or run.
        MissingExtra: the chain has functions, and the package that runs them is not installed.
        CapacityError: the graphs do not fit into memory.
        WorkerLost: a worker died while a graph was measured or loaded.

    Examples:
        >>> with shoal.chain("examples/ocr_chain") as ocr:  # doctest: +SKIP
        ...     print(ocr(image=Path("page.png").read_bytes())["lines"])
    """
    named = None if cluster is None else str(cluster)
    return LoadedChain(read_chain(place), split=split, threads=threads, cluster=named)


def _close(thread: LoopThread, language: LanguageModels, shared: SharedMachines) -> None:
    """What asks first, then what is asked."""
    thread.close()
    language.close()
    shared.close()


@asynccontextmanager
async def _in_service(
    chain: Chain, load: Any, language: LanguageModels, served: list[ServedChain]
) -> AsyncGenerator[None, None]:
    """The chain over its graphs in the running loop, whose thread starts the workers and lives as long as they."""
    files = named_models(chain.models)
    repository = ModelRepository(lambda: files, load, lambda file: BatchingConfig(max_queue_rows=_MAX_WAITING))
    try:
        for name in files:
            repository.load_now(name)
        served.append(ServedChain(chain, repository, language.of(chain), language.transcribers_of(chain)))
        repository.start()
        yield
    finally:
        for one in served:
            await asyncio.to_thread(one.close)
        await repository.close()
