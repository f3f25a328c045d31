"""One request for an ONNX graph: what a client hands in, what comes back, and what is kept of it in between."""

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
    """One run of the model for one client."""

    request_id: str
    """unique among the unfinished"""
    inputs: Tensors
    """exactly the graph's inputs, checked against its specs; must not change until the result has come"""
    timeout_s: float | None = None
    """to finish in, from `add` on; None: no limit"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceResult:
    """The end of one request."""

    request_id: str
    outputs: dict[str, Array]
    """all of the graph's, empty with an error; may be views of a batch's arrays"""
    error: ShoalError | None
    """DeadlineExceeded (while it waited), RequestAborted, WorkerLost, InvalidRequest (it cannot be run)"""
    queue_s: float
    """from `add` to the submission of its first rows; to the end, if none were submitted"""
    compute_s: float
    """computing in all stages of the batches that it was in, waiting excluded"""
    batch_rows: int
    """rows of the largest of these batches"""


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
    """by first row"""

    def inputs_of(self, part: Part, axes: BatchAxes) -> Tensors:
        """A part's rows, as views."""
        inputs = self.request.inputs
        if part.num_rows == self.num_rows:
            return inputs
        return take_rows(inputs, axes, part.first_row, part.first_row + part.num_rows)

    def store(self, part: Part, outputs: dict[str, Array], *, compute_s: float, batch_rows: int) -> None:
        """Keep a part's outputs until the others have come."""
        self.outputs[part.first_row] = outputs
        self.compute_s += compute_s
        self.batch_rows = max(self.batch_rows, batch_rows)

    def end(self, error: ShoalError | None, axes: BatchAxes, now_s: float) -> InferenceResult:
        """The result. Without an error, every row's outputs must be there."""
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
