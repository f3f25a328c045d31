"""Batches of a graph that workers have: arrays put together from the rows of requests, and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.core.batching.events import SubmitBatch
from shoal.core.plan.graph import BatchAxes
from shoal.errors import InvalidRequest
from shoal.router.graph_executor import Array, Batch, BatchId
from shoal.router.inference import Inference
from shoal.router.rows import join_rows, pad_rows, split_rows


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """A batch that was submitted, with the requests that its parts belong to, ended ones included."""

    batch: SubmitBatch
    owners: Sequence[Inference]


class SubmittedBatches:
    """Batches under way, by their numbers."""

    def __init__(self, axes: BatchAxes) -> None:
        """`axes`: where the graph's rows are."""
        self._axes = axes
        self._batches: dict[int, SubmittedBatch] = {}

    def begin(self, batch: SubmitBatch, owners: Sequence[Inference], now_s: float) -> Batch:
        """Note a batch, and put its arrays together.

        Args:
            batch: which rows it has.
            owners: the request of each of its parts.
            now_s: when it is submitted.
        """
        for owner in owners:
            if owner.submitted_s is None:
                owner.submitted_s = now_s
        pieces = [owner.inputs_of(part, self._axes) for owner, part in zip(owners, batch.parts, strict=True)]
        inputs = join_rows(pieces, self._axes)
        ran_rows = self._padded_rows(batch.num_rows)
        if ran_rows > batch.num_rows:
            inputs = pad_rows(inputs, self._axes, ran_rows)
        self._batches[batch.batch_id] = SubmittedBatch(batch, owners)
        return Batch(batch_id=BatchId(batch.batch_id), inputs=inputs, limit_s=batch.limit_s)

    def pop(self, batch_id: int) -> SubmittedBatch | None:
        """A batch that was answered; None where nobody waits for it any more."""
        return self._batches.pop(batch_id, None)

    def store(self, submitted: SubmittedBatch, outputs: Mapping[str, Array], compute_s: float) -> str | None:
        """Give the parts' outputs to their requests. Returns why that cannot be done, if so.

        Args:
            submitted: the batch.
            outputs: of all its rows.
            compute_s: seconds that all stages computed.
        """
        batch = submitted.batch
        counts = [part.num_rows for part in batch.parts]
        try:
            parts = split_rows(outputs, self._axes, counts, self._padded_rows(batch.num_rows))
        except InvalidRequest as error:
            return str(error)
        for owner, part, part_outputs in zip(submitted.owners, batch.parts, parts, strict=True):
            owner.store(part, part_outputs, compute_s=compute_s, batch_rows=batch.num_rows)
        return None

    def forget(self, replica: int) -> None:
        """The workers that had a replica's batches are gone, or are about to end."""
        for batch_id in [
            batch_id for batch_id, submitted in self._batches.items() if submitted.batch.replica == replica
        ]:
            del self._batches[batch_id]

    def _padded_rows(self, num_rows: int) -> int:
        """Rows that go through the graph."""
        return self._axes.rows if self._axes.rows is not None and self._axes.is_batched else num_rows
