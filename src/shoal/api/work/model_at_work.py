"""What every object over a loaded model has: a data plane that counts nothing, at work in the object's own loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from shoal.api.options import LaunchOptions
from shoal.core.generation.admission import AdmissionConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.generation.data_plane import DataPlane
from shoal.generation.unmetered import Unmetered
from shoal.launch.loaded_model import LoadedModel

_MAX_WAITING = 1 << 20
"""Requests that may wait, over all calls. A bound on memory: one takes about a kilobyte beside its tokens."""


def unmetered_plane(loaded: LoadedModel) -> DataPlane:
    """A data plane over the model's engine. It is not started."""
    admission = AdmissionConfig(max_queue=_MAX_WAITING)
    return DataPlane(
        loaded.engine, loaded.tokenizer, metrics=Unmetered(), adapters=loaded.adapters, admission=admission
    )


@asynccontextmanager
async def at_work(loaded: LoadedModel, data_plane: DataPlane) -> AsyncGenerator[None, None]:
    """The data plane in the running loop; nothing is left of the model at the end."""
    with loaded:
        data_plane.start()
        try:
            yield
        finally:
            await data_plane.close()
            data_plane.readers.wait()


def recovery_of(options: LaunchOptions) -> RecoveryConfig:
    """The rules by which workers count as lost, from the options of a model."""
    timeout_s = options.get("worker_timeout")
    return RecoveryConfig() if timeout_s is None else RecoveryConfig(worker_timeout_s=timeout_s)
