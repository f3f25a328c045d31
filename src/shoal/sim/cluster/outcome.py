"""The outcome of a simulation: what clients saw, how busy the machines were, and what losses cost."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal.core.generation.scheduler_stats import SchedulerStats
from shoal.core.recovery.recovery import RecoveryStats

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPercentiles:
    """Percentiles of a latency in seconds; all 0 without values."""

    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOutcome:
    """The outcome of a simulation."""

    duration_s: float
    """Seconds until the last request had ended."""
    num_requests: int
    """Requests that were answered completely."""
    num_refused: int
    """Requests that a server would have refused: too long, or the queue was full."""
    first_refusal: str
    """Why the first of them would have been refused; empty: none was."""
    num_lost: int
    """Requests that were accepted and not answered completely."""
    prompt_tokens: int
    """Prompt tokens of the answered requests."""
    output_tokens: int
    ttft: LatencyPercentiles
    """Time to first token."""
    tpot: LatencyPercentiles
    """Time per output token after the first, the mean of each request."""
    e2e: LatencyPercentiles
    """Time from arrival to the last token."""
    busy_share: dict[str, float]
    """The share of time for which each machine's workers computed."""
    num_losses: int
    """The number of times that a replica lost its workers."""
    recoveries_s: tuple[float, ...]
    """Seconds for which replicas had no workers, in the latest recoveries."""
    num_given_up: int
    """Replicas that were given up."""
    replayed_tokens: int
    """Rows that were computed again."""
    num_preemptions: int
    num_checks: int
    """The number of checks of all invariants; all of them passed."""

    @property
    def output_tokens_per_s(self) -> float:
        return self.output_tokens / self.duration_s if self.duration_s else 0.0

    @property
    def requests_per_s(self) -> float:
        return self.num_requests / self.duration_s if self.duration_s else 0.0


@dataclass(slots=True, kw_only=True)
class AnsweredRequests:
    """The latencies of all answered requests, in arrays, since a simulated day has millions."""

    ttft_s: array[float] = field(default_factory=lambda: array("d"))
    tpot_s: array[float] = field(default_factory=lambda: array("d"))
    """Values of requests with at least two tokens."""
    e2e_s: array[float] = field(default_factory=lambda: array("d"))
    arrived_s: array[float] = field(default_factory=lambda: array("d"))
    prompt_tokens: int = 0
    output_tokens: int = 0
    num_refused: int = 0
    first_refusal: str = ""
    num_lost: int = 0

    def refuse(self, reason: str) -> None:
        """Count a request that a server would have refused."""
        self.num_refused += 1
        self.first_refusal = self.first_refusal or reason

    def add(self, *, arrived_s: float, first_s: float, ended_s: float, num_prompt: int, num_output: int) -> None:
        """Add a request that was answered completely."""
        self.arrived_s.append(arrived_s)
        self.ttft_s.append(first_s - arrived_s)
        self.e2e_s.append(ended_s - arrived_s)
        if num_output > 1:
            self.tpot_s.append((ended_s - first_s) / (num_output - 1))
        self.prompt_tokens += num_prompt
        self.output_tokens += num_output


def make_outcome(
    log: AnsweredRequests,
    recovery: RecoveryStats,
    schedulers: Sequence[SchedulerStats],
    *,
    busy_s: Mapping[str, float],
    workers: Sequence[str],
    num_given_up: int,
    num_checks: int,
) -> SimulationOutcome:
    """Make the outcome of a simulation.

    Args:
        log: all answered requests.
        recovery: the fleet's recovery at the end.
        schedulers: the statistics of all replicas at the end.
        busy_s: seconds of computing of the workers of each machine that computed.
        workers: the machine of each worker.
        num_given_up: the number of replicas that were given up.
        num_checks: the number of checks of all invariants.
    """
    ends = (arrived_s + e2e_s for arrived_s, e2e_s in zip(log.arrived_s, log.e2e_s, strict=True))
    duration_s = max(ends, default=0.0)
    return SimulationOutcome(
        duration_s=duration_s,
        num_requests=len(log.e2e_s),
        num_refused=log.num_refused,
        first_refusal=log.first_refusal,
        num_lost=log.num_lost,
        prompt_tokens=log.prompt_tokens,
        output_tokens=log.output_tokens,
        ttft=percentiles(log.ttft_s),
        tpot=percentiles(log.tpot_s),
        e2e=percentiles(log.e2e_s),
        busy_share={
            machine: busy_s.get(machine, 0.0) / (count * duration_s) if duration_s else 0.0
            for machine, count in Counter(workers).items()
        },
        num_losses=recovery.num_losses,
        recoveries_s=recovery.recoveries_s,
        num_given_up=num_given_up,
        replayed_tokens=sum(one.replayed_tokens for one in schedulers),
        num_preemptions=sum(one.num_preemptions for one in schedulers),
        num_checks=num_checks,
    )


def percentiles(seconds: Sequence[float]) -> LatencyPercentiles:
    """Percentiles of values, interpolated linearly between the two nearest."""
    if not len(seconds):
        return LatencyPercentiles(p50_s=0.0, p95_s=0.0, p99_s=0.0)
    p50_s, p95_s, p99_s = np.percentile(np.asarray(seconds, np.float64), PERCENTILES)
    return LatencyPercentiles(p50_s=float(p50_s), p95_s=float(p95_s), p99_s=float(p99_s))
