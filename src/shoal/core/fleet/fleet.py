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

from shoal.core.fleet.events import FleetEffect, FleetEvent, StepAnswered, SubmitStep
from shoal.core.fleet.fleet_replica import FleetReplica, MakeMeter
from shoal.core.fleet.placement import Placement
from shoal.core.generation.events import Effect, HandOver, RequestAdded, RequestCancelled, SendStep
from shoal.core.generation.scheduler_config import SchedulerConfig, check_request
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
        self.replicas: list[FleetReplica] = []
        """to look at only"""
        for config, seconds in zip(configs, row_s or [0.0] * len(configs), strict=True):
            self._add_replica(config, seconds)
        self._has_newcomer = False
        """a replica has joined since the latest tick"""
        self._placement = Placement(routing)
        self._owner: dict[RequestId, FleetReplica] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._owner)

    @property
    def death(self) -> str | None:
        """Why no replica has workers or will have some; None: one has or will."""
        return self._recovery.death

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
        usable = [replica for replica in self.replicas if not replica.life.is_given_up]
        if not usable:
            raise CapacityError("no replica is left to serve requests")
        first_error: ShoalError | None = None
        for replica in usable:
            if (error := _refusal(replica, request)) is None:
                return
            first_error = first_error or error
        assert first_error is not None, "there is a usable replica"
        raise first_error

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
                    owner.inbox.append(event)
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

    def wake_s(self) -> float | None:
        """When a `Tick` may have effects though nothing else has happened; None: never."""
        return self._recovery.wake_s()

    def stats(self) -> RecoveryStats:
        """A snapshot for metrics."""
        return self._recovery.stats()

    def _add_replica(self, config: SchedulerConfig, row_s: float) -> None:
        watched = self._recovery.add(row_s, generation=config.generation)
        self.replicas.append(FleetReplica(config, watched, self._make_meter))

    def _candidates(self) -> list[FleetReplica]:
        """Where a request can go: to replicas that serve; if none does, to those that will."""
        serving = [replica for replica in self.replicas if replica.is_serving]
        return serving or [replica for replica in self.replicas if replica.life.is_recovering]

    def _place(
        self, request: Request, progress: RequestProgress | None, candidates: Sequence[FleetReplica], now_s: float
    ) -> None:
        """Give it to one of the candidates; one that cannot hold it says so to the client."""
        able = [replica for replica in candidates if _refusal(replica, request) is None] or candidates
        owner = self._placement.choose(able, request, progress, now_s)
        self._owner[request.request_id] = owner
        owner.inbox.append(RequestAdded(request=request, progress=progress))

    def _make_ready(self, ready: ReplicaReady[SchedulerConfig], now_s: float) -> list[FleetEffect]:
        replica = self.replicas[ready.replica]
        told = replica.take_workers(ready.limits, now_s)
        report = self._recovery.become_ready(ready, now_s)
        return [report, *self._pass_on(replica, told, now_s), *self._rehome(now_s)]

    def _lose(self, lost: ReplicaLost, now_s: float) -> list[FleetEffect]:
        replica = self.replicas[lost.replica]
        effects = self._recovery.lose(lost, now_s)
        if not effects:
            return []
        stop, *end = effects
        told = self._pass_on(replica, replica.lose(lost.reason, now_s), now_s)
        return [stop, *told, *end, *self._rehome(now_s)]

    def _rehome(self, now_s: float) -> list[FleetEffect]:
        """Requests of replicas that will not have workers soon go on where there are some, the oldest first."""
        candidates = self._candidates()
        leaving = [
            (replica, replica.withdraw_all(now_s))
            for replica in self.replicas
            if candidates and replica not in candidates and not _is_worth_waiting_for(replica, now_s)
        ]
        return self._place_anew(leaving, candidates, now_s)

    def _share_with_newcomer(self, now_s: float) -> list[FleetEffect]:
        """Requests that wait for room are given out again, the oldest first, as if they came now."""
        if not self._has_newcomer:
            return []
        self._has_newcomer = False
        serving = [replica for replica in self.replicas if replica.is_serving]
        effects = self._place_anew([(one, one.withdraw_waiting(now_s)) for one in serving], serving, now_s)
        return effects + self._take_turns(now_s)

    def _place_anew(
        self,
        told: Sequence[tuple[FleetReplica, Sequence[Effect]]],
        candidates: Sequence[FleetReplica],
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
        while told := [replica for replica in self.replicas if replica.inbox]:
            for replica in told:
                try:
                    effects += self._pass_on(replica, replica.take_turn(now_s), now_s)
                except RemoteProtocolError as error:
                    effects += self._lose(ReplicaLost(replica=replica.index, reason=str(error), keep=False), now_s)
        return effects

    def _pass_on(self, replica: FleetReplica, effects: Sequence[Effect], now_s: float) -> list[FleetEffect]:
        """What a scheduler wants done, as the fleet's own wish."""
        passed: list[FleetEffect] = []
        for effect in effects:
            match effect:
                case SendStep(step=step):
                    replica.note_sent(step, now_s)
                    passed.append(SubmitStep(replica=replica.index, step=step))
                case HandOver():
                    raise AssertionError("nobody has asked for this request")
                case RequestFinished(request_id=request_id):
                    self._owner.pop(request_id, None)
                    passed.append(effect)
                case _:
                    passed.append(effect)
        return passed


def _refusal(replica: FleetReplica, request: Request) -> ShoalError | None:
    """Why the replica can never serve this request."""
    try:
        check_request(replica.scheduler.config, request)
    except ShoalError as error:
        return error
    return None


def _is_worth_waiting_for(replica: FleetReplica, now_s: float) -> bool:
    expected_s = replica.life.expected_in_s(now_s)
    return expected_s is not None and expected_s <= _WORTH_WAITING_S
