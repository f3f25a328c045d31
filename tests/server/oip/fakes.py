"""Graphs without ONNX: NumPy functions behind the seams of the server, which fail when they are told to."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shoal.core.plan.graph import BatchAxes, GraphPlan, GraphReplicaPlan
from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import ModelLoadError, WorkerLost
from shoal.executor.remote.strikes import Strike
from shoal.protocol.stage_interface import TensorSpec
from shoal.router.batch_engine import BatchEngine
from shoal.router.graph_executor import Batch, BatchResult, Tensors

Function = Callable[[Tensors], dict[str, np.ndarray[Any, Any]]]


class FakeGraphExecutor:
    """Answers a batch as soon as it is submitted, or, while `is_stalled`, when `release` is called from any thread."""

    num_stages = 1

    def __init__(self, function: Function) -> None:
        self.function = function
        self.batches: list[Batch] = []
        """all that were submitted"""
        self.submitted = threading.Semaphore(0)
        """released once for every batch"""
        self.is_stalled = False
        self.closed = threading.Event()
        self._is_lost = False
        self._lock = threading.RLock()
        """of what follows: `release` may come from any thread, and computing takes its time"""
        self._held: deque[Batch] = deque()
        self._ready: deque[BatchResult] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)
        with self._lock:
            self._held.append(batch)
            if not self.is_stalled:
                self._answer_all()
        self.submitted.release()

    def poll(self) -> list[BatchResult]:
        if self._is_lost:
            raise WorkerLost("the fake worker is gone")
        with self._lock:
            results = list(self._ready)
            self._ready.clear()
            if results:
                os.eventfd_read(self._fd)
        return results

    def release(self) -> None:
        with self._lock:
            self.is_stalled = False
            self._answer_all()

    def lose(self) -> None:
        """The link breaks. From any thread."""
        self._is_lost = True
        os.eventfd_write(self._fd, 1)

    def filenos(self) -> tuple[int, ...]:
        return (self._fd,) if self._fd >= 0 else ()

    def worker_pids(self) -> tuple[int, ...]:
        return ()

    def fence(self) -> None:
        """Nobody is cut off from anybody."""

    def kill(self) -> bool:
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.closed.set()

    def _answer_all(self) -> None:
        while self._held:
            batch = self._held.popleft()
            try:
                outputs, error = self.function(batch.inputs), None
            except ValueError as problem:
                outputs, error = {}, str(problem)
            self._ready.append(BatchResult(batch_id=batch.batch_id, outputs=outputs, compute_s=(0.001,), error=error))
        if self._ready:
            os.eventfd_write(self._fd, 1)


class FakeSupervisor:
    """Nothing happens to its machines but what a test does."""

    def __init__(self, plan: GraphPlan) -> None:
        self.plan = plan
        self.trouble: str | None = None
        self.machines: list[dict[str, str]] = []
        self.struck: list[tuple[str, Strike]] = []
        self.leave: Callable[[str], None] | None = None

    def describe_machines(self) -> list[dict[str, str]]:
        return self.machines

    def strike(self, machine: str, strike: Strike) -> None:
        self.struck.append((machine, strike))

    def on_headless(self, leave: Callable[[str], None]) -> None:
        self.leave = leave

    def close(self) -> None:
        pass


class FakeGraph:
    """A loaded graph on one executor."""

    def __init__(self, plan: GraphPlan, sample: Tensors, function: Function) -> None:
        self.plan = plan
        self.sample = sample
        self.row_s = ()
        self.supervisor = FakeSupervisor(plan)
        self.defaults: Tensors = {}
        self.executors = (FakeGraphExecutor(function),)
        self.factories = ()
        self.recovery = RecoveryConfig()
        self.num_closed = 0

    def supervise(self, engine: BatchEngine, clock: Callable[[], float]) -> FakeSupervisor:
        return self.supervisor

    def close(self) -> None:
        self.num_closed += 1
        self.executors[0].close()


def doubler() -> FakeGraph:
    """y = 2 x for rows of four floats; z = the ids, any number a row. Refuses a row that begins with 13."""

    def compute(inputs: Tensors) -> dict[str, np.ndarray[Any, Any]]:
        if (inputs["x"][:, 0] == 13).any():
            raise ValueError("13 brings bad luck")
        return {"y": 2 * inputs["x"], "z": inputs["ids"].copy()}

    x = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
    ids = TensorSpec(name="ids", dtype="int64", shape=("batch", "length"))
    y = TensorSpec(name="y", dtype="float32", shape=("batch", 4))
    z = TensorSpec(name="z", dtype="int64", shape=("batch", "length"))
    axes = BatchAxes(inputs={"x": 0, "ids": 0}, outputs={"y": 0, "z": 0}, rows=None)
    sample = {"x": np.ones((1, 4), np.float32), "ids": np.ones((1, 2), np.int64)}
    return FakeGraph(_plan("doubler", (x, ids), (y, z), axes), sample, compute)


def planes() -> FakeGraph:
    """Gives pictures of 8 x 16 pixels, channels first, back."""
    shape = ("batch", 3, 8, 16)
    spec, result = (TensorSpec(name=name, dtype="float32", shape=shape) for name in ("pixels", "same"))
    axes = BatchAxes(inputs={"pixels": 0}, outputs={"same": 0}, rows=None)
    sample = {"pixels": np.zeros((1, 3, 8, 16), np.float32)}
    return FakeGraph(
        _plan("planes", (spec,), (result,), axes), sample, lambda inputs: {"same": inputs["pixels"].copy()}
    )


def echo(dtype: str) -> FakeGraph:
    """Gives one input of any shape back. Not batched."""
    spec = TensorSpec(name="value", dtype=dtype, shape=None)
    result = TensorSpec(name="result", dtype=dtype, shape=None)
    axes = BatchAxes(inputs={"value": None}, outputs={"result": None}, rows=None)
    sample = {"value": np.array(["a"], dtype=object) if dtype == "string" else np.zeros(1, np.dtype(dtype))}
    plan = _plan(f"echo_{dtype}", (spec,), (result,), axes)
    return FakeGraph(plan, sample, lambda inputs: {"result": inputs["value"].copy()})


def _plan(model: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], axes: BatchAxes) -> GraphPlan:
    return GraphPlan(
        model=model, split="1", inputs=inputs, outputs=outputs, batch=axes, replicas=(GraphReplicaPlan(stages=()),)
    )


class FakeLoader:
    """A GraphLoader over graphs by file stem."""

    def __init__(self, makers: Mapping[str, Callable[[], FakeGraph]]) -> None:
        self.makers = dict(makers)
        self.loaded: dict[str, list[FakeGraph]] = {}
        """by stem, the latest last"""
        self.threads: list[int] = []
        """which thread loaded, each time"""

    def __call__(self, path: Path) -> FakeGraph:
        self.threads.append(threading.get_ident())
        if path.stem not in self.makers:
            raise ModelLoadError(f"{path} is broken")
        graph = self.makers[path.stem]()
        self.loaded.setdefault(path.stem, []).append(graph)
        return graph

    def executor(self, stem: str) -> FakeGraphExecutor:
        return self.loaded[stem][-1].executors[0]
