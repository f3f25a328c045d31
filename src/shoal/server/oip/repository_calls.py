"""Calls that load and unload models, with the same permissions and parameters in both dialects."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.errors import InvalidRequest, ShoalError
from shoal.inference.repository import ModelRepository


class LoadNotAllowed(ShoalError):
    """Clients may not change which models are loaded."""

    def __init__(self) -> None:
        super().__init__(
            "clients may load and unload models only where the server has an --api-key or was started with --allow-load"
        )


class RepositoryCalls:
    """The calls that change a repository."""

    def __init__(self, repository: ModelRepository, *, may_change: bool) -> None:
        self._repository = repository
        self._may_change = may_change

    async def load(self, name: str, parameters: Iterable[str]) -> None:
        """Load a model, or load it again.

        Raises:
            LoadNotAllowed: clients may not.
            InvalidRequest: a parameter would replace the model's configuration or files.
            UnknownModel, ModelLoadError, ConfigError, CapacityError, WorkerLost: as `ModelRepository.load`.
        """
        self._check()
        for parameter in parameters:
            if parameter == "config" or parameter.startswith("file:"):
                raise InvalidRequest(
                    f"parameter {parameter[:100]!r} is not supported: models are loaded from the repository "
                    "with the server's options"
                )
        await self._repository.load(name)

    async def unload(self, name: str) -> None:
        """Take a model out of service. Triton's parameter `unload_dependents` has no effect.

        Raises:
            LoadNotAllowed: clients may not.
            UnknownModel: there is no model of this name.
        """
        self._check()
        await self._repository.unload(name)

    def _check(self) -> None:
        if not self._may_change:
            raise LoadNotAllowed
