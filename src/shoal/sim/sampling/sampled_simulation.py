"""A simulated cluster of which steady states are skipped for the most part: see `Sampler`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.cluster_simulation import ClusterSimulation
from shoal.sim.cluster.outcome import AnsweredRequests, SimulationOutcome
from shoal.sim.cluster.predicted_workers import PredictedWorkers
from shoal.sim.sampling.estimates import Sample, estimate_all
from shoal.sim.sampling.sampler import Mark, Sampler, SamplingConfig
from shoal.sim.traffic.visit import Visit


@dataclass(frozen=True, slots=True)
class _BatchOver:
    """It is time to look at what has come."""


class SampledSimulation(ClusterSimulation):
    """One run. Times within it are those of the whole time: where some is skipped, all that is under way goes on later.

    Only where nothing but its rows says how long a step takes, and requests come at random times, independently.
    """

    def __init__(
        self,
        scenario: ClusterScenario,
        sampling: SamplingConfig,
        on_progress: Callable[[float], None] = lambda now_s: None,
    ) -> None:
        """`on_progress`: told the virtual time now and then."""
        assert scenario.is_steady, "the state of a head would have to be put off as well"
        super().__init__(scenario, on_progress)
        self._sampler = Sampler(sampling)
        self._num_noted = 0
        """answered requests at the latest mark"""

    def run_sampled(self) -> tuple[SimulationOutcome, AnsweredRequests, Sample]:
        """What came of the whole time, the requests that were simulated, and how sure the former is."""
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
            yield replace(visit, at_s=at_s)

    def note_stopped(self, replica: int, *, on_purpose: bool) -> None:
        super().note_stopped(replica, on_purpose=on_purpose)
        self._sampler.note_fault()

    def moved(self, happening: object, seconds: float) -> object:
        return replace(happening, at_s=happening.at_s + seconds) if isinstance(happening, Visit) else happening

    def _note_batch(self, now_s: float) -> None:
        skipped_s = self._sampler.note(self._mark(now_s), self.quiet_until_s() if self._is_whole() else None)
        if skipped_s:
            self._skip(skipped_s, now_s)
        next_s = now_s + skipped_s + self._sampler.batch_s
        if next_s < self._sampler.config.until_s:
            self.put(next_s, _BatchOver())

    def _is_whole(self) -> bool:
        """Whether no replica is about to lose its workers, or to have some again. Those that are gone and owe nothing
        are noticed when a request comes to them, and not before."""
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
        """The clock goes on, and with it the times of all that is under way."""
        self._stretches.end_all(now_s)
        self.put_off(seconds)
        for one in self._open.values():
            one.put_off(seconds)
        for workers in self.workers:
            assert isinstance(workers, PredictedWorkers)
            workers.put_off(seconds)
        self._fleet.note_pause(seconds)
