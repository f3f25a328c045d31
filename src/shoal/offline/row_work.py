"""A map over the rows of one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import InvalidRequest
from shoal.offline.files.row_sink import RowSink
from shoal.offline.files.row_source import RowSource
from shoal.offline.journal import Journal
from shoal.offline.pull import Chunk, ChunkResult
from shoal.offline.work import Failure
from shoal.router.graph_executor import Tensors
from shoal.router.rows import pad_rows, split_rows

Range = tuple[int, int]
"""A range of rows, [first, last)."""
_HOPELESS = 8
"""If so many chunks fail before any succeeds, the map ends: all rows have the same shape, so no single row is to blame,
and further chunks would only repeat the message."""


class RowWork:
    """Divides rows that are not done into chunks, and writes results to their place. Implements `work.MapWork`."""

    unit = "rows"

    def __init__(
        self,
        source: RowSource,
        sink: RowSink,
        journal: Journal,
        batch: BatchAxes,
        *,
        batch_rows: int,
        check: Callable[[Tensors], Tensors],
        empty: Callable[[Tensors], dict[str, Array]],
    ) -> None:
        """`check`: converts inputs for the graph, or raises InvalidRequest. `empty`: gives the outputs of inputs
        without rows."""
        self._source = source
        self._sink = sink
        self._journal = journal
        self._batch = batch
        self._check = check
        self._empty = empty
        self._todo = list(missing_ranges(done_ranges(journal), source.num_rows))
        self._batch_rows = batch_rows
        self._given: dict[int, Range] = {}
        self._num_given = 0
        self._failed_rows: list[int] = []
        self._num_failed_chunks: int | None = 0
        """Failed chunks so far; None once one has succeeded."""
        self.total = source.num_rows
        self.num_done_before = source.num_rows - sum(last - first for first, last in self._todo)

    def check_first(self) -> Tensors | None:
        """Read and check the first chunk before anything is started. Raises InvalidRequest."""
        if not self.total:
            self._check(self._source.read(0, 0))
        if not self._todo:
            return None
        return self._read(*next(_cut(self._todo, self._batch_rows)))

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows that are not done, ascending; the second time, failed ones one by one. Raises
        InvalidRequest."""
        todo, self._todo = self._todo, []
        batch_rows, self._batch_rows = self._batch_rows, 1
        for first, last in _cut(todo, batch_rows):
            inputs = self._read(first, last)
            self._given[self._num_given] = (first, last)
            yield Chunk(index=self._num_given, inputs=inputs)
            self._num_given += 1

    @property
    def has_more(self) -> bool:
        """Whether `chunks` would yield any."""
        return bool(self._todo)

    def take(self, result: ChunkResult) -> tuple[int, list[Failure]]:
        """See MapWork. Raises InvalidRequest if nothing can be computed, and ConfigError if rows have different
        shapes."""
        first, last = self._given.pop(result.index)
        if result.error is not None:
            return 0, self._fail(first, last, result.error)
        num_rows = last - first
        (outputs,) = split_rows(result.outputs, self._batch, (num_rows,), self._batch.rows or num_rows)
        self._sink.write(first, outputs, num_rows)
        self._journal.add({"rows": [first, last]})
        self._num_failed_chunks = None
        return num_rows, []

    def sync(self) -> None:
        """Wait until everything written is on disk. Raises CapacityError."""
        self._sink.sync()

    def finish(self) -> tuple[int, list[Failure]]:
        """Give the files their names; if there are no rows, write them first. Raises CapacityError."""
        if not self.total and self._sink.is_empty:
            self._sink.write(0, self._empty(self._check(self._source.read(0, 0))), 0)
            self._sink.sync()
            self._journal.add({"rows": [0, 0]})
            self._journal.commit()
        for row in self._failed_rows:
            self._sink.blank(row)
        self._sink.finish()
        return 0, []

    def outputs(self) -> list[str]:
        """The paths of the output files."""
        return [] if self._sink.is_empty else [str(path) for path in self._sink.paths.values()]

    def _read(self, first: int, last: int) -> Tensors:
        """The inputs of a run for these rows, checked and padded."""
        inputs = self._check(self._source.read(first, last))
        return inputs if self._batch.rows is None else pad_rows(inputs, self._batch, self._batch.rows)

    def _fail(self, first: int, last: int, reason: str) -> list[Failure]:
        """Note a failed chunk. Several rows are tried again one by one; a single one has failed."""
        if self._num_failed_chunks is not None:
            self._num_failed_chunks += 1
            if self._num_failed_chunks >= _HOPELESS:
                raise InvalidRequest(f"nothing can be computed: {reason}")
        if last - first > 1:
            self._todo.append((first, last))
            return []
        self._failed_rows.append(first)
        return [Failure(name=f"row {first}", reason=reason)]


def done_ranges(journal: Journal) -> list[Range]:
    """The rows that are done according to the journal, ascending."""
    return sorted((record["rows"][0], record["rows"][1]) for record in journal.records if "rows" in record)


def missing_ranges(done: Sequence[Range], num_rows: int) -> Iterator[Range]:
    """The gaps between ascending ranges."""
    position = 0
    for first, last in done:
        if first > position:
            yield position, first
        position = max(position, last)
    if position < num_rows:
        yield position, num_rows


def _cut(ranges: Iterable[Range], batch_rows: int) -> Iterator[Range]:
    for first, last in ranges:
        for start in range(first, last, batch_rows):
            yield start, min(last, start + batch_rows)
