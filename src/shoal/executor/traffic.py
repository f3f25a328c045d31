"""The work and results between the head and the workers of a replica: one class for each kind of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from shoal.arrays import Array
from shoal.comm.links.tensor_port import Received, TensorPort
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.plan.graph import BatchAxes
from shoal.errors import WorkerLost
from shoal.executor.launcher import Wiring
from shoal.executor.process.message_worker import MessageWorker
from shoal.protocol.codec import Message, encode
from shoal.protocol.graph_messages import BatchDone, Envelope, LoadGraph, RunBatch
from shoal.protocol.language_messages import ExpertLoad, StepMasks, StepResult
from shoal.protocol.stage_interface import HEAD
from shoal.protocol.worker_messages import Generation
from shoal.router.graph_executor import Batch, BatchId, BatchResult
from shoal.router.rows import take_rows

WorkT_co = TypeVar("WorkT_co", covariant=True)
ResultT_contra = TypeVar("ResultT_contra", contravariant=True)
WorkT_contra = TypeVar("WorkT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)

_NUM_TRIAL_BATCHES = 2
"""The first batch touches weights and buffers for the first time, so a second one is measured."""
_TRIAL_LIMIT_S = 30.0
"""Time limit of a trial batch, as a graph may contain an endless loop. Far below the time for which workers of a graph
may be silent while they load."""


class Traffic(Protocol[WorkT_contra, ResultT_co]):
    """Sends the work of one replica to its workers and collects their results, while its executor lives."""

    def begin(self, wiring: Wiring, generation: Generation) -> None:
        """Begin after the workers were wired; all later messages belong to this generation."""
        ...

    def send(self, work: WorkT_contra, workers: Mapping[int, MessageWorker]) -> None:
        """Send one piece of work to all workers that take part in it. Raises WorkerLost, CapacityError."""
        ...

    def take(self, index: int, message: Message) -> Sequence[ResultT_co] | None:
        """The results that a worker's message completes; None: it is no answer to work. Raises ShoalError if it is
        invalid.

        Args:
            index: the worker's place.
            message: a message of this generation.
        """
        ...


class Trial(Protocol[WorkT_co, ResultT_contra]):
    """Trial work that measures the speed of workers after they are wired and before they serve. For kinds of work whose
    workers cannot measure themselves."""

    @property
    def work(self) -> Sequence[WorkT_co]:
        """All pieces of the trial, which are sent at once."""
        ...

    def row_s(self, results: Sequence[ResultT_contra]) -> float:
        """Seconds for a single row, summed over the stages; 0: unknown.

        Args:
            results: the results of all pieces, in order; they are released.
        """
        ...


class BatchTrial:
    """A batch of a graph, run twice. Implements `Trial`."""

    def __init__(self, sample: Mapping[str, Array], axes: BatchAxes) -> None:
        """Use the first row of `sample`, which has every input of the graph, or the fewest rows that a run may have.
        `axes` says which axes hold the rows."""
        self._num_rows = axes.rows or 1 if axes.is_batched else 1
        self._inputs = take_rows(sample, axes, 0, self._num_rows)

    @property
    def work(self) -> Sequence[Batch]:
        """See `Trial.work`. The batches have negative ids, which no other batch has."""
        return [
            Batch(batch_id=BatchId(number - _NUM_TRIAL_BATCHES), inputs=self._inputs, limit_s=_TRIAL_LIMIT_S)
            for number in range(_NUM_TRIAL_BATCHES)
        ]

    def row_s(self, results: Sequence[BatchResult]) -> float:
        """See `Trial.row_s`. A graph that fails on the sample may still compute the requests of clients."""
        for result in results:
            if result.release is not None:
                result.release()
        return 0.0 if results[-1].error else sum(results[-1].compute_s) / self._num_rows


class StepTraffic:
    """Steps of a language model. Implements `Traffic`. All workers get one frame, those that sample also get the masks
    of guided rows, and the last stage sends the result."""

    def __init__(self, first_sampling: int = 0) -> None:
        """`first_sampling`: index of the last stage's first worker, counted stage by stage and rank by rank."""
        self._first_sampling = first_sampling
        self.expert_loads: dict[int, ExpertLoad] = {}
        """The latest load of the experts that each worker has reported, by its index."""

    def begin(self, wiring: Wiring, generation: Generation) -> None:
        """See `Traffic.begin`. Does nothing: each step names its generation."""

    def send(self, work: StepWork, workers: Mapping[int, MessageWorker]) -> None:
        """See `Traffic.send`. The workers compute while the masks are determined."""
        step = work.step
        frame = encode(step)
        for worker in workers.values():
            worker.send(frame)
        if work.guided:
            masks = StepMasks(step_id=step.step_id, generation=step.generation, allowed=work.masks())
            frame = encode(masks)
            for index, worker in workers.items():
                if index >= self._first_sampling:
                    worker.send(frame)

    def take(self, index: int, message: Message) -> Sequence[StepResult] | None:
        """See `Traffic.take`."""
        if isinstance(message, ExpertLoad):
            self.expert_loads[index] = message
            return ()
        return (message,) if isinstance(message, StepResult) else None


@dataclass(slots=True, kw_only=True)
class _InFlight:
    """A batch on which not every worker has reported yet. Mutable."""

    outputs: dict[str, Array] = field(default_factory=dict[str, Array])
    received: list[tuple[TensorPort, Received]] = field(default_factory=list)
    """The received parts, to be released after the outputs have been read."""
    compute_s: list[float]
    """Seconds of computing in each stage, of its slowest shard."""
    error: str | None = None
    num_reports_missing: int

    def release(self) -> None:
        """Release the outputs after they have been read."""
        for port, part in self.received:
            port.release(part)


class BatchTraffic:
    """Batches of an ONNX graph. Implements `Traffic`.

    Each worker gets the graph inputs that it needs; a result is complete once all have reported.
    """

    def __init__(self, stages: Sequence[Sequence[LoadGraph]]) -> None:
        """`stages`: what the shards of each stage load, in the order of their ranks."""
        self._num_stages = len(stages)
        self._stage_of = [load.stage_index for loads in stages for load in loads]
        self._inputs = [
            [one.spec.name for one in load.stage.inputs if one.source == HEAD] for loads in stages for load in loads
        ]
        """The graph inputs that each worker needs."""
        self._ports: list[TensorPort] = []
        self._generation = Generation(0)
        self._in_flight: dict[BatchId, _InFlight] = {}

    def begin(self, wiring: Wiring, generation: Generation) -> None:
        """See `Traffic.begin`."""
        self._ports = [wiring.port(index) for index in range(len(self._inputs))]
        self._generation = generation

    def send(self, work: Batch, workers: Mapping[int, MessageWorker]) -> None:
        """See `Traffic.send`."""
        self._in_flight[work.batch_id] = _InFlight(
            compute_s=[0.0] * self._num_stages, num_reports_missing=len(self._inputs)
        )
        message = RunBatch(batch_id=work.batch_id, generation=self._generation, limit_s=work.limit_s)
        for index, worker in workers.items():
            own = {name: work.inputs[name] for name in self._inputs[index]}
            worker.send(self._ports[index].pack(message, own))

    def take(self, index: int, message: Message) -> Sequence[BatchResult] | None:
        """See `Traffic.take`."""
        if not isinstance(message, Envelope) or (received := self._ports[index].unpack(message)) is None:
            return None
        done = received.message
        if not isinstance(done, BatchDone):
            return None
        batch_id = BatchId(done.batch_id)
        entry = self._in_flight.get(batch_id)
        if entry is None:
            raise WorkerLost(f"batch {batch_id} is reported on, which was not sent")
        stage = self._stage_of[index]
        entry.outputs |= received.tensors
        entry.received.append((self._ports[index], received))
        entry.compute_s[stage] = max(entry.compute_s[stage], done.compute_s)
        entry.error = entry.error or done.error
        entry.num_reports_missing -= 1
        if entry.num_reports_missing:
            return ()
        del self._in_flight[batch_id]
        result = BatchResult(
            batch_id=batch_id,
            outputs={} if entry.error else entry.outputs,
            compute_s=tuple(entry.compute_s),
            error=entry.error,
            release=entry.release,
        )
        return (result,)
