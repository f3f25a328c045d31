"""Which parts of a long time are simulated, where the traffic is stationary.

Everything from the beginning, a fault or a return on is simulated until its consequences are over. What follows, up to
the next fault, is one steady state: it is simulated batch by batch until its mean latency is known well, and the rest
is skipped. Requests that are under way then go on after it. As nothing but the clock moves, the state in which the next
fault finds the cluster is one that the steady state has.

Source: the method of batch means, with batches that grow until they no longer depend on each other, and a comparison of
both halves for what is left of the beginning: A. M. Law, Simulation Modeling and Analysis, chapter 9.
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
"""A batch has at least so many requests, and is so many times as long as one takes on its average: what one batch
leaves to the next is then small."""
_SETTLING_BATCHES, _SETTLING_S = 2, 10.0
"""After a fault is over, batches and seconds that are never believed to be steady."""
_FEWEST_BATCHES, _FEWEST_REQUESTS = 20, 2000
"""Of a steady state. Twenty requests are then slower than p99: with twelve, its value was above all that was seen 15
times of 100 (tests/sim/sampling/test_sampled_column.py)."""
_DEPENDENT = 0.5
"""Correlation of each batch with the next, above which they are too short."""
_DRIFT = 3.5
"""Standard errors between the means of both halves, above which the state is not steady: about one in four hundred
times, twenty steady batches show more."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How time is skipped."""

    rate_per_s: float
    """of requests, which come at random times, > 0"""
    until_s: float
    """when the last request comes"""
    precision: float
    """share of a steady state's mean latency by which the simulated part may miss it, 95 times of 100"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What had come of the simulation when a batch was over."""

    at_s: float
    num_answered: int
    """requests, as in the columns of `AnsweredRequests`"""
    num_paced: int
    """those of them that had two tokens or more"""
    counts: tuple[int, int, int, int]
    """prompt and output tokens of answered requests, refused requests, preemptions"""
    busy_s: Mapping[str, float]
    """of each machine"""
    mean_e2e_s: float
    """of the requests that were answered since the mark before; 0: none was"""
    num_open: int

    @property
    def num_refused(self) -> int:
        return self.counts[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyStretch:
    """A steady state of which a part was simulated, and how much of it was skipped."""

    marks: Sequence[Mark]
    """at the ends of its batches, the beginning of the first included"""
    skipped_s: float

    @property
    def num_batches(self) -> int:
        return len(self.marks) - 1

    @property
    def skipped_batches(self) -> float:
        """How many of its batches would have filled the time that was skipped."""
        return self.skipped_s * self.num_batches / (self.marks[-1].at_s - self.marks[0].at_s)

    @property
    def weight(self) -> float:
        """For how many requests each simulated one stands, itself included."""
        return 1.0 + self.skipped_batches / self.num_batches


@dataclass(slots=True)
class Sampler:
    """Is told of every batch. Changes by `note` only."""

    config: SamplingConfig
    stretches: list[SteadyStretch] = field(default_factory=list[SteadyStretch])
    """from which something was skipped"""
    batch_s: float = field(init=False)
    """until the next mark"""
    _num_settling: int = 0
    _quiet_s: float | None = None
    """when the first mark after the latest fault was"""
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
        """A batch is over. Returns the seconds that are to be skipped now.

        `quiet_until_s`: when the next fault comes, may be infinite; None: the latest is not over.
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
        """What was seen so far says nothing of what comes."""
        self._start_over()

    def _start_over(self) -> None:
        self._marks.clear()
        self._num_settling, self._quiet_s, self.batch_s = 0, None, self._shortest_s

    def _has_settled(self, mark: Mark) -> bool:
        """Batches begin when they are long enough for the latencies that there are now."""
        if self._marks:
            return True
        if mark.mean_e2e_s:
            self.batch_s = max(self._shortest_s, _BATCH_LATENCIES * mark.mean_e2e_s)
            self._num_settling += 1
            self._quiet_s = mark.at_s if self._quiet_s is None else self._quiet_s
        is_long_ago = self._quiet_s is not None and mark.at_s - self._quiet_s >= _SETTLING_S
        return is_long_ago and self._num_settling > _SETTLING_BATCHES

    def _drop_what_is_not_steady(self) -> None:
        """The first half, where it differs from the second; every other mark, where batches depend on each other."""
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
    """Of each value with the next; 0 where all are equal."""
    mean = fmean(values)
    total = sum((value - mean) ** 2 for value in values)
    if total <= (_ROUNDING * mean) ** 2:
        return 0.0
    return sum((one - mean) * (other - mean) for one, other in pairwise(values)) / total


def _paired(marks: Sequence[Mark]) -> list[Mark]:
    """Every other mark, an odd number of them, with the latency of both batches."""
    kept = [marks[0]]
    for before, middle, last in zip(marks[:-2:2], marks[1:-1:2], marks[2::2], strict=True):
        first, second = middle.num_answered - before.num_answered, last.num_answered - middle.num_answered
        total_s = first * middle.mean_e2e_s + second * last.mean_e2e_s
        mean_s = total_s / max(1, first + second)
        kept.append(replace(last, mean_e2e_s=mean_s))
    return kept
