"""A simulated cluster in which most of each steady state is skipped: see `Sampler`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec import structs

from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.cluster.outcome import AnsweredRequests, SimulationOutcome
from shoal.sim.cluster.predicted_workers import PredictedWorkers
from shoal.sim.sampling.estimates import Sample, estimate_all
from shoal.sim.sampling.sampler import Mark, Sampler, SamplingConfig
from shoal.sim.traffic.visit import Visit


@dataclass(frozen=True, slots=True)
class _BatchOver:
    """A batch of requests is over."""


class SampledSimulation(ClusterSimulation):
    """One run. Its clock includes skipped time, after which everything in progress continues.

    Requires that the time of a step depends only on its rows, and that requests arrive independently at random times.
    """

    def __init__(
        self,
        scenario: ClusterScenario,
        sampling: SamplingConfig,
        on_progress: Callable[[float], None] = lambda now_s: None,
    ) -> None:
        """`on_progress`: called with the virtual time now and then."""
        assert scenario.is_steady, "the state of a head would have to be put off as well"
        super().__init__(scenario, on_progress)
        self._sampler = Sampler(sampling)
        self._num_noted = 0
        """Answered requests at the latest mark."""

    def run_sampled(self) -> tuple[SimulationOutcome, AnsweredRequests, Sample]:
        """Run. Returns the estimated outcome of the whole time, the simulated requests, and the confidence
        intervals."""
        self.put(self._sampler.batch_s, _BatchOver())
        outcome, log = self.run()
        workers = Counter(machine for replica in self._scenario.replicas for machine in replica.workers)
        estimated, sample = estimate_all(
            outcome, log, self._sampler.stretches, rate_per_s=self._sampler.config.rate_per_s, num_workers=workers
        )
        return estimated, log, sample

    def happen(self, happening: object, now_s: float) -> None:
        if isinstance(happening, _BatchOver):
            self._note_batch(now_s)
        else:
            super().happen(happening, now_s)

    def visits_of(self, traffic: Iterator[Visit]) -> Iterator[Visit]:
        for visit in traffic:
            at_s = visit.at_s + self._sampler.skipped_s
            if at_s >= self._sampler.config.until_s:
                return
            yield structs.replace(visit, at_s=at_s)

    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        super().note_stopped(replica, on_purpose=on_purpose)
        self._sampler.note_fault()

    def moved(self, happening: object, seconds: float) -> object:
        return structs.replace(happening, at_s=happening.at_s + seconds) if isinstance(happening, Visit) else happening

    def _note_batch(self, now_s: float) -> None:
        skipped_s = self._sampler.note(self._mark(now_s), self.quiet_until_s() if self._is_whole() else None)
        if skipped_s:
            self._skip(skipped_s, now_s)
        next_s = now_s + skipped_s + self._sampler.batch_s
        if next_s < self._sampler.config.until_s:
            self.put(next_s, _BatchOver())

    def _is_whole(self) -> bool:
        """Whether no replica is about to lose or get workers. Lost workers that owe nothing are noticed only when a
        request reaches them."""
        return all(
            replica.life.is_given_up
            or (replica.is_serving and not (workers.is_silent and replica.scheduler.has_unfinished))
            for replica, workers in zip(self._fleet.replicas, self.workers, strict=True)
        )

    def _mark(self, now_s: float) -> Mark:
        log, num_answered = self._log, len(self._log.e2e_s)
        latest = log.e2e_s[self._num_noted :]
        self._num_noted = num_answered
        num_preemptions = sum(one.scheduler.state.num_preemptions for one in self._fleet.replicas)
        return Mark(
            at_s=now_s,
            num_answered=num_answered,
            num_paced=len(log.tpot_s),
            counts=(log.prompt_tokens, log.output_tokens, log.num_refused, num_preemptions),
            busy_s=self._head.busy_s.copy(),
            mean_e2e_s=sum(latest) / max(1, len(latest)),
            num_open=len(self._open),
        )

    def _skip(self, seconds: float, now_s: float) -> None:
        """Advance the clock, and with it the times of everything in progress."""
        self._stretches.end_all(now_s)
        self.put_off(seconds)
        for one in self._open.values():
            one.put_off(seconds)
        for workers in self.workers:
            assert isinstance(workers, PredictedWorkers)
            workers.put_off(seconds)
        self._fleet.note_pause(seconds)
