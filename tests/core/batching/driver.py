"""A scheduler of batches with the little around it that the tests need: a clock, and what was submitted."""

from shoal.core.batching.config import BatchingConfig
from shoal.core.batching.events import (
    BatchCompleted,
    BatchLimits,
    BatchRefused,
    Effect,
    Event,
    InferenceAdded,
    InferenceCancelled,
    InferenceCompleted,
    InferenceFailed,
    SubmitBatch,
)
from shoal.core.batching.scheduler import BatchScheduler
from shoal.core.plan.graph import BatchAxes
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.recovery.events import (
    GiveUp,
    ReplicaLost,
    ReplicaReady,
    ReportRecovery,
    ReportSpeed,
    StartWorkers,
    StopWorkers,
    Tick,
)
from shoal.errors import ShoalError

FREE_ROWS = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=None)
FOUR_ROWS = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=4)
NO_ROWS = BatchAxes(inputs={"x": None}, outputs={"y": None}, rows=None)
_FOR_EVER_S = 1e9
NEVER_AGAIN = RecoveryConfig(max_failures=1, crash_loop_s=0.0, worker_timeout_s=_FOR_EVER_S)
"""A lost replica is given up at once; workers may be silent for ever."""


class BatchingDriver:
    """`add` and the like tell an event; `tick` forms batches; `answer` completes the oldest batch of a replica."""

    def __init__(
        self, *num_stages: int, axes: BatchAxes = FREE_ROWS, recovery: RecoveryConfig = NEVER_AGAIN, **config: float
    ) -> None:
        self.limits = [BatchLimits(num_stages=count) for count in num_stages or (1,)]
        self.scheduler = BatchScheduler(BatchingConfig(**config), axes, self.limits, recovery)
        self.now_s = 0.0
        self.in_flight: list[SubmitBatch] = []
        self.completed: list[str] = []
        self.failed: dict[str, ShoalError] = {}
        self.life: list[tuple[str, int]] = []
        """what was wanted done with workers, and of which replica"""

    def add(self, name: str, rows: int = 1, *, signature: str = "", deadline_s: float | None = None) -> None:
        self.tell(InferenceAdded(request_id=name, num_rows=rows, signature=signature, deadline_s=deadline_s))

    def cancel(self, name: str) -> None:
        self.tell(InferenceCancelled(request_id=name))

    def tick(self, now_s: float | None = None) -> list[SubmitBatch]:
        """The batches that are submitted now."""
        self.now_s = self.now_s if now_s is None else now_s
        num_before = len(self.in_flight)
        self.tell(Tick())
        return self.in_flight[num_before:]

    def answer(self, now_s: float | None = None, *, replica: int = 0) -> list[SubmitBatch]:
        """The batches that are submitted because the replica's oldest one is done."""
        self.now_s = self.now_s if now_s is None else now_s
        batch = self.oldest(replica)
        self.in_flight.remove(batch)
        self.tell(BatchCompleted(replica=replica, batch_id=batch.batch_id))
        return self.tick()

    def refuse(self, *, replica: int = 0) -> list[SubmitBatch]:
        batch = self.oldest(replica)
        self.in_flight.remove(batch)
        self.tell(BatchRefused(replica=replica, batch_id=batch.batch_id, reason="index out of range"))
        return self.tick()

    def lose(self, replica: int, *, is_crash: bool = False) -> list[SubmitBatch]:
        self.in_flight = [batch for batch in self.in_flight if batch.replica != replica]
        self.tell(ReplicaLost(replica=replica, reason=f"worker {replica} died", is_crash=is_crash))
        return self.tick()

    def be_ready(self, replica: int) -> list[SubmitBatch]:
        self.tell(ReplicaReady(replica=replica, limits=self.limits[replica]))
        return self.tick()

    def set_speed(self, seconds_per_row: float, *, replica: int = 0) -> None:
        """As if the replica had just run a batch."""
        self.scheduler.replicas[replica].times.observe(4, 4 * seconds_per_row, self.now_s)

    @property
    def wake_s(self) -> float | None:
        """When the scheduler wants to be woken; None: only because of workers that are silent for ever."""
        wake_s = self.scheduler.wake_s
        return None if wake_s is not None and wake_s >= _FOR_EVER_S else wake_s

    def oldest(self, replica: int) -> SubmitBatch:
        return next(batch for batch in self.in_flight if batch.replica == replica)

    def tell(self, event: Event) -> None:
        for effect in self.scheduler.handle(event, self.now_s):
            self.note(effect)

    def note(self, effect: Effect) -> None:
        match effect:
            case SubmitBatch():
                self.in_flight.append(effect)
            case InferenceCompleted(request_id=name):
                self.completed.append(name)
            case InferenceFailed(request_id=name, error=error):
                assert name not in self.failed
                self.failed[name] = error
            case StopWorkers() | StartWorkers() | GiveUp() | ReportRecovery() | ReportSpeed():
                self.life.append((type(effect).__name__, effect.replica))


def names(batch: SubmitBatch) -> str:
    """The requests in a batch, one letter each."""
    return "".join(part.request_id for part in batch.parts)
