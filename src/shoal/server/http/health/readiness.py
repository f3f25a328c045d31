"""Carries out what `core.readiness` decides: sends the canary and waits for its result."""

from __future__ import annotations

import asyncio
from typing import Protocol, assert_never

from shoal.core.readiness import HealthConfig, HealthState, Readiness, decide_readiness
from shoal.errors import ShoalError

DEFAULT_CONFIG = HealthConfig(window_s=30.0, canary_deadline_s=10.0)
"""Kubernetes asks every 10 s by default and gives up after 3 failures: evidence is valid for three questions."""


class CanaryTarget(Protocol):
    """What can be asked to prove that it works."""

    @property
    def last_output_s(self) -> float | None:
        """The time of its last output, on the clock of `now_s`; None before the first."""
        ...

    def now_s(self) -> float:
        """The present time on its clock, in seconds."""
        ...

    async def send_canary(self) -> bool:
        """Do a small piece of real work. Returns whether its result came. Raises ShoalError."""
        ...


class ReadinessProbe:
    """Sends one canary at a time, however many ask."""

    def __init__(self, target: CanaryTarget, config: HealthConfig = DEFAULT_CONFIG) -> None:
        self._target = target
        self._config = config
        self._canary: asyncio.Task[None] | None = None
        self._canary_sent_s: float | None = None

    async def is_ready(self) -> bool:
        """Whether a result came recently, or comes now."""
        match self._decide():
            case Readiness.READY:
                return True
            case Readiness.NOT_READY:
                return False
            case Readiness.RUN_CANARY:
                self._canary_sent_s = self._target.now_s()
                self._canary = asyncio.create_task(self._run_canary())
            case Readiness.AWAIT_CANARY:
                pass
            case _ as unreachable:
                assert_never(unreachable)
        await self._wait_for_canary()
        return self._decide() is Readiness.READY

    def _decide(self) -> Readiness:
        state = HealthState(last_token_s=self._target.last_output_s, canary_sent_s=self._canary_sent_s)
        return decide_readiness(self._config, state, self._target.now_s())

    async def _wait_for_canary(self) -> None:
        if self._canary is None or self._canary_sent_s is None:
            return
        elapsed_s = self._target.now_s() - self._canary_sent_s
        await asyncio.wait({self._canary}, timeout=max(0.0, self._config.canary_deadline_s - elapsed_s))

    async def _run_canary(self) -> None:
        """Send the canary. It continues after its deadline, since a late result makes the server ready again."""
        try:
            if not await self._target.send_canary():
                self._canary_sent_s = None
        except ShoalError:
            self._canary_sent_s = None
