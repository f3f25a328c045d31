"""The clients of a drill, whose requests are always in flight, so that every pause and every lost request is seen."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Self

from shoal.bench.drill.pauses import ClientPace

CLIENTS_A_REPLICA = 2
_PACE_GAPS = 8
"""Gaps per client that are needed to know the pace."""


class DrillClients(ABC):
    """Clients in a closed loop, as an async context manager."""

    least_running = 0
    """Requests that a replica always has while nothing is wrong."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._tasks: list[asyncio.Task[None]] = []
        self._is_ending = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run(index)) for index in range(self.count)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def finish(self) -> None:
        """Wait for the requests in flight and start no others."""
        self._is_ending = True
        await asyncio.wait(self._tasks)

    @property
    def num_lost(self) -> int:
        """The number of requests that have failed."""
        return sum(error is not None for error in self.errors())

    @property
    def first_error(self) -> str | None:
        """The error of the first failed request; None: none has failed."""
        return next((error for error in self.errors() if error is not None), None)

    @abstractmethod
    def errors(self) -> Sequence[str | None]:
        """The error of each request, also of those in flight; None: no error."""

    @abstractmethod
    def arrivals(self) -> list[Sequence[float]]:
        """Arrival times of the tokens of each stream, or of the answers of each client."""

    @abstractmethod
    def pace(self, since_s: float) -> ClientPace | None:
        """The pace of the clients since a time; None: too few arrivals."""

    @abstractmethod
    def again(self, num_running: int) -> float:
        """The argument `again` of `predict_pause` if `num_running` requests were lost now."""

    @abstractmethod
    async def ask(self, index: int) -> bool:
        """Send a request of a client and read its answer to the end. Returns whether it succeeded."""

    async def _run(self, index: int) -> None:
        while not self._is_ending and await self.ask(index):
            pass

    def median_gap_s(self, arrivals: Sequence[Sequence[float]]) -> float | None:
        """Median seconds between two arrivals of the same client; None: too few arrivals."""
        gaps = [later - earlier for times in arrivals for earlier, later in pairwise(times)]
        return median(gaps) if len(gaps) >= _PACE_GAPS * self.count else None
