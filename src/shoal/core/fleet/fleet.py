"""What the replicas of one language model do together: events in, effects out. No I/O, no clock, no randomness.

A request is given to the replica that is expected to have finished it first. When that loses its workers, the request
goes on elsewhere from its prompt and the tokens so far (`RequestProgress`), or, where nobody is left, waits for the
first replica that has workers again; the client sees a pause. A lost replica is started again while the others go on
(core/recovery). A request that takes down one replica after the other is failed (core/sequences/strikes.py), so that it
does not take all of them.
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
"""A replica that should be back so soon keeps its requests: elsewhere they would be computed again no earlier, and it
would stand idle. Source: the pause that a client may see when its stream moves (0.5 s)."""


class ReplicaFleet:
    """Decides for all replicas of one model. All changes go through `handle`."""

    def __init__(
        self,
        configs: Sequence[SchedulerConfig],
        recovery: RecoveryConfig | None = None,
        row_s: Sequence[float] = (),
        *,
        routing: Routing = "earliest-finish",
        make_meter: MakeMeter | None = None,
    ) -> None:
        """Start with workers everywhere.

        Args:
            configs: one a replica, at least one.
            recovery: None: the defaults.
            row_s: seconds that the workers of each replica took for a single row; empty: not known.
            routing: which replica a request goes to.
            make_meter: of a replica's speed, whenever it has other workers; None: one that learns from their answers.
        """
        self._make_meter = make_meter
        self._recovery = Recovery(recovery)
        self._changes = Changes()
        self.replicas: list[FleetReplica] = []
        """to look at only"""
        self._places: Candidates | None = None
        """where requests can go; None: that is to be found anew"""
        self._max_running: int | None = None
        for config, seconds in zip(configs, row_s or [0.0] * len(configs), strict=True):
            self._add_replica(config, seconds)
        self._has_newcomer = False
        """a replica has joined since the latest tick"""
        self._placement = Placement(routing, self.replicas, self._changes)
        self._owner: dict[RequestId, FleetReplica] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._owner)

    @property
    def death(self) -> str | None:
        """Why no replica has workers or will have some; None: one has or will."""
        return self._recovery.death

    @property
    def max_running(self) -> int:
        """Sequences that can run at once on the replicas that serve."""
        if self._max_running is None:
            self._max_running = sum(one.scheduler.config.max_seqs for one in self.replicas if one.is_serving)
        return self._max_running

    def replica_of(self, request_id: RequestId) -> int | None:
        """Which replica has an unfinished request; None: there is no such request."""
        owner = self._owner.get(request_id)
        return None if owner is None else owner.index

    def check(self, request: Request) -> None:
        """Refuse what no replica can ever serve, before it is added.

        Raises:
            InvalidRequest: it makes no sense as it is.
            CapacityError: it fits into no replica's KV memory, or no replica is left.
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
        """Take in what has happened. Steps are formed by `Tick` only, so that requests told together run together.

        Args:
            event: in the order in which they happen.
            now_s: monotonic.

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
                silent = self._recovery.find_silent(now_s if heard_s is None else heard_s)
                silences = [effect for lost in silent for effect in self._lose(lost, now_s)]
                turns = self._take_turns(now_s)
                return [*silences, *turns, *self._share_with_newcomer(now_s), *self._recovery.start_due(now_s)]
            case _:
                assert_never(event)

    def note_pause(self, pause_s: float) -> None:
        """Time has gone by in which nothing could happen: that is no silence of any worker's."""
        self._recovery.note_pause(pause_s)

    def wake_s(self) -> float | None:
        """When a `Tick` may have effects though nothing else has happened; None: never."""
        return self._recovery.wake_s()

    def stats(self) -> RecoveryStats:
        """A snapshot for metrics."""
        return self._recovery.stats()

    def _add_replica(self, config: SchedulerConfig, row_s: float) -> None:
        watched = self._recovery.add(row_s, generation=config.generation)
        self.replicas.append(FleetReplica(config, watched, self._make_meter, self._changes))
        self._forget_places()

    def _candidates(self) -> Candidates:
        """Where a request can go: to replicas that serve; if none does, to those that will."""
        if self._places is None:
            serving = [replica for replica in self.replicas if replica.is_serving]
            self._places = Candidates(serving or [one for one in self.replicas if one.life.is_recovering])
        return self._places

    def _forget_places(self) -> None:
        """A replica has come, or has workers that it had not, or has lost them."""
        self._places = self._max_running = None

    def _place(self, request: Request, progress: RequestProgress | None, candidates: Candidates, now_s: float) -> None:
        """Give it to one of the candidates; one that cannot hold it says so to the client."""
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
        """Requests of replicas that will not have workers soon go on where there are some, the oldest first."""
        candidates = self._candidates()
        leaving = [
            (replica, replica.withdraw_all(now_s))
            for replica in self.replicas
            if candidates.replicas and replica not in candidates.replicas and not _is_worth_waiting_for(replica, now_s)
        ]
        return self._place_anew(leaving, candidates, now_s)

    def _share_with_newcomer(self, now_s: float) -> list[FleetEffect]:
        """Requests that wait for room are given out again, the oldest first, as if they came now."""
        if not self._has_newcomer:
            return []
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
        """Place what replicas hand over; all else that they say is passed on."""
        effects: list[FleetEffect] = []
        handed_over: list[HandOver] = []
        for replica, said in told:
            handed_over += [effect for effect in said if isinstance(effect, HandOver)]
            effects += self._pass_on(replica, [effect for effect in said if not isinstance(effect, HandOver)], now_s)
        for one in sorted(handed_over, key=lambda one: one.progress.added_s):
            self._place(one.request, one.progress, candidates, now_s)
        return effects

    def _take_turns(self, now_s: float) -> list[FleetEffect]:
        """Let every scheduler see what has happened. A loss on the way gives others something to see."""
        effects: list[FleetEffect] = []
        while told := self._take_told():
            for replica in told:
                try:
                    effects += self._pass_on(replica, replica.take_turn(now_s), now_s)
                except RemoteProtocolError as error:
                    effects += self._lose(ReplicaLost(replica=replica.index, reason=str(error), keep=False), now_s)
        return effects

    def _take_told(self) -> list[FleetReplica]:
        """Those that have something in their inbox, in the order of their indices."""
        told = sorted(self._changes.told)
        self._changes.told.clear()
        return [self.replicas[index] for index in told if self.replicas[index].inbox]

    def _pass_on(self, replica: FleetReplica, effects: Sequence[Effect], now_s: float) -> list[FleetEffect]:
        """What a scheduler wants done, as the fleet's own wish."""
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
