"""The replicas that compute a model's batches: what each has in flight, when it should finish, and which gets the
next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from shoal.core.batching.events import BatchLimits, Part, SubmitBatch
from shoal.core.recovery.replica_recovery import ReplicaRecovery
from shoal.core.recovery.worker_life import ReplicaLife
from shoal.core.speed.batch_meter import BatchMeter
from shoal.core.speed.batch_times import BatchTimes
from shoal.core.speed.slow_workers import SpeedEvent
from shoal.core.speed.work_size import WorkSize

_FRESH_S = 10.0
"""A replica is left idle for being slow only on a measurement younger than this; afterwards it is tried again. A
judgment."""

_LEAST_HOLD_S = 1e-4
"""The shortest hold. With both replicas overdue, the end of a shorter one would recede with the clock. Found by
simulation."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that was submitted and has not been answered."""

    batch: SubmitBatch
    size: WorkSize
    submitted_s: float


class Replica:
    """One copy of the model, as a pipeline that computes its batches in order."""

    __slots__ = ("_idle_since_s", "_recovery", "in_flight", "meter", "num_stages", "times")

    def __init__(self, num_stages: int, recovery: ReplicaRecovery) -> None:
        """`recovery`: the state of this replica's workers."""
        self._recovery = recovery
        self.num_stages = num_stages
        self.in_flight: dict[int, Flight] = {}
        """Batches in flight by id, oldest first."""
        self.times = BatchTimes()
        """Kept when the workers are lost, since their successors will be as fast."""
        self.meter = BatchMeter()
        """The speed of its present workers."""
        self._idle_since_s = 0.0
        """When it last answered; it cannot have begun the oldest batch in flight earlier."""

    @property
    def index(self) -> int:
        """Its index among the replicas."""
        return self._recovery.index

    @property
    def life(self) -> ReplicaLife:
        """The life of its workers; read-only for callers."""
        return self._recovery.life

    @property
    def is_lost(self) -> bool:
        """Whether it has no workers now."""
        return not self.life.is_serving

    @property
    def rows_in_flight(self) -> int:
        """Rows of all batches in flight."""
        return sum(flight.batch.num_rows for flight in self.in_flight.values())

    def has_room(self, *, is_full: bool, is_suspect: bool) -> bool:
        """Whether it should get another batch. While a suspect is in flight it gets none.

        One batch per stage keeps all stages busy. One more saves the first stage from waiting for the head, but a batch
        that was sent cannot grow any more, so only a full batch is sent as the extra one.
        """
        if self.is_lost or any(part.is_suspect for flight in self.in_flight.values() for part in flight.batch.parts):
            return False
        return not self.in_flight if is_suspect else len(self.in_flight) < self.num_stages + is_full

    def limit_s(self, size: WorkSize, now_s: float) -> float | None:
        """Seconds after which a worker should give up a batch sent now; None: never."""
        return self._recovery.patience.limit_s(size, now_s)

    def submit(self, batch: SubmitBatch, size: WorkSize, now_s: float) -> None:
        """Note a batch as in flight."""
        self.in_flight[batch.batch_id] = Flight(batch, size, now_s)
        self._recovery.note_sent(batch.batch_id, size, now_s)

    def complete(self, flight: Flight, compute_s: tuple[float, ...], now_s: float) -> list[SpeedEvent]:
        """Remove an answered batch and learn from its time. Returns events about the speed of the workers."""
        started_s = max(flight.submitted_s, self._idle_since_s)
        self.times.observe(flight.batch.num_rows, now_s - started_s, now_s)
        self.drop(flight, now_s, compute_s)
        return self.meter.note_answered(flight.size, compute_s)

    def drop(self, flight: Flight, now_s: float, compute_s: tuple[float, ...] = ()) -> None:
        """Remove an answered batch; without `compute_s` nothing is learned from its time."""
        self._idle_since_s = now_s
        self._recovery.note_answered(flight.batch.batch_id, compute_s, now_s)
        del self.in_flight[flight.batch.batch_id]

    def withdraw(self) -> list[Part]:
        """Remove and return all parts in flight, because the workers are gone."""
        parts = [part for flight in self.in_flight.values() for part in flight.batch.parts]
        self.in_flight.clear()
        return parts

    def take_workers(self, limits: BatchLimits) -> None:
        """Replace the workers by new ones with these limits."""
        self.num_stages = limits.num_stages
        self.meter = BatchMeter()

    def remaining_s(self, now_s: float) -> float:
        """Expected seconds until everything in flight is answered. What is overdue by x is expected to take another
        x."""
        if not self.in_flight:
            return 0.0
        oldest_due_s = self._oldest_due_s()
        behind_oldest_s = self._started_s() + self._in_flight_s() - oldest_due_s
        return behind_oldest_s + abs(oldest_due_s - now_s)

    def overdue_at(self, late_s: float) -> float:
        """The time at which its oldest batch, of which there must be one, will be overdue by `late_s`."""
        return self._oldest_due_s() + late_s

    def fresh_until_s(self) -> float:
        """The time until which its measured speed is recent enough to leave it idle."""
        return -inf if self.times.observed_s is None else self.times.observed_s + _FRESH_S

    def _oldest(self) -> Flight:
        return next(iter(self.in_flight.values()))

    def _started_s(self) -> float:
        return max(self._oldest().submitted_s, self._idle_since_s)

    def _oldest_due_s(self) -> float:
        return self._started_s() + self.times.predict(self._oldest().batch.num_rows)

    def _in_flight_s(self) -> float:
        return self.times.predict(self.rows_in_flight, len(self.in_flight))


@dataclass(frozen=True, slots=True)
class ChosenReplica:
    """The replica that gets the next batch, or how long the batch is held."""

    replica: Replica | None
    """The replica; None: the batch waits for one that is busy."""
    hold_until_s: float | None = None
    """When to choose again at the latest; None: only an answered batch can change the choice."""


_NOWHERE = ChosenReplica(None)


def choose_replica(
    replicas: Sequence[Replica],
    *,
    rows: int,
    waiting_rows: int,
    is_full: bool,
    is_suspect: bool = False,
    now_s: float,
) -> ChosenReplica:
    """Choose the replica that is expected to finish the oldest batch first; ties go to the emptier, then the lower
    index.

    Waiting for a busy fast replica pays only if it would finish *everything* that waits before the free slow one
    finishes this batch: the longer the queue, the slower a replica may be and still help.

    Args:
        replicas: all replicas; lost ones are skipped.
        rows: rows of the batch.
        waiting_rows: rows of all waiting requests, including this batch.
        is_full: whether the batch cannot grow by waiting.
        is_suspect: whether the batch needs a replica to itself.
        now_s: the time, on the clock of the replicas.
    """
    free = [replica for replica in replicas if replica.has_room(is_full=is_full, is_suspect=is_suspect)]
    if not free:
        return _NOWHERE
    if len(replicas) == 1:
        return ChosenReplica(free[0])
    finish_s, _, _, best = min(
        (_finish_s(replica, rows, now_s), len(replica.in_flight), replica.index, replica) for replica in free
    )
    fresh_until_s = best.fresh_until_s()
    if now_s >= fresh_until_s:
        return ChosenReplica(best)
    holds = [
        busy.overdue_at(finish_s - busy.times.predict(waiting_rows))
        for busy in replicas
        if busy.in_flight and busy not in free and _finish_s(busy, waiting_rows, now_s) < finish_s
    ]
    hold_until_s = min(max(holds, default=now_s), fresh_until_s)
    return ChosenReplica(None, hold_until_s) if hold_until_s >= now_s + _LEAST_HOLD_S else ChosenReplica(best)


def _finish_s(replica: Replica, rows: int, now_s: float) -> float:
    """Expected seconds until the replica has computed so many more rows; 0 for each row if its speed is not known."""
    return replica.remaining_s(now_s) + replica.times.predict(rows)


def share_rows(replicas: Sequence[Replica], chosen: Replica, *, waiting_rows: int) -> int:
    """How many rows the chosen replica should take now, so that every stage of every replica gets some.

    All unfinished rows are divided among the replicas in proportion to their speed, and then evenly among their stages;
    a single replica of one stage takes everything. Otherwise requests that arrived together would stay in one batch,
    and all stages but one would be idle.
    """
    if len(replicas) == 1:
        return ceil((waiting_rows + chosen.rows_in_flight) / chosen.num_stages)
    living = [replica for replica in replicas if not replica.is_lost]
    total_rows = waiting_rows + sum(replica.rows_in_flight for replica in living)
    batch_rows = ceil(total_rows / sum(replica.num_stages for replica in living))
    are_known = all(replica.times.predict(batch_rows) > 0 for replica in living)
    speeds = {
        replica.index: 1.0 / replica.times.predict(batch_rows) if are_known else float(replica.num_stages)
        for replica in living
    }
    return ceil(total_rows * speeds[chosen.index] / sum(speeds.values()) / chosen.num_stages)


def drain_s(replicas: Sequence[Replica], *, rows: int, num_batches: int, now_s: float) -> float | None:
    """Expected seconds until so many waiting rows are done, divided so that all replicas finish at the same time.

    None if a replica has not been measured yet, or if none has workers.
    """
    grounds: list[tuple[float, float]] = []
    for replica in replicas:
        if not replica.is_lost:
            if replica.times.observed_s is None:
                return None
            grounds.append((replica.remaining_s(now_s), replica.times.predict(rows, num_batches)))
    if not grounds:
        return None
    level_s, speed, filled = 0.0, 0.0, 1.0
    for remaining_s, alone_s in sorted(grounds):
        if speed and remaining_s >= level_s:
            break
        rate = 1.0 / max(alone_s, 1e-9)
        speed += rate
        filled += remaining_s * rate
        level_s = filled / speed
    return level_s
