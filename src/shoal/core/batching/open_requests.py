"""Requests that have not ended, with the queue of their waiting rows and their deadlines."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from shoal.core.batching.deadlines import Deadlines
from shoal.core.batching.events import InferenceAdded, Part
from shoal.core.batching.queue import BatchingQueue, Line


@dataclass(slots=True, kw_only=True)
class OpenRequest:
    """A request that has not ended."""

    request_id: str
    arrival: int
    signature: Hashable
    row_cost: int
    deadline_s: float | None
    added_s: float
    waiting_rows: int
    """Rows in the queue."""
    rows_left: int
    """Rows that are not computed yet: waiting or in flight."""


class OpenRequests:
    """All open requests, with the queue in which their rows wait."""

    def __init__(self) -> None:
        self.queue = BatchingQueue()
        """The waiting rows; read-only for callers."""
        self._requests: dict[str, OpenRequest] = {}
        self._deadlines = Deadlines(self._waits)
        self._next_arrival = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[OpenRequest]:
        return iter(list(self._requests.values()))

    def __getitem__(self, request_id: str) -> OpenRequest:
        return self._requests[request_id]

    @property
    def num_waiting(self) -> int:
        """Requests that have waiting rows."""
        return sum(request.waiting_rows > 0 for request in self._requests.values())

    def add(self, event: InferenceAdded, now_s: float) -> None:
        """Append all rows of a new request to the queue."""
        assert event.request_id not in self._requests, f"request id {event.request_id} is in use"
        request = OpenRequest(
            request_id=event.request_id,
            arrival=self._next_arrival,
            signature=event.signature,
            row_cost=event.row_cost,
            deadline_s=event.deadline_s,
            added_s=now_s,
            waiting_rows=0,
            rows_left=event.num_rows,
        )
        self._next_arrival += 1
        self._requests[event.request_id] = request
        part = Part(request_id=event.request_id, arrival=request.arrival, first_row=0, num_rows=event.num_rows)
        self.queue.append(part, event.signature)
        self._note_waiting(request, event.num_rows)

    def take(self, line: Line, *, limit: int, max_rows: int, min_cut_rows: int) -> tuple[Part, ...]:
        """Remove and return the oldest rows of a line. See `BatchingQueue.take`."""
        parts = tuple(self.queue.take(line, limit=limit, max_rows=max_rows, min_cut_rows=min_cut_rows))
        for part in parts:
            self._requests[part.request_id].waiting_rows -= part.num_rows
        return parts

    def put_back(self, parts: Sequence[Part]) -> None:
        """Put parts back into the queue, ahead of everything that arrived later."""
        for part in parts:
            request = self._requests[part.request_id]
            self.queue.put_back([part], request.signature)
            self._note_waiting(request, part.num_rows)

    def owner(self, part: Part) -> OpenRequest | None:
        """The request to which a part belongs; None if it has ended (its id may be in use again)."""
        request = self._requests.get(part.request_id)
        return request if request is not None and request.arrival == part.arrival else None

    def of(self, parts: Sequence[Part]) -> list[Part]:
        """The parts whose requests have not ended."""
        return [part for part in parts if self.owner(part) is not None]

    def complete(self, part: Part) -> bool:
        """Count a part's rows as computed. Returns whether that completes its request."""
        request = self.owner(part)
        if request is None:
            return False
        request.rows_left -= part.num_rows
        if request.rows_left:
            return False
        del self._requests[part.request_id]
        return True

    def end(self, request_id: str) -> bool:
        """Forget a request and drop its waiting rows. Returns whether there was such a request."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return False
        if request.waiting_rows:
            self.queue.drop(request_id, request.signature)
        return True

    def first_deadline_s(self) -> float | None:
        """The earliest deadline of a request with waiting rows; None if there is none."""
        return self._deadlines.first_s()

    def pop_expired(self, now_s: float) -> str | None:
        """Remove from the deadlines, and return, the id of an overdue request with waiting rows; None if there is
        none."""
        return self._deadlines.pop_expired(now_s)

    def _note_waiting(self, request: OpenRequest, num_rows: int) -> None:
        request.waiting_rows += num_rows
        if request.deadline_s is not None:
            self._deadlines.add(request.deadline_s, request.arrival, request.request_id)

    def _waits(self, arrival: int, request_id: str) -> bool:
        request = self._requests.get(request_id)
        return request is not None and request.arrival == arrival and request.waiting_rows > 0
