"""The repository of models: which are loaded, which are available, and the thread that loads them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from shoal.core.batching.config import BatchingConfig
from shoal.errors import ConfigError, ShoalError
from shoal.inference.model_files import ModelFile
from shoal.inference.seams import GraphLoader
from shoal.inference.served_model import ServedModel

T = TypeVar("T")
State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
"""Source: Triton, "Model Repository Extension", states of the index."""

_UNLOADED = "unloaded"
_DRAIN_TIMEOUT_S = 25.0
"""Seconds that open requests of an unloaded model have to finish, the default of a server that ends."""


class UnknownModel(ShoalError):
    """No model of this name or version is served here."""


class ModelNotReady(ShoalError):
    """The model exists, but cannot answer now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One line of the repository's index."""

    name: str
    version: str
    state: State
    reason: str


@dataclass(slots=True)
class _Entry:
    file: ModelFile
    state: State = "UNAVAILABLE"
    reason: str = ""
    model: ServedModel | None = None


class ModelRepository:
    """Loaded and unloaded models by name. All methods except `load_now` and `close_now` belong to one event loop."""

    def __init__(
        self,
        find: Callable[[], Mapping[str, ModelFile]],
        load: GraphLoader,
        batching: Callable[[ModelFile], BatchingConfig],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            find: finds the available models; called again when a model is loaded or the index is read.
            load: loads one of them.
            batching: gives the batching settings of a model when it is loaded. Raises ConfigError.
            clock: gives monotonic seconds.
        """
        self.on_death: Callable[[str], None] | None = None
        """Called in the event loop, with the reason, when the last model in service has lost its workers."""
        self.on_headless: Callable[[str], None] | None = None
        """Called once, with the reason, when this process should end because the cluster's head is gone."""
        self._find = find
        self._load = load
        self._batching = batching
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._changes = asyncio.Lock()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shoal-loader")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def models(self) -> list[ServedModel]:
        """The loaded models, including those that have lost their workers."""
        return [entry.model for entry in self._entries.values() if entry.model is not None]

    @property
    def failure(self) -> str | None:
        """Why no model can answer any more, if every loaded model has lost its workers; otherwise None."""
        models = self.models
        if not models or any(model.failure is None for model in models):
            return None
        return f"{models[0].file.name}: {models[0].failure}"

    def load_now(self, name: str) -> None:
        """Load a model on this thread, which must live as long as the server, before the event loop runs.

        Raises:
            UnknownModel, ModelLoadError, ConfigError, CapacityError, WorkerLost: as `load`; the index has the reason.
        """
        entry = self._entry_to_load(name)
        try:
            entry.model = self._build(entry.file)
        except ShoalError as error:
            entry.reason = str(error)
            raise
        entry.state = "READY"

    def start(self) -> None:
        """Put the loaded models into service, in the running loop."""
        for model in self.models:
            self._put_into_service(model)

    def get(self, name: str, version: str = "") -> ServedModel:
        """The model in service with a name; `version` may be empty. Raises UnknownModel, ModelNotReady."""
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownModel(f"Request for unknown model: {name!r} is not found")
        served = entry.file if entry.model is None else entry.model.file
        if version and version != served.version:
            raise UnknownModel(f"Request for unknown model: {name!r} version {version} is not found")
        if entry.model is None or entry.state == "UNLOADING":
            if entry.state == "LOADING":
                raise ModelNotReady(f"model {name!r} is being loaded")
            raise UnknownModel(f"Request for unknown model: {name!r} has no available versions")
        if entry.model.failure is not None:
            raise ModelNotReady(f"model {name!r} has lost its workers: {entry.model.failure}")
        return entry.model

    def index(self, *, only_ready: bool = False) -> list[IndexEntry]:
        """All loaded and available models, by name."""
        for name, file in self._found().items():
            self._entries.setdefault(name, _Entry(file))
        lines = [_line(entry) for _, entry in sorted(self._entries.items())]
        return [line for line in lines if line.state == "READY" or not only_ready]

    async def load(self, name: str) -> None:
        """Load a model, or load it again; the old one answers until the new one can.

        Raises:
            UnknownModel: there is no model of this name. ModelLoadError, ConfigError, CapacityError, WorkerLost: the
            file cannot be loaded; nothing has changed.
        """
        await self._run_to_its_end(self._load_entry(name))

    async def unload(self, name: str) -> None:
        """Take a model out of service and stop it once its open requests have ended. Raises UnknownModel."""
        await self._run_to_its_end(self._unload_entry(name))

    async def close(self) -> None:
        """Stop all models; open requests end with an error. Idempotent."""
        async with self._changes:
            for entry in self._entries.values():
                model, entry.model, entry.state = entry.model, None, "UNAVAILABLE"
                if model is not None:
                    await self._retire(model, 0.0, "the server is shutting down")
        self._loader.shutdown(wait=False)

    def close_now(self) -> None:
        """Stop all models on this thread, if no event loop runs. Idempotent."""
        for entry in self._entries.values():
            model, entry.model, entry.state = entry.model, None, "UNAVAILABLE"
            if model is not None:
                model.stop("the server is shutting down")
                model.close()
        self._loader.shutdown()

    async def _run_to_its_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Finish a change even if its client goes away, so that no model stays half loaded."""
        task = asyncio.create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _load_entry(self, name: str) -> None:
        async with self._changes:
            entry = self._entry_to_load(name)
            entry.state = "LOADING" if entry.model is None else entry.state
            try:
                model = await self._on_loader(lambda: self._build(entry.file))
            except ShoalError as error:
                entry.reason = str(error)
                raise
            finally:
                if entry.state == "LOADING":
                    entry.state = "UNAVAILABLE"
            old, entry.model, entry.state, entry.reason = entry.model, model, "READY", ""
            self._put_into_service(model)
            if old is not None:
                await self._retire(old, _DRAIN_TIMEOUT_S, "the model was loaded anew")

    async def _unload_entry(self, name: str) -> None:
        async with self._changes:
            entry = self._entries.get(name)
            if entry is None:
                raise UnknownModel(f"failed to unload {name!r}: there is no such model")
            if entry.model is not None:
                entry.state = "UNLOADING"
                await self._retire(entry.model, _DRAIN_TIMEOUT_S, "the model was unloaded")
            entry.model, entry.state, entry.reason = None, "UNAVAILABLE", _UNLOADED

    async def _retire(self, model: ServedModel, timeout_s: float, reason: str) -> None:
        await model.drain(timeout_s)
        model.stop(reason)
        await self._on_loader(model.close)

    async def _on_loader(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, work)

    def _entry_to_load(self, name: str) -> _Entry:
        file = self._found().get(name)
        if file is None:
            raise UnknownModel(f"failed to load {name!r}: there is no such model in the repository")
        entry = self._entries.setdefault(name, _Entry(file))
        entry.file = file
        return entry

    def _found(self) -> Mapping[str, ModelFile]:
        """The available models now; the known ones if the folders are invalid."""
        try:
            return self._find()
        except ConfigError:
            return {name: entry.file for name, entry in self._entries.items()}

    def _build(self, file: ModelFile) -> ServedModel:
        loaded = self._load(file.path)
        try:
            return ServedModel(file, loaded, self._batching(file), self._clock)
        except BaseException:
            loaded.close()
            raise

    def _put_into_service(self, model: ServedModel) -> None:
        model.start(on_death=lambda reason: self._died(f"{model.file.name}: {reason}"))
        model.supervisor.on_headless(self._leave)

    def _leave(self, reason: str) -> None:
        """Pass on that this process should end. Called in a thread that watches machines."""
        if self.on_headless is not None:
            self.on_headless(reason)

    def _died(self, reason: str) -> None:
        if self.on_death is not None and self.failure is not None:
            self.on_death(reason)


def _line(entry: _Entry) -> IndexEntry:
    failure = entry.model.failure if entry.model is not None else None
    return IndexEntry(
        name=entry.file.name,
        version=entry.file.version,
        state="UNAVAILABLE" if failure and entry.state == "READY" else entry.state,
        reason=failure or entry.reason,
    )
