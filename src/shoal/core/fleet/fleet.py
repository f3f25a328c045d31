"""The fleet of all replicas of one language model: events in, effects out. No I/O, no clock, no randomness.

A request goes to the replica that is expected to finish it first. If that replica loses its workers, the request
continues on another one from its prompt and the tokens so far (`RequestProgress`), or, if none is left, waits for the
first replica that has workers again; the client sees a pause. A lost replica is started again while the others continue
(core/recovery). A request that breaks one replica after the other is failed (core/sequences/strikes.py) before it has
broken all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from shoal.core.fleet.candidates import Candidates, refusal
from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet_replica import Changes, FleetReplica, MakeMeter
from shoal.core.fleet.placement import Placement
from shoal.core.generation.events import Effect, HandOver, RequestAdded, RequestCancelled, SendStep
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import (
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    ReportSpeed,
    Tick,
    WorkersProgressed,
)
from shoal.core.recovery.recovery import Recovery, RecoveryStats
from shoal.core.sequences.request import Request, RequestFinished, RequestId, RequestProgress
from shoal.core.speed.routing import Routing
from shoal.errors import CapacityError, RemoteProtocolError, ShoalError

_WORTH_WAITING_S = 0.5
"""A replica that is expected back within this time keeps its requests: other replicas would not continue them earlier,
and it would be idle. Source: the pause that a client may see when its stream moves (0.5 s)."""


class ReplicaFleet:
    """Routes requests among all replicas of one model and recovers lost ones. All changes go through `handle`."""

    def __init__(
        self,
        configs: Sequence[SchedulerConfig],
        recovery: RecoveryConfig | None = None,
        row_s: Sequence[float] = (),
        *,
        routing: Routing = "earliest-finish",
        make_meter: MakeMeter | None = None,
    ) -> None:
        """Start with workers on every replica.

        Args:
            configs: the limits of each replica, at least one.
            recovery: how lost workers are started again; None: the defaults.
            row_s: seconds that the workers of each replica took for a single row; empty: not known.
            routing: the rule that chooses a request's replica.
            make_meter: makes a replica's speed meter whenever it has new workers; None: one that learns from their
                answers.
        """
        self._make_meter = make_meter
        self._recovery = Recovery(recovery)
        self._changes = Changes()
        self.replicas: list[FleetReplica] = []
        """All replicas; read-only for callers."""
        self._places: Candidates | None = None
        """The candidates for new requests; None: to be computed again."""
        self._max_running: int | None = None
        for config, seconds in zip(configs, row_s or [0.0] * len(configs), strict=True):
            self._add_replica(config, seconds)
        self._has_newcomer = False
        """Whether a replica has joined since the latest tick."""
        self._placement = Placement(routing, self.replicas, self._changes)
        self._owner: dict[RequestId, FleetReplica] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._owner)

    @property
    def death(self) -> str | None:
        """Why no replica has workers or will get them; None if one has or will."""
        return self._recovery.death

    @property
    def max_running(self) -> int:
        """Sequences that can run at once on the replicas that serve."""
        if self._max_running is None:
            self._max_running = sum(one.scheduler.config.max_seqs for one in self.replicas if one.is_serving)
        return self._max_running

    def replica_of(self, request_id: RequestId) -> int | None:
        """The index of the replica that has an unfinished request; None if there is no such request."""
        owner = self._owner.get(request_id)
        return None if owner is None else owner.index

    def check(self, request: Request) -> None:
        """Refuse a request that no replica can ever serve, before it is added.

        Raises:
            InvalidRequest: the request is invalid.
            CapacityError: the request fits into no replica's KV memory, or no replica is left.
        """
        first_error: ShoalError | None = None
        for replica in self.replicas:
            if replica.life.is_given_up:
                continue
            if (error := refusal(replica.scheduler.config, request)) is None:
                return
            first_error = first_error or error
        raise first_error or CapacityError("no replica is left to serve requests")

    def handle(self, event: FleetEvent, now_s: float) -> list[FleetEffect]:
        """Take in an event. Only a `Tick` forms steps, so that requests that arrive together run together.

        Args:
            event: what happened; events come in order.
            now_s: the monotonic time.

        Returns:
            Effects to carry out in order.
        """
        match event:
            case RequestAdded(request=request, progress=progress):
                self._place(request, progress, self._candidates(), now_s)
                return []
            case RequestCancelled(request_id=request_id):
                if owner := self._owner.get(request_id):
                    owner.tell(event)
                return []
            case StepAnswered(replica=index, result=result):
                if not self.replicas[index].is_serving:
                    return []
                changes = self.replicas[index].take_answer(result, now_s)
                return [ReportSpeed(replica=index, change=change) for change in changes]
            case WorkersProgressed():
                self._recovery.note_progress(event, now_s)
                return []
            case ReplicaReady():
                return self._make_ready(event, now_s)
            case ReplicaJoined(limits=config, row_s=row_s):
                self._add_replica(config, row_s)
                self._has_newcomer = True
                return self._rehome(now_s)
            case ReplicaLost():
                return self._lose(event, now_s)
            case Tick(heard_s=heard_s):
                effects: list[FleetEffect] = []
                for lost in self._recovery.find_silent(now_s if heard_s is None else heard_s):
                    effects += self._lose(lost, now_s)
                if self._changes.told:
                    effects += self._take_turns(now_s)
                if self._has_newcomer:
                    effects += self._share_with_newcomer(now_s)
                effects += self._recovery.start_due(now_s)
                return effects
            case _:
                assert_never(event)

    def note_pause(self, pause_s: float) -> None:
        """Exclude a pause of the head itself from the time for which workers count as silent."""
        self._recovery.note_pause(pause_s)

    def wake_s(self) -> float | None:
        """The next time at which a `Tick` may have effects even if nothing else happens; None: never."""
        return self._recovery.wake_s()

    def stats(self) -> RecoveryStats:
        """A snapshot of the replicas' recovery, for metrics."""
        return self._recovery.stats()

    def _add_replica(self, config: SchedulerConfig, row_s: float) -> None:
        watched = self._recovery.add(row_s, generation=config.generation)
        self.replicas.append(FleetReplica(config, watched, self._make_meter, self._changes))
        self._forget_places()

    def _candidates(self) -> Candidates:
        """The replicas to which a request can go: those that serve or, if none does, those that are recovering."""
        if self._places is None:
            serving = [replica for replica in self.replicas if replica.is_serving]
            self._places = Candidates(serving or [one for one in self.replicas if one.life.is_recovering])
        return self._places

    def _forget_places(self) -> None:
        """Forget the cached candidates, because a replica has joined or its workers have changed."""
        self._places = self._max_running = None

    def _place(self, request: Request, progress: RequestProgress | None, candidates: Candidates, now_s: float) -> None:
        """Give a request to one of the candidates. If that one cannot hold it, its scheduler refuses it."""
        owner, digests = self._placement.choose(candidates.able(request), request, progress, now_s)
        self._owner[request.request_id] = owner
        owner.tell(RequestAdded(request=request, progress=progress, digests=digests))

    def _make_ready(self, ready: ReplicaReady[SchedulerConfig], now_s: float) -> list[FleetEffect]:
        replica = self.replicas[ready.replica]
        told = replica.take_workers(ready.limits, now_s)
        report = self._recovery.become_ready(ready, now_s)
        self._forget_places()
        return [report, *self._pass_on(replica, told, now_s), *self._rehome(now_s)]

    def _lose(self, lost: ReplicaLost, now_s: float) -> list[FleetEffect]:
        replica = self.replicas[lost.replica]
        effects = self._recovery.lose(lost, now_s)
        if not effects:
            return []
        self._forget_places()
        stop, *end = effects
        told = self._pass_on(replica, replica.lose(lost.reason, now_s), now_s)
        return [stop, *told, *end, *self._rehome(now_s)]

    def _rehome(self, now_s: float) -> list[FleetEffect]:
        """Move requests, the oldest first, from replicas that will not have workers soon to those that have some."""
        candidates = self._candidates()
        leaving = [
            (replica, replica.withdraw_all(now_s))
            for replica in self.replicas
            if candidates.replicas and replica not in candidates.replicas and not _is_worth_waiting_for(replica, now_s)
        ]
        return self._place_anew(leaving, candidates, now_s)

    def _share_with_newcomer(self, now_s: float) -> list[FleetEffect]:
        """After a replica has joined, place the requests that wait for room again, the oldest first."""
        self._has_newcomer = False
        serving = self._candidates()
        effects = self._place_anew([(one, one.withdraw_waiting(now_s)) for one in serving.replicas], serving, now_s)
        return effects + self._take_turns(now_s)

    def _place_anew(
        self,
        told: Sequence[tuple[FleetReplica, Sequence[Effect]]],
        candidates: Candidates,
        now_s: float,
    ) -> list[FleetEffect]:
        """Place the requests that replicas hand over, and pass on their other effects."""
        effects: list[FleetEffect] = []
        handed_over: list[HandOver] = []
        for replica, said in told:
            handed_over += [effect for effect in said if isinstance(effect, HandOver)]
            effects += self._pass_on(replica, [effect for effect in said if not isinstance(effect, HandOver)], now_s)
        for one in sorted(handed_over, key=lambda one: one.progress.added_s):
            self._place(one.request, one.progress, candidates, now_s)
        return effects

    def _take_turns(self, now_s: float) -> list[FleetEffect]:
        """Let the schedulers take in their events until none has any left; a loss on the way makes new ones."""
        effects: list[FleetEffect] = []
        while told := self._take_told():
            for replica in told:
                try:
                    effects += self._pass_on(replica, replica.take_turn(now_s), now_s)
                except RemoteProtocolError as error:
                    effects += self._lose(ReplicaLost(replica=replica.index, reason=str(error), keep=False), now_s)
        return effects

    def _take_told(self) -> list[FleetReplica]:
        """The replicas with events in their inbox, ordered by index."""
        told = sorted(self._changes.told)
        self._changes.told.clear()
        return [self.replicas[index] for index in told if self.replicas[index].inbox]

    def _pass_on(self, replica: FleetReplica, effects: Sequence[Effect], now_s: float) -> list[FleetEffect]:
        """Turn a scheduler's effects into effects of the fleet."""
        passed: list[FleetEffect] = []
        for effect in effects:
            match effect:
                case SendStep(work=work):
                    replica.note_sent(work, now_s)
                    passed.append(SubmitStep(replica=replica.index, work=work))
                case HandOver():
                    raise AssertionError("nobody has asked for this request")
                case RequestFinished(request_id=request_id):
                    self._owner.pop(request_id, None)
                    passed.append(effect)
                case _:
                    passed.append(effect)
        return passed


def _is_worth_waiting_for(replica: FleetReplica, now_s: float) -> bool:
    expected_s = replica.life.expected_in_s(now_s)
    return expected_s is not None and expected_s <= _WORTH_WAITING_S
