"""Replicas that compute with a NumPy function, and fail when they are told to."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes, GraphPlan, GraphReplicaPlan, GraphShardPlan, GraphStagePlan
from shoal.errors import InvalidRequest, WorkerLost
from shoal.protocol.stage_interface import Dim, TensorSpec
from shoal.router.graph_executor import Batch, BatchResult, Tensors

Function = Callable[[Tensors], dict[str, Array]]


class InlineExecutor:
    """Computes in `poll`. `lost_after`: batches that it answers before it is lost."""

    def __init__(self, function: Function, *, num_stages: int = 1, lost_after: int | None = None) -> None:
        self.num_stages = num_stages
        self.num_closed = 0
        self.max_held_rows = 0
        self.batches: list[Batch] = []
        self._function = function
        self._queue: deque[Batch] = deque()
        self._lost_after = lost_after

    def submit(self, batch: Batch) -> None:
        self._queue.append(batch)
        held = sum(len(next(iter(one.inputs.values()))) for one in self._queue)
        self.max_held_rows = max(self.max_held_rows, held)

    def poll(self) -> list[BatchResult]:
        if self._lost_after is not None and len(self.batches) >= self._lost_after:
            raise WorkerLost("the fake worker is gone")
        if not self._queue:
            return []
        batch = self._queue.popleft()
        self.batches.append(batch)
        return [answer(batch, self._function)]

    def filenos(self) -> tuple[int, ...]:
        return ()

    def worker_pids(self) -> tuple[int, ...]:
        return ()

    def fence(self) -> None:
        """Nobody is cut off from anybody."""

    def kill(self) -> bool:
        return True

    def close(self) -> None:
        self.num_closed += 1


class ScriptedExecutor(InlineExecutor):
    """At each poll does what its script says: answers so many batches, or is lost (-1); 1 each after its end."""

    def __init__(self, function: Function, script: Sequence[int], *, num_stages: int = 1) -> None:
        super().__init__(function, num_stages=num_stages)
        self._script = iter(script)
        self.is_lost = False

    def submit(self, batch: Batch) -> None:
        assert not self.is_lost
        super().submit(batch)

    def poll(self) -> list[BatchResult]:
        count = next(self._script, 1)
        if count < 0:
            self.is_lost = True
            raise WorkerLost("the fake worker is gone")
        return [result for _ in range(count) for result in super(ScriptedExecutor, self).poll()]


class HandExecutor:
    """Answers through a descriptor, as a worker would: `num_prompt` batches at once, the others when told to."""

    num_stages = 1

    def __init__(self, function: Function, *, num_prompt: int = 0) -> None:
        self.num_prompt = num_prompt
        self.queue: deque[Batch] = deque()
        self.num_closed = 0
        self._function = function
        self._ready: deque[BatchResult] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def submit(self, batch: Batch) -> None:
        self.queue.append(batch)
        if self.num_prompt:
            self.num_prompt -= 1
            self.answer()

    def answer(self) -> None:
        self._ready.append(answer(self.queue.popleft(), self._function))
        os.eventfd_write(self._fd, 1)

    def poll(self) -> list[BatchResult]:
        results = list(self._ready)
        self._ready.clear()
        if results:
            os.eventfd_read(self._fd)
        return results

    def filenos(self) -> tuple[int, ...]:
        return (self._fd,)

    def worker_pids(self) -> tuple[int, ...]:
        return ()

    def fence(self) -> None:
        """Nobody is cut off from anybody."""

    def kill(self) -> bool:
        return True

    def close(self) -> None:
        self.num_closed += 1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def answer(batch: Batch, function: Function) -> BatchResult:
    try:
        outputs, error = function(batch.inputs), None
    except InvalidRequest as refusal:
        outputs, error = {}, str(refusal)
    return BatchResult(batch_id=batch.batch_id, outputs=outputs, compute_s=(0.0,), error=error)


def spec(name: str, *shape: Dim, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def make_plan(
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    batch: BatchAxes,
    *,
    num_replicas: int = 1,
) -> GraphPlan:
    stage = GraphStagePlan(
        first_node=0,
        last_node=1,
        inputs=(),
        outputs=(),
        shards=(GraphShardPlan(threads=1, cores=(), weight_bytes=0),),
        shares=(1,),
        split=None,
        compute_s=None,
    )
    return GraphPlan(
        model="fake.onnx",
        split="1",
        inputs=inputs,
        outputs=outputs,
        batch=batch,
        replicas=(GraphReplicaPlan(stages=(stage,)),) * num_replicas,
    )
