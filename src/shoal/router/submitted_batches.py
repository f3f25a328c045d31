"""Batches of a graph in flight: their arrays are joined from rows of requests, and their outputs split again."""

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
    """A submitted batch, with the requests of its parts, including ended ones."""

    batch: SubmitBatch
    owners: Sequence[Inference]


class SubmittedBatches:
    """Batches in flight, by id."""

    def __init__(self, axes: BatchAxes) -> None:
        """`axes`: the batch axes of the graph."""
        self._axes = axes
        self._batches: dict[int, SubmittedBatch] = {}

    def begin(self, batch: SubmitBatch, owners: Sequence[Inference], now_s: float) -> Batch:
        """Note a batch and join its arrays.

        Args:
            batch: the batch with its parts.
            owners: the request of each part.
            now_s: the time of submission.
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
        """Remove and return a batch that was answered; None if it was forgotten."""
        return self._batches.pop(batch_id, None)

    def store(self, submitted: SubmittedBatch, outputs: Mapping[str, Array], compute_s: float) -> str | None:
        """Give the parts' outputs to their requests. Returns the error if that is not possible; otherwise None.

        Args:
            submitted: the batch.
            outputs: the outputs of all its rows.
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
        """Forget a replica's batches, because its workers are lost or about to end."""
        for batch_id in [
            batch_id for batch_id, submitted in self._batches.items() if submitted.batch.replica == replica
        ]:
            del self._batches[batch_id]

    def _padded_rows(self, num_rows: int) -> int:
        """Rows of a run, including padding."""
        return self._axes.rows if self._axes.rows is not None and self._axes.is_batched else num_rows
