"""What the probes need to know about a server of ONNX models."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from shoal.core.recovery.replica_status import describe_replicas
from shoal.errors import ConfigError, ShuttingDown
from shoal.executor.remote.strikes import Strike
from shoal.inference.repository import ModelRepository
from shoal.inference.served_model import ServedModel
from shoal.planner.files.plan_data import graph_plan_dict
from shoal.server.http.draining import Drain
from shoal.server.http.health.readiness import ReadinessProbe
from shoal.server.http.health.story import story_dicts
from shoal.server.oip.metrics import expose_metrics


class RepositoryStatus:
    """Implements `probes.Status`; readiness is tested by a canary through each model's workers."""

    def __init__(self, repository: ModelRepository, drain: Drain) -> None:
        self._repository = repository
        self._drain = drain
        self._probes: WeakKeyDictionary[ServedModel, ReadinessProbe] = WeakKeyDictionary()

    @property
    def failure(self) -> str | None:
        """Why nothing can be answered any more; None while any model can."""
        return self._repository.failure

    async def unreadiness(self) -> str | None:
        """Why requests would not be answered now; None if every loaded model has answered recently, or answers now."""
        if self._drain.is_on:
            return str(ShuttingDown())
        reasons = await asyncio.gather(*(self.unreadiness_of(model) for model in self._repository.models))
        return next((reason for reason in reasons if reason is not None), None)

    async def unreadiness_of(self, model: ServedModel) -> str | None:
        """As `unreadiness`, for one model."""
        if model.failure is not None:
            return f"{model.file.name}: {model.failure}"
        if model.supervisor.trouble is not None:
            return model.supervisor.trouble
        probe = self._probes.get(model)
        if probe is None:
            probe = self._probes[model] = ReadinessProbe(model)
        if await probe.is_ready():
            return None
        return f"{model.file.name}: no result came lately, and a test request has had none in time"

    async def describe(self) -> list[dict[str, Any]]:
        """Every loaded model as plain data."""
        return [self._describe(model) for model in self._repository.models]

    def _describe(self, model: ServedModel) -> dict[str, Any]:
        stats, machines = model.stats(), model.supervisor.describe_machines()
        return {
            "name": model.file.name,
            "kind": "ONNX graph",
            "plan": graph_plan_dict(model.supervisor.plan),
            **({"machines": machines} if machines else {}),
            "replicas": describe_replicas(stats),
            "counters": {
                "rows": stats.num_rows,
                "running": stats.num_requests - stats.queued_requests,
                "waiting": stats.queued_requests,
                "losses": stats.num_losses,
                "recoveries": stats.num_recoveries,
            },
        }

    async def strike(self, model: str, machine: str, strike: Strike) -> None:
        """See `Status.strike`."""
        served = next((one for one in self._repository.models if one.file.name == model), None)
        if served is None:
            raise ConfigError(f"no model {model!r} is served")
        await asyncio.to_thread(served.supervisor.strike, machine, strike)

    async def story(self, of: str) -> list[dict[str, Any]]:
        """The latest events of a replica or a request, over all models."""
        return [entry for model in self._repository.models for entry in self._story(model, of)]

    def _story(self, model: ServedModel, of: str) -> list[dict[str, Any]]:
        return story_dicts(model.story.find(of), now_s=model.now_s(), model=model.file.name)

    async def expose_metrics(self) -> bytes:
        """See `Status.expose_metrics`."""
        return expose_metrics(self._repository.models)
