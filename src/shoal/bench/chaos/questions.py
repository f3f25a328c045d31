"""The interface of the requests that clients send during a chaos run, for any kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shoal.bench.chaos.answer import ChaosAnswer


class Questions(Protocol):
    """Numbered requests with reproducible answers: the same request always gets the same answer."""

    @property
    def metrics_prefix(self) -> str:
        """The prefix of the server's metrics for these requests."""
        ...

    def __len__(self) -> int:
        """Number of requests."""
        ...

    async def ask(self, index: int, clock: Callable[[], float]) -> ChaosAnswer:
        """Send a request and read its answer to the end. Errors are stored in the answer, whose times are of
        `clock`."""
        ...
