"""The shell around the decisions: owns every replica's workers, moves events in and effects out.

Single-threaded: one thread calls all methods; only `wake` may be called from another.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import assert_never

from shoal.core.fleet.events import (
    FleetEffect,
    FleetEvent,
    GiveUp,
    ReplicaJoined,
    ReplicaLost,
    ReplicaReady,
    ReportSpeed,
    StartWorkers,
    StepAnswered,
    StopWorkers,
    SubmitStep,
    Tick,
    WorkersProgressed,
)
from shoal.core.fleet.fleet import Fleet
from shoal.core.generation.events import RequestAdded, RequestCancelled
from shoal.core.generation.scheduler_config import SchedulerConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.sequences.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.core.speed.routing import Routing
from shoal.core.speed.slow_workers import describe
from shoal.errors import ModelChanged, ShoalError, WorkerLost
from shoal.protocol.messages import Generation
from shoal.router.engine_stats import EngineStats, take_stats
from shoal.router.executor import StepExecutor, StepReplicaFactory
from shoal.router.replica_workers import Ready, Replaced, ReplicaWorkers

__all__ = ["Engine", "EngineStats"]

_MAX_WAIT_S = 60.0
"""No wait is longer, so that a lost wake-up costs a minute and not for ever."""
_REAP_S = 0.01
"""Between two looks at processes that were killed."""


class Engine:
    """Runs requests on replicas. `clock` gives seconds, monotonic."""

    def __init__(
        self,
        replicas: Sequence[tuple[SchedulerConfig, StepExecutor]],
        clock: Callable[[], float],
        *,
        factories: Sequence[StepReplicaFactory] = (),
        row_s: Sequence[float] = (),
        recovery: RecoveryConfig | None = None,
        report: Callable[[str], None] | None = None,
        routing: Routing = "earliest-finish",
    ) -> None:
        """Take over the executors.

        Args:
            replicas: limits and loaded workers, one a replica, at least one.
            clock: see above.
            factories: how workers are started again, one a replica; empty: a lost replica stays lost.
            row_s: seconds that the workers of each replica took for a single row; empty: not known.
            recovery: when workers count as lost and how they are restarted; None: the defaults.
            report: told what a person who watches the server should know, a line each.
            routing: which replica a request goes to.
        """
        recovery = recovery or RecoveryConfig()
        if not factories:
            recovery = recovery.without_restart()
        self._fleet = Fleet([config for config, _ in replicas], recovery, row_s, routing=routing)
        self._clock = clock
        self._report = report or _say_nothing
        self._poller = select.poll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._wake_fd, select.POLLIN)
        self._workers = [
            ReplicaWorkers(executor, factory, self._poller)
            for (_, executor), factory in zip(replicas, factories or [None] * len(replicas), strict=True)
        ]
        self._joining: list[ReplicaWorkers] = []
        """of replicas to come"""
        self._broken: dict[int, ShoalError] = {}
        """replicas that failed to take a step, to be told to the fleet after the effects under way"""
        self._death = ""
        self._watchers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call this at the end of every turn, in the engine's thread. It may replace and add replicas."""
        self._watchers.append(watcher)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return self._fleet.has_work

    @property
    def executors(self) -> list[StepExecutor]:
        """Of the replicas that have their workers, to look at only."""
        return [workers.serving for workers in self._workers if workers.serving is not None]

    def add(self, request: Request) -> None:
        """Hand a request to the replica that is expected to have finished it first.

        Raises:
            InvalidRequest: it can never be served as it is.
            CapacityError: it can never fit into the KV memory, or no replica is left.
        """
        self._fleet.check(request)
        self._fleet.handle(RequestAdded(request=request), self._clock())

    def cancel(self, request_id: RequestId) -> None:
        """Stop a request; its RequestFinished follows. Unknown and finished ids are ignored."""
        self._fleet.handle(RequestCancelled(request_id=request_id), self._clock())

    def turn(self, timeout_s: float) -> list[Output]:
        """Move everything on by one notch: send what can be sent, wait at most timeout_s for results, digest them.

        Raises:
            WorkerLost: no replica is left to go on with, and none will be.
        """
        outputs = self._advance()
        if not self._fleet.is_dead:
            self._collect(self._wait(0.0 if outputs else timeout_s), outputs)
            outputs += self._advance()
        if self._fleet.is_dead and not outputs:
            raise WorkerLost(self._death)
        for watcher in self._watchers:
            watcher()
        return outputs

    def wake(self) -> None:
        """Make a waiting or the next `turn` return. Thread-safe."""
        os.eventfd_write(self._wake_fd, 1)

    def run(self, requests: Iterable[Request]) -> Iterator[Output]:
        """Add requests and yield their outputs until all have finished."""
        for request in requests:
            self.add(request)
        while self.has_work:
            yield from self.turn(_MAX_WAIT_S)

    def stats(self) -> EngineStats:
        """A snapshot for metrics."""
        return take_stats(self._fleet)

    def replace_replica(self, index: int, factory: StepReplicaFactory, done: Replaced | None = None) -> None:
        """Start other workers for a replica; when they are ready it goes on with them, and so do its requests.

        Returns at once; the turns to come do it. Until then, and where it fails, the old workers serve.

        Args:
            index: of the replica.
            factory: for these workers and all that follow them.
            done: told None when the new workers serve, or why they never will.

        Raises:
            ShoalError: the new workers cannot even be started.
        """
        generation = Generation(self._fleet.replicas[index].scheduler.generation + 1)
        self._workers[index].begin_replacement(factory, generation, done or (lambda error: None), self._clock())

    def add_replica(self, factory: StepReplicaFactory, done: Replaced | None = None) -> None:
        """Start one more replica, which takes part once its workers are ready. Returns at once.

        Args:
            factory: for its workers.
            done: told None when they are about to serve, or why they never will.

        Raises:
            ShoalError: they cannot even be started.
        """
        workers = ReplicaWorkers(None, factory, self._poller)
        workers.begin_replacement(factory, Generation(0), done or (lambda error: None), self._clock())
        self._joining.append(workers)

    def close(self) -> None:
        """Stop every worker. Idempotent."""
        for workers in (*self._workers, *self._joining):
            workers.close()
        self._watchers.clear()  # they may hold the model's file open
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _advance(self) -> list[Output]:
        """Let the fleet decide on everything that it was told, and carry it out."""
        outputs: list[Output] = []
        self._tell(Tick(), outputs)
        while self._broken:
            index, error = self._broken.popitem()
            is_final = isinstance(error, ModelChanged)
            self._tell(ReplicaLost(replica=index, reason=str(error), is_final=is_final), outputs)
            self._tell(Tick(), outputs)
        return outputs

    def _wait(self, timeout_s: float) -> AbstractSet[int]:
        """Sleep until a worker answers, `wake` is called or something is due; not at all where `poll` computes.

        Returns the readable descriptors.
        """
        until_s = [timeout_s, _MAX_WAIT_S]
        if (wake_s := self._fleet.wake_s()) is not None:
            until_s.append(wake_s - self._clock())
        if any(workers.is_ending for workers in (*self._workers, *self._joining)):
            until_s.append(_REAP_S)
        if any(workers.computes_here for workers in self._workers):
            until_s.append(0.0)
        readable = {fd for fd, _ in self._poller.poll(max(0.0, min(until_s)) * 1e3)}
        if self._wake_fd in readable:
            os.eventfd_read(self._wake_fd)
        return readable

    def _collect(self, readable: AbstractSet[int], outputs: list[Output]) -> None:
        """Tell the fleet what the workers say."""
        for index, workers in enumerate(self._workers):
            workers.reap()
            try:
                for result in workers.poll():
                    self._tell(StepAnswered(replica=index, result=result), outputs)
                ready = self._look_at_loading(index, readable, outputs)
            except ShoalError as error:
                is_final = isinstance(error, ModelChanged)
                lost = ReplicaLost(replica=index, reason=str(error), worker=workers.culprit, is_final=is_final)
                self._tell(lost, outputs)
                ready = None
            ready = workers.poll_replacement(readable, self._clock()) or ready
            if ready is not None:
                self._make_ready(index, ready, outputs)
        if self._joining:
            self._collect_joining(readable, outputs)

    def _collect_joining(self, readable: AbstractSet[int], outputs: list[Output]) -> None:
        """Those that are ready are replicas; those that never will be are forgotten once they have ended."""
        for workers in tuple(self._joining):
            workers.reap()
            ready = workers.poll_replacement(readable, self._clock())
            if ready is not None:
                self._workers.append(workers)
                self._tell(ReplicaJoined(config=ready.config, row_s=ready.row_s), outputs)
                self._report(f"replica {len(self._workers) - 1} has joined")
            if ready is not None or not (workers.has_replacement or workers.is_ending):
                self._joining.remove(workers)

    def _look_at_loading(self, index: int, readable: AbstractSet[int], outputs: list[Output]) -> Ready | None:
        if not self._workers[index].is_loading_at(readable):
            return None
        ready = self._workers[index].poll_loading()
        if ready is None:
            self._tell_progress(index, outputs)
        return ready

    def _tell_progress(self, index: int, outputs: list[Output]) -> None:
        workers = self._workers[index]
        self._tell(WorkersProgressed(replica=index, silent=workers.silent, waiting_for=workers.waiting_for), outputs)

    def _make_ready(self, index: int, ready: Ready, outputs: list[Output]) -> None:
        self._broken.pop(index, None)
        lost_s = self._fleet.replicas[index].life.lost_s
        self._tell(ReplicaReady(replica=index, config=ready.config, row_s=ready.row_s), outputs)
        if lost_s is None:
            self._report(f"replica {index} goes on with other workers")
        else:
            self._report(f"replica {index} has its workers again after {self._clock() - lost_s:.1f} s")

    def _tell(self, event: FleetEvent, outputs: list[Output]) -> None:
        for effect in self._fleet.handle(event, self._clock()):
            self._carry_out(effect, outputs)

    def _carry_out(self, effect: FleetEffect, outputs: list[Output]) -> None:
        match effect:
            case SubmitStep():
                self._submit(effect)
            case StopWorkers(replica=index, reason=reason, keep=keep):
                self._broken.pop(index, None)
                self._workers[index].stop(keep=keep)
                self._report(f"replica {index} is lost: {reason}")
            case StartWorkers():
                self._start(effect, outputs)
            case GiveUp(replica=index, reason=reason):
                self._death = reason
                self._workers[index].end_fenced()
                self._report(f"replica {index} is given up: {reason}")
            case ReportSpeed(replica=index, change=change):
                self._report(f"replica {index}: {describe(change)}")
            case TokenProduced() | RequestFinished():
                outputs.append(effect)
            case _:
                assert_never(effect)

    def _submit(self, effect: SubmitStep) -> None:
        """Steps for workers that are known to be gone go nowhere: the fleet is about to hear of it."""
        if effect.replica in self._broken:
            return
        try:
            self._workers[effect.replica].submit(effect.step)
        except ShoalError as error:
            self._broken[effect.replica] = error

    def _start(self, effect: StartWorkers, outputs: list[Output]) -> None:
        workers = self._workers[effect.replica]
        try:
            workers.start(effect.generation, effect.without)
        except ShoalError as error:
            self._broken[effect.replica] = error
        else:
            self._tell_progress(effect.replica, outputs)


def _say_nothing(line: str) -> None:
    """Nobody watches."""
