"""Requests of the drill's own, which are always under way, so that every pause is seen and every loss felt."""

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
"""of each client, from which its pace is known"""


class DrillClients(ABC):
    """Some clients in a closed loop. Use as an async context."""

    least_running = 0
    """Requests that a replica has at any time while nothing is wrong."""

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
        """Let the requests under way end, and begin no others."""
        self._is_ending = True
        await asyncio.wait(self._tasks)

    @property
    def num_lost(self) -> int:
        """The number of requests that have failed."""
        return sum(error is not None for error in self.errors())

    @property
    def first_error(self) -> str | None:
        """Why the first of them did."""
        return next((error for error in self.errors() if error is not None), None)

    @abstractmethod
    def errors(self) -> Sequence[str | None]:
        """What has become of every request, those under way included; None: nothing bad."""

    @abstractmethod
    def arrivals(self) -> list[Sequence[float]]:
        """Times of the tokens of every stream, or of the answers of every client."""

    @abstractmethod
    def pace(self, since_s: float) -> ClientPace | None:
        """The pace of the clients since then; None while too little has come."""

    @abstractmethod
    def again(self, num_running: int) -> float:
        """See `predict_pause`, were as many requests lost now."""

    @abstractmethod
    async def ask(self, index: int) -> bool:
        """Send a request of one of the clients and follow it to its end; returns whether it came to a good one."""

    async def _run(self, index: int) -> None:
        while not self._is_ending and await self.ask(index):
            pass

    def median_gap_s(self, arrivals: Sequence[Sequence[float]]) -> float | None:
        """Between two arrivals of the same client; None while there are too few."""
        gaps = [later - earlier for times in arrivals for earlier, later in pairwise(times)]
        return median(gaps) if len(gaps) >= _PACE_GAPS * self.count else None
