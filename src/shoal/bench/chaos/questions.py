"""What clients ask a server whose workers are killed, whatever its model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shoal.bench.chaos.answer import ChaosAnswer


class Questions(Protocol):
    """Requests by number, whose answers can be compared: the same one gets the same answer, whatever happens."""

    @property
    def metrics_prefix(self) -> str:
        """The prefix of the server's metrics that count these questions."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    async def ask(self, index: int, clock: Callable[[], float]) -> ChaosAnswer:
        """Ask one and read to the end; whatever goes wrong is in the answer, whose times are of `clock`."""
        ...
