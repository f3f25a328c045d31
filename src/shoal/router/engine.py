"""The shell around the decisions: owns every replica's scheduler and executor, moves events in and effects out.

Single-threaded: one thread calls `add`, `cancel` and `turn`; only `wake` may be called from another.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from shoal.core.events import Event, RequestAdded, RequestCancelled, SendStep, StepCompleted
from shoal.core.request import Output, Request, RequestFinished, RequestId, TokenProduced
from shoal.core.routing import ReplicaLoad, choose_replica
from shoal.core.scheduler import Scheduler, SchedulerStats
from shoal.core.scheduler_config import SchedulerConfig, check_request
from shoal.errors import RemoteProtocolError, ShoalError, WorkerLost
from shoal.router.executor import Executor

_MAX_WAIT_S = 60.0
"""No wait is longer, so that a lost wake-up costs a minute and not for ever."""
_STEP_TIMEOUT_S = 120.0
"""A replica that answers none of its steps for so long counts as lost; a prefill on a slow machine takes seconds."""
_LOSSES = (WorkerLost, RemoteProtocolError)
"""A worker that answers nonsense is as lost as one that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What the engine is doing, summed over its replicas."""

    num_running: int
    num_waiting: int
    kv_usage: float
    """share of KV blocks in use, 0 to 1"""
    prefix_query_tokens: int
    prefix_hit_tokens: int
    num_preemptions: int
    max_context: int
    """tokens, prompt and output together"""
    num_replicas: int
    """replicas that still have their workers"""
    replicas: tuple[SchedulerStats, ...]


class _Replica:
    """One scheduler, the executor that runs its steps, and the events it has not seen yet."""

    def __init__(self, config: SchedulerConfig, executor: Executor) -> None:
        self.config = config
        self.scheduler = Scheduler(config)
        self.executor = executor
        self.inbox: list[Event] = []
        self.num_steps_in_flight = 0
        self.last_sign_s = 0.0
        """when it last answered, or was sent a step while it had none"""
        self.is_lost = False

    def load(self) -> ReplicaLoad:
        """Expected work, requests in the inbox included."""
        load = self.scheduler.load()
        added = [event.request for event in self.inbox if isinstance(event, RequestAdded)]
        return replace(
            load,
            prefill_tokens=load.prefill_tokens
            + sum(len(request.prompt_ids) + len(request.targets) for request in added),
            num_decoding=load.num_decoding + sum(not request.targets for request in added),
            is_fenced=load.is_fenced or self.is_lost,
        )

    def advance(self, now_s: float) -> list[Output]:
        """Let the scheduler see the inbox; send the steps it forms. Returns what is for the clients."""
        events, self.inbox = self.inbox, []
        outputs: list[Output] = []
        for effect in self.scheduler.handle(events, now_s):
            match effect:
                case SendStep(step=step):
                    if not self.num_steps_in_flight:
                        self.last_sign_s = now_s
                    self.executor.submit(step)
                    self.num_steps_in_flight += 1
                case TokenProduced() | RequestFinished():
                    outputs.append(effect)
                case _:
                    assert_never(effect)
        return outputs

    def collect(self, now_s: float) -> None:
        """Move finished steps into the inbox. Raises WorkerLost, also when a step has been out for too long."""
        results = self.executor.poll()
        if results:
            self.last_sign_s = now_s
        elif self.num_steps_in_flight and now_s - self.last_sign_s > _STEP_TIMEOUT_S:
            raise WorkerLost(f"no answer to a step within {_STEP_TIMEOUT_S:.0f} s")
        self.num_steps_in_flight -= len(results)
        self.inbox += [StepCompleted(result=result) for result in results]


class Engine:
    """Runs requests on replicas. `clock` gives seconds, monotonic."""

    def __init__(self, replicas: Sequence[tuple[SchedulerConfig, Executor]], clock: Callable[[], float]) -> None:
        self._replicas = [_Replica(config, executor) for config, executor in replicas]
        self._clock = clock
        self._owner: dict[RequestId, _Replica] = {}
        self._poller = select.poll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._wake_fd, select.POLLIN)
        for replica in self._replicas:
            for fd in replica.executor.filenos():
                self._poller.register(fd, select.POLLIN)

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._owner)

    def add(self, request: Request) -> None:
        """Hand a request to the replica with the least expected work.

        Raises:
            InvalidRequest: it can never be served as it is.
            CapacityError: it can never fit into the KV memory, or no replica is left.
        """
        check_request(self._replicas[0].config, request)
        loads = [replica.load() for replica in self._replicas]
        index = choose_replica(loads, prompt_tokens=len(request.prompt_ids))
        self._owner[request.request_id] = self._replicas[index]
        self._replicas[index].inbox.append(RequestAdded(request=request))

    def cancel(self, request_id: RequestId) -> None:
        """Stop a request; its RequestFinished follows. Unknown and finished ids are ignored."""
        if replica := self._owner.get(request_id):
            replica.inbox.append(RequestCancelled(request_id=request_id))

    def turn(self, timeout_s: float) -> list[Output]:
        """Move everything on by one notch: send what can be sent, wait at most timeout_s for results, digest them.

        Raises:
            WorkerLost: no replica is left to go on with.
        """
        outputs = self._advance()
        if not outputs:
            self._wait(timeout_s)
        for replica in self._replicas:
            if not replica.is_lost:
                try:
                    replica.collect(self._clock())
                except _LOSSES as error:
                    outputs += self._lose(replica, error)
        return outputs + self._advance()

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
        stats = tuple(replica.scheduler.stats() for replica in self._replicas)
        waiting_in_inbox = sum(isinstance(event, RequestAdded) for replica in self._replicas for event in replica.inbox)
        return EngineStats(
            num_running=sum(one.num_running for one in stats),
            num_waiting=sum(one.num_waiting for one in stats) + waiting_in_inbox,
            kv_usage=sum(one.kv_usage for one in stats) / len(stats),
            prefix_query_tokens=sum(one.prefix_query_tokens for one in stats),
            prefix_hit_tokens=sum(one.prefix_hit_tokens for one in stats),
            num_preemptions=sum(one.num_preemptions for one in stats),
            max_context=self._replicas[0].config.max_context,
            num_replicas=sum(not replica.is_lost for replica in self._replicas),
            replicas=stats,
        )

    def _advance(self) -> list[Output]:
        """Send the steps that can be sent; forget the requests that ended."""
        outputs: list[Output] = []
        now_s = self._clock()
        for replica in self._replicas:
            if replica.inbox and not replica.is_lost:
                try:
                    outputs += replica.advance(now_s)
                except _LOSSES as error:
                    outputs += self._lose(replica, error)
        for output in outputs:
            if isinstance(output, RequestFinished):
                self._owner.pop(output.request_id, None)
        return outputs

    def _wait(self, timeout_s: float) -> None:
        """Sleep until a worker answers or `wake` is called; not at all where `poll` is what computes."""
        computes_here = any(
            replica.num_steps_in_flight and not replica.executor.filenos() for replica in self._replicas
        )
        timeout_ms = 0 if computes_here else min(timeout_s, _MAX_WAIT_S) * 1e3
        for fd, _ in self._poller.poll(timeout_ms):
            if fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)

    def _lose(self, replica: _Replica, error: ShoalError) -> list[Output]:
        """Take a replica out of service; its requests end with an error. Raises WorkerLost when it was the last."""
        replica.is_lost = True
        for fd in replica.executor.filenos():
            self._poller.unregister(fd)
        replica.executor.close()
        if all(other.is_lost for other in self._replicas):
            raise WorkerLost(str(error)) from error
        lost = [request_id for request_id, owner in self._owner.items() if owner is replica]
        for request_id in lost:
            del self._owner[request_id]
        return [
            RequestFinished(
                request_id=request_id, reason="error", num_prompt_tokens=0, num_output_tokens=0, message=str(error)
            )
            for request_id in lost
        ]

    def close(self) -> None:
        """Stop every worker. Idempotent."""
        for replica in self._replicas:
            replica.executor.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1
