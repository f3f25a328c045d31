"""Which parts of a long time with stationary traffic are simulated.

After the beginning, a fault or a return, everything is simulated until its consequences are over. What follows, up to
the next fault, is one steady state: it is simulated batch by batch until its mean latency is known precisely enough,
and the rest is skipped. Requests in progress continue afterwards. Since only the clock moves, the next fault finds the
cluster in a state that belongs to the steady state.

Source: the method of batch means, with batches that grow until they are independent, and a comparison of both halves to
detect remains of the beginning: A. M. Law, Simulation Modeling and Analysis, chapter 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import sqrt
from statistics import fmean, stdev

from shoal.sim.sampling.intervals import t_quantile

_BATCH_REQUESTS = 50
_BATCH_LATENCIES = 5.0
"""A batch has at least so many requests, and lasts at least so many mean latencies, so that one batch hardly influences
the next."""
_SETTLING_BATCHES, _SETTLING_S = 2, 10.0
"""Batches and seconds after the end of a fault that are never taken as steady."""
_FEWEST_BATCHES, _FEWEST_REQUESTS = 20, 2000
"""The fewest simulated batches and requests of a steady state. Twenty requests are then slower than p99; with twelve,
the true p99 was above all observed values in 15 % of runs (tests/sim/sampling/test_sampled_column.py)."""
_DEPENDENT = 0.5
"""Correlation of successive batches above which batches are too short."""
_DRIFT = 3.5
"""Difference between the means of both halves, in standard errors, above which the state is not steady. Twenty steady
batches exceed it about once in four hundred times."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Settings for skipping time."""

    rate_per_s: float
    """The rate of requests, which arrive at random times, > 0."""
    until_s: float
    """When the last request arrives."""
    precision: float
    """The relative margin of error of a steady state's mean latency, at level CONFIDENCE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The counters of a simulation at the end of a batch."""

    at_s: float
    num_answered: int
    """Answered requests, as in `AnsweredRequests`."""
    num_paced: int
    """Answered requests with at least two tokens."""
    counts: tuple[int, int, int, int]
    """(prompt tokens, output tokens of answered requests, refused requests, preemptions)."""
    busy_s: Mapping[str, float]
    """Seconds of computing on each machine."""
    mean_e2e_s: float
    """Mean latency of the requests that were answered since the previous mark; 0: none was."""
    num_open: int

    @property
    def num_refused(self) -> int:
        return self.counts[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyStretch:
    """A steady state of which a part was simulated, and how much of it was skipped."""

    marks: Sequence[Mark]
    """Marks at the ends of its batches, including the beginning of the first."""
    skipped_s: float

    @property
    def num_batches(self) -> int:
        return len(self.marks) - 1

    @property
    def skipped_batches(self) -> float:
        """The number of its batches that would fill the skipped time."""
        return self.skipped_s * self.num_batches / (self.marks[-1].at_s - self.marks[0].at_s)

    @property
    def weight(self) -> float:
        """The number of requests for which each simulated one stands, including itself."""
        return 1.0 + self.skipped_batches / self.num_batches


@dataclass(slots=True)
class Sampler:
    """Decides after every batch how much time to skip."""

    config: SamplingConfig
    stretches: list[SteadyStretch] = field(default_factory=list[SteadyStretch])
    """Steady states of which a part was skipped."""
    batch_s: float = field(init=False)
    """Seconds until the next mark."""
    _num_settling: int = 0
    _quiet_s: float | None = None
    """The time of the first mark after the latest fault."""
    _marks: list[Mark] = field(default_factory=list[Mark])

    def __post_init__(self) -> None:
        self.batch_s = self._shortest_s

    @property
    def skipped_s(self) -> float:
        return sum(one.skipped_s for one in self.stretches)

    @property
    def _shortest_s(self) -> float:
        return _BATCH_REQUESTS / self.config.rate_per_s

    def note(self, mark: Mark, quiet_until_s: float | None) -> float:
        """Note the end of a batch. Returns the seconds to skip now.

        `quiet_until_s`: the time of the next fault, may be infinite; None: the latest one is not over.
        """
        if quiet_until_s is None or not self._has_settled(mark):
            return 0.0
        self._marks.append(mark)
        self._drop_what_is_not_steady()
        skipped_s = min(quiet_until_s, self.config.until_s) - self.batch_s - mark.at_s
        if skipped_s <= 0.0 or len(self._marks) <= _FEWEST_BATCHES or not self._is_known():
            return 0.0
        self.stretches.append(SteadyStretch(marks=tuple(self._marks), skipped_s=skipped_s))
        self._start_over()
        return skipped_s

    def note_fault(self) -> None:
        """Discard the observations so far, because a fault changes the state."""
        self._start_over()

    def _start_over(self) -> None:
        self._marks.clear()
        self._num_settling, self._quiet_s, self.batch_s = 0, None, self._shortest_s

    def _has_settled(self, mark: Mark) -> bool:
        """Whether the state has settled after a fault, so that batches of sufficient length can begin."""
        if self._marks:
            return True
        if mark.mean_e2e_s:
            self.batch_s = max(self._shortest_s, _BATCH_LATENCIES * mark.mean_e2e_s)
            self._num_settling += 1
            self._quiet_s = mark.at_s if self._quiet_s is None else self._quiet_s
        is_long_ago = self._quiet_s is not None and mark.at_s - self._quiet_s >= _SETTLING_S
        return is_long_ago and self._num_settling > _SETTLING_BATCHES

    def _drop_what_is_not_steady(self) -> None:
        """Drop the first half if it differs from the second, and every other mark if batches are correlated."""
        if len(self._marks) <= _FEWEST_BATCHES:
            return
        if _drifts(self._latencies()) or _drifts([float(one.num_open) for one in self._marks[1:]]):
            del self._marks[: len(self._marks) // 2]
        elif len(self._marks) % 2 and _correlation(self._latencies()) > _DEPENDENT:
            self._marks = _paired(self._marks)
            self.batch_s *= 2.0

    def _is_known(self) -> bool:
        if self._marks[-1].num_answered - self._marks[0].num_answered < _FEWEST_REQUESTS:
            return False
        latencies = self._latencies()
        margin_s = t_quantile(len(latencies) - 1) * stdev(latencies) / sqrt(len(latencies))
        return margin_s <= self.config.precision * fmean(latencies)

    def _latencies(self) -> list[float]:
        return [one.mean_e2e_s for one in self._marks[1:]]


def _drifts(values: Sequence[float]) -> bool:
    half = len(values) // 2
    first, second = values[:half], values[-half:]
    error = sqrt((stdev(first) ** 2 + stdev(second) ** 2) / half)
    apart = abs(fmean(first) - fmean(second))
    return apart > max(_DRIFT * error, _ROUNDING * abs(fmean(values)))


def _correlation(values: Sequence[float]) -> float:
    """The correlation of each value with the next; 0 if all are equal."""
    mean = fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    if total <= (_ROUNDING * mean) ** 2:
        return 0.0
    return sum((one - mean) * (other - mean) for one, other in pairwise(values)) / total


def _paired(marks: Sequence[Mark]) -> list[Mark]:
    """Every other mark of an odd number of marks, with the latency of both batches."""
    kept = [marks[0]]
    for before, middle, last in zip(marks[:-2:2], marks[1:-1:2], marks[2::2], strict=True):
        first, second = middle.num_answered - before.num_answered, last.num_answered - middle.num_answered
        total_s = first * middle.mean_e2e_s + second * last.mean_e2e_s
        mean_s = total_s / max(1, first + second)
        kept.append(replace(last, mean_e2e_s=mean_s))
    return kept
