"""The ledger of a graph's clients: what they saw, checked against what they should see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shoal.core.batching.events import Part, SubmitBatch
from shoal.core.batching.scheduler import BatchScheduler
from shoal.core.recovery.config import MAX_LOSSES
from shoal.errors import DeadlineExceeded, InvalidRequest, QueueFull, RequestAborted, ShoalError, WorkerLost
from shoal.sim.batches.scenario import SimulatedRequest


class BatchLedger:
    """Checks that every row is computed once for its client, and that every request ends once and for a reason."""

    def __init__(self) -> None:
        self._requests: dict[str, SimulatedRequest] = {}
        """Requests that were sent and not refused."""
        self._computed: dict[str, set[int]] = {}
        """Rows whose outputs have arrived, by request."""
        self._losses: Counter[tuple[str, int]] = Counter()
        """The number of replicas that were lost while they had a row, by request and row."""
        self._crashed_alone: set[str] = set()
        self._refused: set[str] = set()
        """Requests that workers could not compute even alone."""
        self.ended: dict[str, ShoalError | None] = {}

    def add(self, request: SimulatedRequest) -> None:
        """Note that a client has sent a request."""
        self._requests[request.request_id] = request
        self._computed[request.request_id] = set()

    def unfinished(self) -> list[str]:
        """Requests that were sent and have not ended."""
        return [request_id for request_id in self._requests if request_id not in self.ended]

    def check_sent(self, scheduler: BatchScheduler, batch: SubmitBatch, others: Iterable[SubmitBatch]) -> None:
        """Check a batch that is sent to a replica with `others` in flight."""
        assert batch.num_rows == sum(part.num_rows for part in batch.parts)
        assert 0 < batch.num_rows <= scheduler.max_rows, "a batch of a size that cannot run"
        assert len({self._requests[part.request_id].row_cost for part in batch.parts}) == 1, "rows that do not fit"
        assert len(batch.parts) == 1 or not any(part.runs_alone for part in batch.parts), "a suspect has company"
        suspects = [part for part in batch.parts if part.is_suspect]
        assert not (suspects and [*others]), f"{suspects} are tried beside others"
        for part in batch.parts:
            assert part.request_id not in self.ended, "a row of a request that has ended"

    def note_computed(self, parts: Iterable[Part]) -> None:
        """Note outputs of rows from the present workers."""
        for part in parts:
            if part.request_id in self.ended:
                continue
            rows = self._computed[part.request_id]
            new = set(range(part.first_row, part.first_row + part.num_rows))
            assert rows.isdisjoint(new), f"{part.request_id}: rows {rows & new} were computed twice"
            rows |= new

    def note_refused(self, parts: Iterable[Part]) -> None:
        """Note that workers could not compute a batch."""
        names = {part.request_id for part in parts}
        self._refused |= names if len(names) == 1 else set()

    def note_lost(self, batches: Iterable[SubmitBatch], *, is_crash: bool) -> None:
        """Note that a replica was lost with these batches in flight."""
        parts = [part for batch in batches for part in batch.parts]
        names = {part.request_id for part in parts}
        for one in parts:
            for row in range(one.first_row, one.first_row + one.num_rows):
                losses = self._losses[one.request_id, row] + 1
                self._losses[one.request_id, row] = max(losses, MAX_LOSSES - 1) if is_crash else losses
        if is_crash and len(names) == 1:
            self._crashed_alone |= names

    def end(self, request_id: str, error: ShoalError | None, *, is_over: bool) -> None:
        """Check the end of a request. `is_over`: whether no replica is left."""
        assert request_id not in self.ended, f"{request_id} ends twice"
        request = self._requests[request_id]
        self.ended[request_id] = error
        match error:
            case None:
                rows = self._computed[request_id]
                assert rows == set(range(request.num_rows)), f"{request_id}: only rows {rows} were computed"
            case DeadlineExceeded():
                assert request.timeout_s is not None
                assert error.retry_after_s is None or error.retry_after_s > 0
            case RequestAborted():
                assert request.cancelled_at_s is not None
            case WorkerLost():
                losses = max(self._losses[request_id, row] for row in range(request.num_rows))
                assert is_over or losses >= MAX_LOSSES, f"{request_id} was failed for workers too soon"
            case InvalidRequest():
                assert request_id in self._refused | self._crashed_alone, f"{request_id} was refused for nothing"
            case _:
                assert isinstance(error, QueueFull), repr(error)

    def check(self, scheduler: BatchScheduler, in_flight: Iterable[SubmitBatch]) -> None:
        """Check that rows are conserved: each row of an unfinished request waits, is in flight, or was computed."""
        flying: Counter[str] = Counter()
        for batch in in_flight:
            for part in batch.parts:
                flying[part.request_id] += part.num_rows
        unfinished = self.unfinished()
        waiting = sum(self._requests[name].num_rows - flying[name] - len(self._computed[name]) for name in unfinished)
        assert scheduler.waiting_rows == waiting, "a row is lost, or there twice"
        assert scheduler.num_requests == len(unfinished), "a request is lost, or goes on after its end"

    def check_all_ended(self) -> None:
        """Check that every request that was sent has ended (`end` checks that it ends only once)."""
        assert not self.unfinished(), f"never ended: {self.unfinished()}"
