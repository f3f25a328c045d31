"""Requests for an ONNX graph, their results, and their state in between."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.arrays import Array
from shoal.core.batching.events import Part
from shoal.core.plan.graph import BatchAxes
from shoal.errors import ShoalError
from shoal.router.graph_executor import Tensors
from shoal.router.rows import join_outputs, take_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """A client's request for one run of the model."""

    request_id: str
    """The request's id, unique among unfinished requests."""
    inputs: Tensors
    """Exactly the graph's inputs, checked against its specs. They must not change until the result arrives."""
    timeout_s: float | None = None
    """Seconds from `add` within which the request must finish; None: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceResult:
    """The result of one request."""

    request_id: str
    outputs: dict[str, Array]
    """All outputs of the graph; empty with an error. They may be views of a batch's arrays."""
    error: ShoalError | None
    """DeadlineExceeded (while it waited), RequestAborted, WorkerLost, or InvalidRequest (it cannot be run)."""
    queue_s: float
    """Seconds from `add` to the submission of its first rows, or to its end if none were submitted."""
    compute_s: float
    """Seconds that all stages computed the batches with its rows, without waiting."""
    batch_rows: int
    """Rows of the largest of these batches."""


@dataclass(slots=True)
class Inference:
    """An unfinished request and the outputs that it has so far."""

    request: InferenceRequest
    num_rows: int
    added_s: float
    submitted_s: float | None = None
    compute_s: float = 0.0
    batch_rows: int = 0
    outputs: dict[int, dict[str, Array]] = field(default_factory=dict[int, dict[str, Array]])
    """Outputs of the parts so far, by first row."""

    def inputs_of(self, part: Part, axes: BatchAxes) -> Tensors:
        """The inputs of a part's rows, as views."""
        inputs = self.request.inputs
        if part.num_rows == self.num_rows:
            return inputs
        return take_rows(inputs, axes, part.first_row, part.first_row + part.num_rows)

    def store(self, part: Part, outputs: dict[str, Array], *, compute_s: float, batch_rows: int) -> None:
        """Keep a part's outputs until all parts are computed."""
        self.outputs[part.first_row] = outputs
        self.compute_s += compute_s
        self.batch_rows = max(self.batch_rows, batch_rows)

    def end(self, error: ShoalError | None, axes: BatchAxes, now_s: float) -> InferenceResult:
        """Make the result. Without an error, the outputs of all rows must have been stored."""
        outputs: dict[str, Array] = {}
        if error is None:
            outputs = join_outputs([self.outputs[row] for row in sorted(self.outputs)], axes)
        started_s = now_s if self.submitted_s is None else self.submitted_s
        return InferenceResult(
            request_id=self.request.request_id,
            outputs=outputs,
            error=error,
            queue_s=started_s - self.added_s,
            compute_s=self.compute_s,
            batch_rows=self.batch_rows,
        )
