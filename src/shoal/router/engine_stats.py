"""Statistics of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.core.fleet.fleet import ReplicaFleet
from shoal.core.generation.events import RequestAdded
from shoal.core.generation.scheduler_stats import SchedulerStats
from shoal.core.recovery.replica_status import ReplicaWork
from shoal.core.recovery.worker_life import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """A snapshot of an engine, summed over its replicas."""

    num_running: int
    num_waiting: int
    kv_usage: float
    """The share of KV blocks in use, 0 to 1."""
    prefix_query_tokens: int
    prefix_hit_tokens: int
    num_preemptions: int
    max_context: int
    """The most tokens of a sequence, prompt and output together."""
    max_running: int
    """The most sequences that can run at once, on all replicas that are not given up."""
    num_replicas: int
    """Replicas that have their workers."""
    num_recovering: int
    """Replicas whose workers are lost and will be restarted."""
    num_losses: int
    """Losses of workers so far."""
    num_replays: int
    """The number of times that a started request lost its workers so far."""
    replayed_tokens: int
    """Tokens that lost workers had computed and that had to be computed again so far."""
    num_recoveries: int
    """The number of times that a lost replica got workers again so far."""
    recoveries_s: tuple[float, ...]
    """Seconds for which replicas had no workers, in the latest recoveries in order."""
    slowdowns: tuple[tuple[float, ...], ...]
    """[replica][stage]: observed over expected seconds of the latest steps; empty before the first step."""
    stage_s: tuple[tuple[float, ...], ...]
    """[replica][stage]: mean seconds of the latest steps."""
    phases: tuple[Phase, ...]
    """The phase of each replica's workers."""
    reduced: tuple[bool, ...]
    """Whether each replica runs without a worker that could not be restarted."""
    replicas: tuple[SchedulerStats, ...]
    work: tuple[ReplicaWork, ...]
    """The work of each replica."""


def take_stats(fleet: ReplicaFleet, pids: Sequence[tuple[int, ...]]) -> EngineStats:
    """Take a snapshot of the fleet. `pids`: the process ids of each replica's workers."""
    of_replicas = tuple(replica.scheduler.stats() for replica in fleet.replicas)
    of_fleet = fleet.stats()
    in_inbox = sum(isinstance(event, RequestAdded) for replica in fleet.replicas for event in replica.inbox)
    return EngineStats(
        num_running=sum(one.num_running for one in of_replicas),
        num_waiting=sum(one.num_waiting for one in of_replicas) + in_inbox,
        kv_usage=sum(one.kv_usage for one in of_replicas) / len(of_replicas),
        prefix_query_tokens=sum(one.prefix_query_tokens for one in of_replicas),
        prefix_hit_tokens=sum(one.prefix_hit_tokens for one in of_replicas),
        num_preemptions=sum(one.num_preemptions for one in of_replicas),
        max_context=fleet.replicas[0].scheduler.config.max_context,
        max_running=sum(one.scheduler.config.max_seqs for one in fleet.replicas if not one.life.is_given_up),
        num_replicas=of_fleet.num_serving,
        num_recovering=of_fleet.num_recovering,
        num_losses=of_fleet.num_losses,
        num_replays=sum(one.num_replays for one in of_replicas),
        replayed_tokens=sum(one.replayed_tokens for one in of_replicas),
        num_recoveries=of_fleet.num_recoveries,
        recoveries_s=of_fleet.recoveries_s,
        slowdowns=tuple(replica.meter.slowdowns() for replica in fleet.replicas),
        stage_s=tuple(replica.meter.stage_s() for replica in fleet.replicas),
        phases=of_fleet.phases,
        reduced=of_fleet.reduced,
        replicas=of_replicas,
        work=tuple(
            ReplicaWork(
                num_running=one.num_running,
                num_waiting=one.num_waiting,
                kv_usage=one.kv_usage,
                busy_s=replica.meter.busy_s(),
                pids=of_workers,
            )
            for one, replica, of_workers in zip(of_replicas, fleet.replicas, pids, strict=True)
        ),
    )
