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
"""Rows from the first to the last, which is exclusive."""

_HOPELESS = 8
"""Chunks that fail before any succeeds. Rows have all the same shape: then it is not a row's fault, and to go on would
only repeat the message."""


class RowWork:
    """Cuts the rows that are not done into chunks and puts the results in their place. Implements `work.Work`."""

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
        """`check` turns inputs into what the graph takes, or raises InvalidRequest; `empty` gives the outputs for
        inputs without rows."""
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
        """None: something has succeeded"""
        self.total = source.num_rows
        self.num_done_before = source.num_rows - sum(last - first for first, last in self._todo)

    def check_first(self) -> Tensors | None:
        """The first chunk, so that what does not fit shows before anything is started. Raises InvalidRequest."""
        if not self.total:
            self._check(self._source.read(0, 0))
        if not self._todo:
            return None
        return self._read(*next(_cut(self._todo, self._batch_rows)))

    def chunks(self) -> Iterator[Chunk]:
        """Rows that are not done, ascending; the second time, the failed ones one by one. Raises InvalidRequest."""
        todo, self._todo = self._todo, []
        batch_rows, self._batch_rows = self._batch_rows, 1
        for first, last in _cut(todo, batch_rows):
            inputs = self._read(first, last)
            self._given[self._num_given] = (first, last)
            yield Chunk(index=self._num_given, inputs=inputs)
            self._num_given += 1

    @property
    def has_more(self) -> bool:
        """Whether `chunks` would give any."""
        return bool(self._todo)

    def take(self, result: ChunkResult) -> tuple[int, list[Failure]]:
        """See Work. Raises InvalidRequest: nothing can be computed; ConfigError: rows of different shapes."""
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
        """Wait until what was written is on the disk. Raises CapacityError."""
        self._sink.sync()

    def finish(self) -> tuple[int, list[Failure]]:
        """Give the files their names; without rows, write them first. Raises CapacityError."""
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
        """The files that were written."""
        return [] if self._sink.is_empty else [str(path) for path in self._sink.paths.values()]

    def _read(self, first: int, last: int) -> Tensors:
        """What a run takes for these rows."""
        inputs = self._check(self._source.read(first, last))
        return inputs if self._batch.rows is None else pad_rows(inputs, self._batch, self._batch.rows)

    def _fail(self, first: int, last: int, reason: str) -> list[Failure]:
        """Several rows failed together: each gets its own chance. One alone has failed."""
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
    """What the journal says is done, ascending."""
    return sorted((record["rows"][0], record["rows"][1]) for record in journal.records if "rows" in record)


def missing_ranges(done: Sequence[Range], num_rows: int) -> Iterator[Range]:
    """What lies between ascending ranges."""
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
