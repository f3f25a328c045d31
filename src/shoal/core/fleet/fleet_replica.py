"""One replica of a fleet: its scheduler, the scheduler's inbox, and the state of its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from shoal.core.generation.events import (
    Effect,
    Event,
    HandOver,
    RequestAdded,
    RequestWithdrawn,
    StepCompleted,
    WorkersLost,
    WorkersReady,
)
from shoal.core.generation.scheduler import Scheduler
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.recovery.replica_recovery import ReplicaRecovery
from shoal.core.recovery.worker_life import ReplicaLife
from shoal.core.speed.replica_speed import SpeedMeter
from shoal.core.speed.routing import ReplicaLoad
from shoal.core.speed.slow_workers import SpeedEvent
from shoal.core.speed.work_size import WorkSize
from shoal.errors import RemoteProtocolError
from shoal.protocol.language_messages import StepId, StepResult

MakeMeter = Callable[[int], SpeedMeter]
"""Makes the speed meter for the present workers of the replica with this index."""


@dataclass(slots=True)
class Changes:
    """Indices of replicas that must be looked at again. Mutable: the reader of a set clears it."""

    told: set[int] = field(default_factory=set[int])
    """Replicas that may have events in their inbox."""
    loads: set[int] = field(default_factory=set[int])
    """Replicas whose load, speed or memory may have changed."""


class FleetReplica:
    """One replica: scheduler, inbox, speed and workers. It is changed only by its methods; attributes are read-only."""

    def __init__(
        self, config: SchedulerConfig, recovery: ReplicaRecovery, make_meter: MakeMeter | None, changes: Changes
    ) -> None:
        """`recovery`: the state of its workers. `make_meter`: see `ReplicaFleet`. `changes`: shared by the fleet."""
        self.index = recovery.index
        self.scheduler = Scheduler(config)
        self.inbox: list[Event] = []
        """Events for the scheduler's next turn."""
        self._make_meter: MakeMeter = make_meter or _learning_meter
        self.meter = self._make_meter(self.index)
        """The speed of its present workers."""
        self._recovery, self._changes = recovery, changes
        changes.loads.add(self.index)

    @property
    def life(self) -> ReplicaLife:
        """The life of its workers; read-only for callers."""
        return self._recovery.life

    @property
    def is_serving(self) -> bool:
        """Whether it has its workers."""
        return self._recovery.is_serving

    def tell(self, event: Event) -> None:
        """Put an event into the inbox for the scheduler's next turn."""
        self.inbox.append(event)
        self._changes.told.add(self.index)
        self._changes.loads.add(self.index)

    def load(self, now_s: float) -> ReplicaLoad:
        """The expected work, including requests in the inbox."""
        prefill_tokens = num_decoding = 0
        for event in self.inbox:
            if isinstance(event, RequestAdded):
                prefill_tokens += _known_tokens(event)
                num_decoding += not event.request.targets
        return self.scheduler.load(
            prefill_tokens, num_decoding, speed=self.meter.speed(now_s), is_slow=self.meter.is_slow
        )

    def take_turn(self, now_s: float) -> list[Effect]:
        """Let the scheduler take in the inbox.

        Raises:
            RemoteProtocolError: an answer makes no sense. The workers must be fenced; only their answers are lost.
        """
        events, self.inbox = self.inbox, []
        self._changes.loads.add(self.index)
        try:
            return self.scheduler.handle(events, now_s)
        except RemoteProtocolError:
            self.inbox = [event for event in events if not isinstance(event, StepCompleted)]
            self._changes.told.add(self.index)
            raise

    def note_sent(self, work: StepWork, now_s: float) -> None:
        """Note that a step was sent."""
        step_id = work.step.step_id
        self._recovery.note_sent(step_id, WorkSize.of_step(work.shape), now_s)
        self.meter.note_sent(step_id, work.shape, now_s)

    def take_answer(self, result: StepResult, now_s: float) -> list[SpeedEvent]:
        """Take a step's answer. Returns events about the speed of the workers.

        Answers of earlier generations of workers are ignored.
        """
        if not self.is_serving or result.generation != self.scheduler.generation:
            return []
        self._recovery.note_answered(result.step_id, result.compute_s, now_s)
        self.tell(StepCompleted(result=result))
        return self.meter.note_answered(result, now_s)

    def note_steady(
        self, first_id: StepId, step_id: StepId, size: WorkSize, now_s: float, prompts_s: tuple[float, ...] = ()
    ) -> None:
        """Note steps that were taken together (core/generation/steady_steps.py): all but the last were answered, and
        the last was sent.

        Args:
            first_id: the id of the first of them.
            step_id: the id of the last.
            size: the size of the last.
            now_s: when the last was sent.
            prompts_s: seconds of each stage for the first, if it held prompts and is the only one that was answered.
        """
        self._recovery.note_answered(first_id, prompts_s, now_s)
        self._recovery.note_sent(step_id, size, now_s)
        if prompts_s:
            self._changes.loads.add(self.index)

    def lose(self, reason: str, now_s: float) -> list[Effect]:
        """Note the loss of its workers; every request waits afterwards. Returns the effects of their last answers."""
        self.tell(WorkersLost(reason=reason))
        self.meter.forget_sent()
        return self._close_books(now_s)

    def take_workers(self, config: SchedulerConfig, now_s: float) -> list[Effect]:
        """Take new workers, after a loss or in place of others. Returns the effects of the old ones' last answers."""
        effects: list[Effect] = []
        if self.is_serving:
            self.tell(WorkersLost(on_purpose=True))
            effects = self._close_books(now_s)
        effects += self._renew_scheduler(config, now_s)
        self.meter = self._make_meter(self.index)
        self._changes.loads.add(self.index)
        return effects

    def withdraw_all(self, now_s: float) -> list[Effect]:
        """Hand over every request of a replica without workers, except those that end now."""
        effects = self.take_turn(now_s)
        self.inbox += [RequestWithdrawn(request_id=request_id) for request_id in self.scheduler.state.sequences]
        return effects + self.take_turn(now_s)

    def withdraw_waiting(self, now_s: float) -> list[Effect]:
        """Hand over the requests that hold no KV blocks. The inbox must be empty."""
        self.inbox += [RequestWithdrawn(request_id=one.request.request_id) for one in self.scheduler.state.waiting]
        return self.take_turn(now_s) if self.inbox else []

    def _close_books(self, now_s: float) -> list[Effect]:
        """Take the last turn with the old workers' answers; answers that make no sense are dropped."""
        try:
            return self.take_turn(now_s)
        except RemoteProtocolError:
            return self.take_turn(now_s)

    def _renew_scheduler(self, config: SchedulerConfig, now_s: float) -> list[Effect]:
        """Keep the scheduler if its limits still hold; otherwise a new one takes over its requests."""
        if replace(config, generation=self.scheduler.config.generation) == self.scheduler.config:
            self.tell(WorkersReady())
            return []
        told: list[Effect] = []
        for effect in self.withdraw_all(now_s):
            if isinstance(effect, HandOver):
                self.tell(RequestAdded(request=effect.request, progress=effect.progress))
            else:
                told.append(effect)
        self.scheduler = self.scheduler.successor(config)
        return told


def _learning_meter(index: int) -> SpeedMeter:
    """A meter that knows nothing yet, whichever the replica."""
    return SpeedMeter()


def _known_tokens(added: RequestAdded) -> int:
    num_outputs = len(added.progress.outputs) if added.progress else 0
    num_encoded = added.request.clip.num_rows if added.request.clip is not None else 0
    return len(added.request.prompt_ids) + (len(added.request.targets) or num_outputs) + num_encoded
