"""The queue of waiting rows: one line for each signature, and a heap that finds the line with the oldest part."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from shoal.core.batching.events import Part


@dataclass(slots=True)
class Line:
    """Parts that may share a batch, oldest first."""

    signature: Hashable
    parts: deque[Part] = field(default_factory=deque[Part])
    num_rows: int = 0


class BatchingQueue:
    """Parts of requests, taken out as batches in the order of their requests' arrival."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, Line] = {}
        self._heads: list[tuple[tuple[int, int], int, Line]] = []
        """Heap of (order of a line's first part, tie-breaker, line). An entry is stale once its line has another first
        part."""
        self._num_pushed = 0
        self.num_rows = 0

    def __bool__(self) -> bool:
        return self.num_rows > 0

    def __contains__(self, signature: Hashable) -> bool:
        return signature in self._lines

    @property
    def num_signatures(self) -> int:
        """The number of different signatures among the waiting parts, which need at least as many batches."""
        return len(self._lines)

    def append(self, part: Part, signature: Hashable) -> None:
        """Append a new part."""
        line = self._lines.get(signature)
        if line is None:
            line = self._lines[signature] = Line(signature)
        line.parts.append(part)
        line.num_rows += part.num_rows
        self.num_rows += part.num_rows
        if len(line.parts) == 1:
            self._push_head(line)

    def put_back(self, parts: Iterable[Part], signature: Hashable) -> None:
        """Put parts that were taken out earlier back to where they belong by age."""
        waiting = self._lines[signature].parts if signature in self._lines else ()
        self._replace(signature, sorted((*parts, *waiting), key=lambda part: part.order))

    def drop(self, request_id: str, signature: Hashable) -> None:
        """Remove all waiting parts of a request."""
        line = self._lines.get(signature)
        if line is not None:
            self._replace(signature, [part for part in line.parts if part.request_id != request_id])

    def oldest_line(self) -> Line:
        """The line that holds the oldest part. The queue must not be empty."""
        heads = self._heads
        while True:
            order, _, line = heads[0]
            if line.parts and line.parts[0].order == order and self._lines.get(line.signature) is line:
                return line
            heappop(heads)

    def take(self, line: Line, *, limit: int, max_rows: int, min_cut_rows: int) -> tuple[Part, ...]:
        """Take a batch from the front of a line: as many whole parts as fit into `limit` rows, but at least one.

        Args:
            line: a line returned by `oldest_line`.
            limit: rows wanted. A larger first part is cut, or taken whole if a piece would be too small.
            max_rows: rows allowed, >= limit.
            min_cut_rows: the smallest piece that a cut may leave, unless the part has more than max_rows rows.
        """
        parts = line.parts
        taken = [self._take_first(line, limit, max_rows, min_cut_rows)]
        num_rows = taken[0].num_rows
        while parts and not (taken[0].runs_alone or parts[0].runs_alone) and num_rows + parts[0].num_rows <= limit:
            num_rows += parts[0].num_rows
            taken.append(parts.popleft())
        line.num_rows -= num_rows
        self.num_rows -= num_rows
        if parts:
            self._push_head(line)
        else:
            del self._lines[line.signature]
        return tuple(taken)

    def _take_first(self, line: Line, limit: int, max_rows: int, min_cut_rows: int) -> Part:
        first = line.parts.popleft()
        if first.runs_alone or first.num_rows <= limit:
            return first
        size = min(max(limit, min_cut_rows), max_rows)
        if first.num_rows <= max_rows and first.num_rows - size < min_cut_rows:
            return first
        rest = replace(first, first_row=first.first_row + size, num_rows=first.num_rows - size)
        line.parts.appendleft(rest)
        return replace(first, num_rows=size)

    def _replace(self, signature: Hashable, parts: Sequence[Part]) -> None:
        """Replace a signature's line, if it has one, by a new one."""
        old = self._lines.pop(signature, None)
        self.num_rows -= old.num_rows if old is not None else 0
        if parts:
            line = Line(signature, deque(parts), sum(part.num_rows for part in parts))
            self._lines[signature] = line
            self.num_rows += line.num_rows
            self._push_head(line)

    def _push_head(self, line: Line) -> None:
        self._num_pushed += 1
        heappush(self._heads, (line.parts[0].order, self._num_pushed, line))
