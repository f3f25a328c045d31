"""Any order of events: every request ends exactly once, every row of a completed one was computed exactly once."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shoal.core.batching.events import SubmitBatch
from shoal.core.recovery.config import MAX_LOSSES, RecoveryConfig
from shoal.core.recovery.worker_life import Phase
from shoal.errors import DeadlineExceeded, InvalidRequest, QueueFull, RequestAborted, WorkerLost
from tests.core.batching.driver import FOUR_ROWS, FREE_ROWS, NEVER_AGAIN, NO_ROWS, BatchingDriver

LONG_S = 1e6
RESTARTING = RecoveryConfig(max_failures=4, crash_loop_s=0.0, load_timeout_s=20.0, worker_timeout_s=1e9)


class BatchingMachine(RuleBasedStateMachine):
    @initialize(
        num_stages=st.lists(st.integers(1, 3), min_size=1, max_size=4),
        axes=st.sampled_from((FREE_ROWS, FREE_ROWS, FOUR_ROWS, NO_ROWS)),
        max_batch=st.integers(1, 6),
        max_queue_rows=st.sampled_from((5, 1000)),
        min_cut_rows=st.integers(1, 4),
        batch_delay_s=st.sampled_from((0.0, 2.0)),
        recovery=st.sampled_from((NEVER_AGAIN, RESTARTING)),
    )
    def start(self, num_stages, axes, recovery, **config):
        self.driver = BatchingDriver(*num_stages, axes=axes, recovery=recovery, **config)
        self.has_rows = axes is not NO_ROWS
        self.rows: dict[str, int] = {}
        self.signatures: dict[str, str] = {}
        self.computed: Counter[tuple[str, int]] = Counter()
        self.losses: Counter[str] = Counter()
        self.lost: set[int] = set()
        self.refused: set[str] = set()

    @rule(rows=st.integers(1, 15), signature=st.sampled_from("xy"), timeout_s=st.sampled_from((None, None, 0.5, 20.0)))
    def add(self, rows, signature, timeout_s):
        name = str(len(self.rows))
        self.rows[name] = rows if self.has_rows else 1
        self.signatures[name] = signature
        deadline_s = None if timeout_s is None else self.driver.now_s + timeout_s
        self.driver.add(name, self.rows[name], signature=signature, deadline_s=deadline_s)

    @rule(passed_s=st.sampled_from((0.0, 0.25, 1.0, 7.0)))
    def tick(self, passed_s):
        waiting_before = {name for name in self.unfinished() if self.waiting(name)}
        self.check_batches(self.driver.tick(self.driver.now_s + passed_s), waiting_before)

    @precondition(lambda self: self.driver.in_flight)
    @rule(data=st.data(), passed_s=st.sampled_from((0.0, 0.1, 1.0)))
    def answer(self, data, passed_s):
        replica = data.draw(st.sampled_from(sorted({batch.replica for batch in self.driver.in_flight})))
        self.mark_computed(self.driver.oldest(replica))
        self.driver.answer(self.driver.now_s + passed_s, replica=replica)

    @precondition(lambda self: self.driver.in_flight)
    @rule(data=st.data())
    def refuse(self, data):
        replica = data.draw(st.sampled_from(sorted({batch.replica for batch in self.driver.in_flight})))
        names = {part.request_id for part in self.driver.oldest(replica).parts}
        self.refused |= names if len(names) == 1 else set()
        self.driver.refuse(replica=replica)

    @precondition(lambda self: len(self.lost) < len(self.driver.scheduler.replicas))
    @rule(data=st.data(), is_crash=st.booleans())
    def lose(self, data, is_crash):
        living = sorted({replica.index for replica in self.driver.scheduler.replicas} - self.lost)
        replica = data.draw(st.sampled_from(living))
        batches = [batch for batch in self.driver.in_flight if batch.replica == replica]
        names = {part.request_id for batch in batches for part in batch.parts}
        for name in names:
            self.losses[name] = MAX_LOSSES - 1 if is_crash else self.losses[name] + 1
        self.refused |= names if is_crash and len(names) == 1 else set()
        self.lost.add(replica)
        self.driver.lose(replica, is_crash=is_crash)

    @precondition(lambda self: self.in_phase(Phase.STARTING))
    @rule(data=st.data())
    def come_back(self, data):
        replica = data.draw(st.sampled_from(self.in_phase(Phase.STARTING)))
        self.lost.discard(replica)
        self.driver.be_ready(replica)

    @precondition(lambda self: self.in_phase(Phase.STARTING))
    @rule(data=st.data())
    def fail_to_load(self, data):
        self.driver.lose(data.draw(st.sampled_from(self.in_phase(Phase.STARTING))))

    def in_phase(self, phase):
        return [replica.index for replica in self.driver.scheduler.replicas if replica.life.phase is phase]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def cancel(self, data):
        self.driver.cancel(data.draw(st.sampled_from(sorted(self.rows))))

    @rule(data=st.data(), seconds=st.sampled_from((0.01, 1.0, 100.0)))
    def change_speed(self, data, seconds):
        index = data.draw(st.integers(0, len(self.driver.scheduler.replicas) - 1))
        self.driver.set_speed(seconds, replica=index)

    def unfinished(self) -> set[str]:
        return set(self.rows) - set(self.driver.completed) - set(self.driver.failed)

    def waiting(self, name: str) -> int:
        """Rows of a request that are neither computed nor in flight."""
        flying = sum(part.num_rows for b in self.driver.in_flight for part in b.parts if part.request_id == name)
        return self.rows[name] - flying - sum(self.computed[name, row] for row in range(self.rows[name]))

    def mark_computed(self, batch: SubmitBatch) -> None:
        for part in batch.parts:
            for row in range(part.first_row, part.first_row + part.num_rows):
                self.computed[part.request_id, row] += 1

    def check_batches(self, batches: list[SubmitBatch], waiting_before: set[str]) -> None:
        """Each batch holds some of the oldest request that waits, and not all replicas idle while any does."""
        waiting = {int(name) for name in waiting_before & self.unfinished()}
        for batch in batches:
            assert int(batch.parts[0].request_id) == min(waiting)
            later = [part for other in batches if other.batch_id > batch.batch_id for part in other.parts]
            waiting = {int(part.request_id) for part in later} | {int(n) for n in self.unfinished() if self.waiting(n)}
        assert self.driver.in_flight or not waiting or not self.in_phase(Phase.SERVING)

    @invariant()
    def batches_are_allowed(self):
        for batch in self.driver.in_flight:
            assert batch.replica not in self.lost
            assert 1 <= batch.num_rows <= self.driver.scheduler.max_rows
            assert batch.num_rows == sum(part.num_rows for part in batch.parts)
            assert len({self.signatures[part.request_id] for part in batch.parts}) == 1
            assert [part.order for part in batch.parts] == sorted(part.order for part in batch.parts)
            assert len(batch.parts) == 1 or not any(part.runs_alone for part in batch.parts)
        for replica in self.driver.scheduler.replicas:
            assert len(replica.in_flight) == sum(batch.replica == replica.index for batch in self.driver.in_flight)
            assert len(replica.in_flight) <= replica.num_stages + 1

    @invariant()
    def rows_are_conserved(self):
        scheduler = self.driver.scheduler
        assert scheduler.waiting_rows == sum(self.waiting(name) for name in self.unfinished())
        assert scheduler.num_requests == len(self.unfinished())
        assert not set(self.driver.completed) & set(self.driver.failed)
        assert len(self.driver.completed) == len(set(self.driver.completed))
        for name in self.driver.completed:
            assert [self.computed[name, row] for row in range(self.rows[name])] == [1] * self.rows[name]

    @invariant()
    def failures_have_their_reason(self):
        for name, error in self.driver.failed.items():
            match error:
                case InvalidRequest():
                    assert name in self.refused
                case WorkerLost():
                    assert self.driver.scheduler.death is not None or self.losses[name] >= MAX_LOSSES
                case DeadlineExceeded() | QueueFull():
                    assert error.retry_after_s is not None
                    assert error.retry_after_s > 0
                case _:
                    assert isinstance(error, RequestAborted)

    def teardown(self):
        if not hasattr(self, "driver"):
            return
        self.tick(0.0)
        for _ in range(2000):
            if not self.driver.in_flight and not self.unfinished():
                break
            for replica in self.in_phase(Phase.STARTING):
                self.lost.discard(replica)
                self.driver.be_ready(replica)
            if not self.driver.in_flight:
                self.tick(1.0)
                continue
            batch = self.driver.in_flight[0]
            self.mark_computed(batch)
            self.driver.answer(self.driver.now_s + 0.1, replica=batch.replica)
        self.rows_are_conserved()
        assert not self.unfinished()
        self.driver.tick(self.driver.now_s + LONG_S)
        assert self.driver.wake_s is None or self.in_phase(Phase.WAITING) or self.in_phase(Phase.STARTING)


TestBatching = BatchingMachine.TestCase
TestBatching.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
