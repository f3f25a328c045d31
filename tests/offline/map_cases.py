"""A small map: y = 2 x + 1 with rows along axis 0, and the pieces to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from shoal.arrays import Array
from shoal.core.plan.graph import BatchAxes, GraphPlan
from shoal.errors import InvalidRequest
from shoal.offline.map_job import MapOptions, MapSummary, open_map, prepare_output
from shoal.offline.pull import ChunkRunner
from shoal.offline.work import Failure
from shoal.router.graph_executor import GraphExecutor, Tensors
from tests.offline.fake_graphs import InlineExecutor, make_plan, spec

AXES = BatchAxes(inputs={"x": 0}, outputs={"y": 0}, rows=None)
PLAN = make_plan((spec("x", "N", "L"),), (spec("y", "N", "L"),), AXES)
BAD = 1e6
"""A value that the graph refuses."""


def affine(inputs: Tensors) -> dict[str, Array]:
    if (inputs["x"] == BAD).any():
        raise InvalidRequest("a value is out of range")
    return {"y": 2 * inputs["x"] + 1}


def refuse(inputs: Tensors) -> dict[str, Array]:
    """What a worker that must not be asked does."""
    raise AssertionError("a worker was asked")


def check(inputs: Tensors) -> Tensors:
    """What stands in for the check against the graph's own inputs."""
    for name, array in inputs.items():
        if array.dtype.kind not in "fi":
            raise InvalidRequest(f"input {name} is {array.dtype}, but the model takes float32")
    return {name: array.astype(np.float32) for name, array in inputs.items()}


class Job:
    """Files of one map in a folder of their own."""

    def __init__(self, folder: Path, plan: GraphPlan = PLAN, function: Callable = affine) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.plan = plan
        self.function = function
        self.model = folder / "model.onnx"
        self.model.write_bytes(b"the model")
        self.failures: list[Failure] = []

    def run(
        self,
        inputs: Path,
        *,
        executors: Sequence[GraphExecutor] | None = None,
        resume: bool = False,
        batch_rows: int | None = 4,
        out: Path | None = None,
        clock: Callable[[], float] | None = None,
    ) -> MapSummary:
        """The whole command, without its command line. By default every chunk is committed at once."""
        options = MapOptions(inputs=inputs, output=out or self.out, batch_rows=batch_rows, resume=resume)
        prepare_output(options)
        with open_map(options, self.plan, [self.model], check) as job:
            ticks: Iterable[int] = iter(range(0, 10**9, 10))
            job._clock = clock or (lambda: float(next(iter(ticks))))
            with ChunkRunner(executors or [InlineExecutor(self.function)]) as runner:
                return job.run(runner, on_failure=self.failures.append)

    def rows(self, count: int, name: str = "x.npy", *, width: int = 3) -> tuple[Path, Array]:
        """A file of rows, and what is to come out."""
        x = np.arange(count * width, dtype=np.float32).reshape(count, width)
        np.save(self.folder / name, x)
        return self.folder / name, 2 * x + 1

    def result(self, name: str = "y.npy") -> Array:
        return np.load(self.out / name)
