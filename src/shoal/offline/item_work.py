"""A map over the files of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest
from shoal.offline.files.fingerprint import fingerprint
from shoal.offline.files.item_sink import ItemSink
from shoal.offline.files.item_source import Item, load_item
from shoal.offline.journal import Journal
from shoal.offline.pull import Chunk, ChunkResult
from shoal.offline.work import Failure
from shoal.protocol.stage_interface import TensorSpec
from shoal.router.graph_executor import Tensors
from shoal.router.rows import join_outputs, join_rows, pad_rows, signature, split_rows, take_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Some rows of an item, in a chunk."""

    item: Item
    content: str
    """The fingerprint of the file from which they were read."""
    first: int
    last: int
    """The first row after the piece."""

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole item. Other pieces get a chunk of their own, so that a chunk fails one item or whole
        ones."""
        return self.last - self.first == self.item.num_rows


@dataclass(slots=True, kw_only=True)
class _Parts:
    """The outputs so far of an item that takes several chunks. Mutable."""

    num_rows: int = 0
    outputs: dict[int, dict[str, Array]] = field(default_factory=dict[int, dict[str, Array]])
    """Outputs of the pieces, by first row."""


class ItemWork:
    """Joins compatible items into chunks, and writes their results to files. Implements `work.MapWork`."""

    unit = "files"

    def __init__(
        self,
        items: Sequence[Item],
        broken: Sequence[Failure],
        sink: ItemSink,
        journal: Journal,
        inputs: Sequence[TensorSpec],
        batch: BatchAxes,
        *,
        batch_rows: int,
        check: Callable[[Tensors], Tensors],
        empty: Callable[[Tensors], dict[str, Array]],
    ) -> None:
        """`items`: in the order of computing. `check`: converts inputs for the graph, or raises InvalidRequest.
        `empty`: gives the outputs of inputs without rows."""
        self._sink = sink
        self._journal = journal
        self._inputs = inputs
        self._batch = batch
        self._batch_rows = batch_rows
        self._check = check
        self._empty = empty
        self._num_empty = 0
        """Items without rows that were written since the latest result."""
        self._failures = list(broken)
        done = {record["item"]: record["content"] for record in journal.records if "item" in record}
        self._todo = [item for item in items if not _is_done(item, sink, done)]
        self._given: dict[int, list[_Piece]] = {}
        self._num_given = 0
        self._parts: dict[Item, _Parts] = {}
        self._failed: set[Item] = set()
        self._is_retry = False
        self.total = len(items) + len(broken)
        self.num_done_before = len(items) - len(self._todo)

    @property
    def has_more(self) -> bool:
        """Whether `chunks` would yield any."""
        return bool(self._todo)

    def check_first(self) -> Tensors | None:
        """Return None: an invalid file does not concern the others."""
        return None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the items that are not done; the second time, the items of failed chunks one by one."""
        todo, self._todo = self._todo, []
        pieces: list[_Piece] = []
        inputs: list[Tensors] = []
        for item in todo:
            for piece, own in self._load(item):
                if pieces and not (self._fit(pieces, piece) and self._match(inputs[0], own)):
                    yield self._chunk(pieces, inputs)
                    pieces, inputs = [], []
                pieces.append(piece)
                inputs.append(own)
        if pieces:
            yield self._chunk(pieces, inputs)
        self._is_retry = True

    def take(self, result: ChunkResult) -> tuple[int, list[Failure]]:
        """Write the items that are complete. Returns their number, and the items that have finally failed. Raises
        CapacityError."""
        pieces = self._given.pop(result.index)
        failures, self._failures = self._failures, []
        if result.error is not None:
            return 0, failures + self._fail(pieces, result.error)
        try:
            outputs = self._split(result.outputs, [piece.last - piece.first for piece in pieces])
        except InvalidRequest as error:
            return 0, failures + self._fail(pieces, str(error))
        return sum(self._add(piece, part) for piece, part in zip(pieces, outputs, strict=True)), failures

    def sync(self) -> None:
        """Wait until everything written is on disk. Raises CapacityError."""
        self._sink.sync()

    def finish(self) -> tuple[int, list[Failure]]:
        """See MapWork. Files are finished one by one, but some may have turned out invalid or empty after the last."""
        failures, self._failures = self._failures, []
        num_empty, self._num_empty = self._num_empty, 0
        return num_empty, failures

    def outputs(self) -> list[str]:
        """The output folder."""
        return [str(self._sink.folder)]

    def _load(self, item: Item) -> Iterator[tuple[_Piece, Tensors]]:
        """Read an item in pieces of at most a batch; none if it cannot be read or does not match the graph."""
        try:
            content = fingerprint([item.path])
            inputs = self._check(load_item(item, self._inputs, self._batch))
        except (InvalidRequest, ConfigError) as error:
            self._failures.append(_failure(item, str(error)))
            return
        if not item.num_rows:
            self._write(item, content, self._empty(inputs))
            self._num_empty += 1
            return
        step = self._batch_rows if self._batch.is_batched else item.num_rows
        for first in range(0, item.num_rows, step):
            piece = _Piece(item=item, content=content, first=first, last=min(item.num_rows, first + step))
            yield piece, inputs if piece.is_whole else take_rows(inputs, self._batch, first, piece.last)

    def _fit(self, pieces: Sequence[_Piece], piece: _Piece) -> bool:
        """Whether another piece fits into a chunk."""
        if self._is_retry or not self._batch.is_batched or not (piece.is_whole and pieces[0].is_whole):
            return False
        return sum(one.last - one.first for one in pieces) + piece.last - piece.first <= self._batch_rows

    def _match(self, first: Tensors, second: Tensors) -> bool:
        return signature(first, self._batch) == signature(second, self._batch)

    def _chunk(self, pieces: Sequence[_Piece], parts: Sequence[Tensors]) -> Chunk:
        inputs = parts[0]
        if self._batch.is_batched:
            inputs = join_rows(parts, self._batch)
            if self._batch.rows is not None:
                inputs = pad_rows(inputs, self._batch, self._batch.rows)
        index, self._num_given = self._num_given, self._num_given + 1
        self._given[index] = list(pieces)
        return Chunk(index=index, inputs=inputs)

    def _split(self, outputs: dict[str, Array], counts: list[int]) -> list[dict[str, Array]]:
        if not self._batch.is_batched:
            return [outputs]
        return split_rows(outputs, self._batch, counts, self._batch.rows or sum(counts))

    def _add(self, piece: _Piece, outputs: dict[str, Array]) -> int:
        """Write an item if this piece completes it. Returns the number of completed items, 0 or 1."""
        item = piece.item
        if item in self._failed:
            return 0
        if not piece.is_whole:
            parts = self._parts.setdefault(item, _Parts())
            parts.outputs[piece.first] = {name: array.copy() for name, array in outputs.items()}
            parts.num_rows += piece.last - piece.first
            if parts.num_rows < item.num_rows:
                return 0
            del self._parts[item]
            outputs = join_outputs([parts.outputs[start] for start in sorted(parts.outputs)], self._batch)
        self._write(item, piece.content, outputs)
        return 1

    def _write(self, item: Item, content: str, outputs: Mapping[str, Array]) -> None:
        self._sink.write(item, outputs)
        self._journal.add({"item": item.path.name, "content": content})

    def _fail(self, pieces: Sequence[_Piece], reason: str) -> list[Failure]:
        """Note a failed chunk. Several items are tried again one by one; a single one has failed."""
        if len(pieces) > 1:
            self._todo += [piece.item for piece in pieces]
            return []
        item = pieces[0].item
        self._parts.pop(item, None)
        if item in self._failed:
            return []
        self._failed.add(item)
        return [_failure(item, reason)]


def _is_done(item: Item, sink: ItemSink, done: Mapping[str, str]) -> bool:
    """Whether an earlier run has done an item with the same content; changed items are done again."""
    content = done.get(item.path.name)
    if content is None or not sink.path(item).exists():
        return False
    try:
        return fingerprint([item.path]) == content
    except ConfigError:
        return False  # computing it reports the error, if it still cannot be read then


def _failure(item: Item, reason: str) -> Failure:
    return Failure(name=item.path.name, reason=reason)
