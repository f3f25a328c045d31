"""A replica's workers in virtual time, which take as long as the planner predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from random import Random

from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.speed.routing import ReplicaSpeed
from shoal.core.speed.step_times import StepShape
from shoal.planner.predict.step_seconds import StepSeconds
from shoal.planner.speeds.unevenness import EVEN, Unevenness
from shoal.protocol.language_messages import SampledToken, StepId, StepResult
from shoal.protocol.worker_messages import Generation
from shoal.sim.cluster.known_speed import known_speed
from shoal.sim.cluster.shared_head import SharedHead
from shoal.sim.faults import Network
from shoal.sim.simulated_workers import SimulatedWorkers

_SOUND = Network(repeat_probability=0.0, drop_probability=0.0, delay_s=0.0, late_probability=0.0)
TOKEN_ID = -(2**31)
"""The token of every simulated output. No prompt contains it, so no prompt is found in the outputs of another
request."""
_LONE_ROW = StepShape(output_rows=1, output_context=1, prompt_rows=0, prompt_context=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReplicaPlan:
    """A replica to simulate: its limits, its speed, and the machines of its workers."""

    config: SchedulerConfig
    times: StepSeconds
    workers: tuple[str, ...]
    """The machine of each worker, stage by stage and rank by rank."""
    stage_sizes: tuple[int, ...]
    """The number of workers of each stage."""
    worker_load_s: tuple[float, ...]
    """Seconds from the loss of each worker until it has its weights again."""
    worker_threads: tuple[int, ...] = ()
    """Threads of each worker, if workers share the head's cores; empty: they have cores of their own."""
    unevenness: Unevenness = EVEN
    """The unevenness of the speed of all its workers."""


class PredictedWorkers(SimulatedWorkers[StepWork, StepResult, SchedulerConfig]):
    """The workers of a replica from their start to their end."""

    def __init__(self, plan: SimulatedReplicaPlan, head: SharedHead, rng: Random, now_s: float) -> None:
        passage = plan.times.passage(_LONE_ROW, samples=1, is_alone=True)
        super().__init__(replace(plan.config, packs_steps=False), passage.chain_s, _SOUND, rng, now_s)
        self._plan, self._head, self._factor = plan, head, 1.0
        self._stage_free_s = [now_s] * len(plan.stage_sizes)
        first = [sum(plan.stage_sizes[:stage]) for stage in range(len(plan.stage_sizes))]
        self._machines: Sequence[Sequence[str]] = [
            plan.workers[at : at + size] for at, size in zip(first, plan.stage_sizes, strict=True)
        ]
        self._stage_threads = [
            sum(plan.worker_threads[at : at + size]) for at, size in zip(first, plan.stage_sizes, strict=True)
        ]

    def slow_down(self, factor: float) -> None:
        self._factor *= factor

    def put_off(self, seconds: float) -> None:
        """Delay the end of what they are computing."""
        self._stage_free_s = [free_s + seconds for free_s in self._stage_free_s]

    def compute(self, work: StepWork, now_s: float) -> tuple[StepResult, float]:
        """Compute a step. Every stage runs steps in order, each as soon as it is free."""
        head, step, num_samples = self._head, work.step, work.num_samples
        is_alone = head.computing_until_s <= now_s
        passage = self._plan.times.passage(work.shape, samples=num_samples, is_alone=is_alone)
        at_s = head.send(now_s, passage.head_s)
        stage_s: list[float] = []
        for stage, (alone_s, hop_s) in enumerate(zip(passage.stage_s, (*passage.hop_s, 0.0), strict=True)):
            start_s = max(at_s, self._stage_free_s[stage])
            even_s = alone_s * self._factor
            seconds = self._stretched(stage, start_s, self._plan.unevenness.stretch(start_s, even_s))
            stage_s.append(seconds)
            self._stage_free_s[stage] = done_s = start_s + seconds
            at_s = done_s + hop_s
            for machine in self._machines[stage]:
                head.busy_s[machine] = head.busy_s.get(machine, 0.0) + seconds
        head.computing_until_s = max(head.computing_until_s, at_s)
        result = StepResult(
            step_id=step.step_id, generation=step.generation, tokens=_tokens(num_samples), compute_s=tuple(stage_s)
        )
        return result, at_s

    def compute_steadily(
        self, work: StepWork, holds_prompts: bool, context: int, now_s: float, count: int
    ) -> tuple[Sequence[float], Sequence[float]]:
        """Compute `count` steps of a single stage, each sent when the one before is answered. Only the first counts as
        sent.

        Args:
            work: the first step.
            holds_prompts: whether the first step holds prompt rows; all others are decode steps.
            context: tokens of all its sequences once the first step has run.
            now_s: when the first step is sent.
            count: the number of steps.

        Returns: the time of each answer, and the seconds of each step.
        """
        times, rows = self._plan.times, work.num_samples
        seconds: Sequence[float]
        if holds_prompts:
            prompts_s = times.passage(work.shape, samples=rows, is_alone=True).stage_s
            seconds = [*prompts_s, *times.output_steps(rows, context + rows, count - 1)]
        else:
            seconds = times.output_steps(rows, context, count)
        if self._factor != 1.0:
            seconds = [one * self._factor for one in seconds]
        answers_s = list(accumulate(seconds, initial=now_s))
        del answers_s[0]
        self.note_computed(seconds[:1], answers_s[0])
        return answers_s, seconds

    def note_computed(self, seconds: Sequence[float], done_s: float) -> None:
        """Note steps that the only stage has computed, the last of them at `done_s`."""
        self._stage_free_s[0] = done_s
        busy_s = self._head.busy_s
        before_s, after_s = -1.0, 0.0
        for machine in self._machines[0]:  # most of which have computed equally long
            machine_s = busy_s.get(machine, 0.0)
            if machine_s != before_s:
                before_s, after_s = machine_s, sum(seconds, start=machine_s)
            busy_s[machine] = after_s

    def answer(self, step_id: StepId, num_samples: int, generation: Generation, seconds: float) -> StepResult:
        """The answer to a step of a single stage."""
        tokens = _tokens(num_samples)
        return StepResult(step_id=step_id, generation=generation, tokens=tokens, compute_s=(seconds,))

    @property
    def speed(self) -> ReplicaSpeed:
        """The speed that a meter would learn from them."""
        return known_speed(self._plan.times)

    def _stretched(self, stage: int, start_s: float, seconds: float) -> float:
        """Seconds of a stage, longer if it shares cores with the head."""
        cores = self._head.cores
        if cores is None or not self._plan.worker_threads:
            return seconds
        return cores.stretch((self, stage), start_s, seconds, self._stage_threads[stage])


@lru_cache(maxsize=4096)
def _tokens(count: int) -> tuple[SampledToken, ...]:
    """Tokens of an answer. Their values do not matter, since requests end by length."""
    return (SampledToken(token_id=TOKEN_ID),) * count
