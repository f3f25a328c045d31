"""The Python interface to ONNX graphs and `torch` modules: a model as a callable on arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike

from shoal.api.options import DeviceOptions, check_names, devices_config
from shoal.arrays import Array
from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.core.plan.graph import BatchAxes, GraphPlan
from shoal.errors import ConfigError, InvalidRequest
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.model.graph.sample.input_check import check_inputs
from shoal.model.graph.torch_export import export_module
from shoal.offline.pull import Chunk, ChunkRunner
from shoal.offline.run_once import run_once


def open_runner(loaded: LoadedGraph) -> ChunkRunner:
    """Open what computes chunks on the workers of a graph. It owns the workers and starts lost ones again, also on
    machines that were gone and have come back."""
    runner = ChunkRunner(
        loaded.executors,
        factories=loaded.factories,
        recovery=loaded.recovery,
        batch=loaded.plan.batch,
        row_s=loaded.row_s,
        sample={**loaded.defaults, **loaded.sample},
    )
    loaded.attend(runner)
    return runner


class Model:
    """A loaded graph. Call it with arrays; close it, or use it in a `with` block. Use it in one thread at a time.

    A worker that dies is started again, and its unfinished work is computed again, by other workers if there are any.
    """

    def __init__(self, loaded: LoadedGraph, owned: ExitStack, *, micro_batch: int | None = None) -> None:
        """Take over a loaded graph and `owned`, which is closed after it."""
        self._loaded = loaded
        self._owned = owned
        self._runner = open_runner(loaded)
        self._micro_batch = micro_batch

    @property
    def plan(self) -> GraphPlan:
        """The plan: which worker runs what, and the graph's inputs and outputs."""
        return self._loaded.plan

    def __call__(self, *arrays: ArrayLike | Mapping[str, ArrayLike], **named: ArrayLike) -> dict[str, Array]:
        """Compute all outputs.

        Args:
            arrays: the inputs in the graph's order; or one mapping of names to arrays.
            named: inputs by name.

        Returns:
            The outputs by name, in the graph's order.

        Raises:
            InvalidRequest: an input is missing, unknown, or of the wrong type or shape.
            WorkerLost: no worker is left to compute on, and none could be started again.
        """
        plan = self.plan
        given = self._checked(self._by_name(arrays, named), plan.batch)
        outputs = run_once(self._runner, plan, given, micro_batch=self._micro_batch)
        return {spec.name: outputs[spec.name] for spec in plan.outputs}

    def stream(self, batches: Iterable[ArrayLike | Mapping[str, ArrayLike]]) -> Iterator[dict[str, Array]]:
        """Compute many batches, as many at once as keep all workers busy, and yield the results in order.

        Args:
            batches: mappings of input names to arrays, or arrays for a model with one input. A batch is read when there
                is room for it, and goes through the graph unchanged.

        Yields:
            The outputs of each batch. Valid until the next ones are requested; copy what you want to keep.

        Raises:
            InvalidRequest: a batch does not fit the model's inputs, or cannot be computed.
            WorkerLost: no worker is left to compute on, and none could be started again.
        """
        chunks = (
            Chunk(index=index, inputs=self._checked(self._by_name((batch,), {}), None))
            for index, batch in enumerate(batches)
        )
        early: dict[int, dict[str, Array]] = {}
        awaited = 0
        for result in self._runner.run(chunks):
            if result.error is not None:
                raise InvalidRequest(result.error)
            if result.index != awaited:
                early[result.index] = {name: np.array(view) for name, view in result.outputs.items()}
                continue
            yield result.outputs
            awaited += 1
            while awaited in early:
                yield early.pop(awaited)
                awaited += 1

    def close(self) -> None:
        """Stop all workers. Idempotent."""
        self._runner.close()
        self._owned.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, arrays: Mapping[str, Array], batch: BatchAxes | None) -> dict[str, Array]:
        defaults = self._loaded.defaults
        return check_inputs(self.plan.inputs, arrays, defaults=defaults, batch=batch, convert=True)

    def _by_name(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Array]:
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            arrays, named = (), {**arrays[0], **named}
        names = [spec.name for spec in self.plan.inputs]
        if len(arrays) > len(names):
            raise InvalidRequest(f"{len(arrays)} arrays were given, but the model takes {len(names)}: {names}")
        if twice := set(names[: len(arrays)]) & set(named):
            raise InvalidRequest(f"input {sorted(twice)[0]!r} is given twice, by position and by name")
        return {name: np.asarray(value) for name, value in (*zip(names, arrays, strict=False), *named.items())}


def load(
    model: str | Path | Any,
    *,
    example_inputs: Any = None,
    split: str = "1",
    objective: str = "balanced",
    threads: int | None = None,
    batch_dims: Mapping[str, int | None] | Literal["none"] | None = None,
    micro_batch: int | None = None,
    **devices: Unpack[DeviceOptions],
) -> Model:
    """Load an ONNX file, or a `torch.nn.Module`, split over workers on this machine.

    Args:
        model: the path of an ONNX file; or a module, which is exported with `torch.onnx.export(dynamo=True)`.
        example_inputs: for a module, a tuple of tensors or a mapping of argument names to tensors, whose first
            dimension becomes the dynamic batch; for a file, arrays by name to measure with instead of made-up ones.
        split: `1`, `pp=2`, `pp=3:1` (shares of the time), `tp=2`, `tp=3:1` (shares of every layer), `dp=2`, or several,
            as in `dp=2,pp=2,tp=2`; or `auto`, which measures this machine with the model, once, and chooses.
        objective: what `auto` optimizes: `throughput`, `latency`, or `balanced`, the best product of both.
        threads: compute threads of each worker; None shares the machine's cores evenly.
        batch_dims: batch axes of inputs and outputs by name, where the graph itself does not tell; None for an input
            without rows. The text "none" says that the graph has no batch, so every call goes through it unchanged.
        micro_batch: rows that go through the graph at once; None takes as many as keep all workers busy.
        devices: what workers compute on; see `DeviceOptions`.

    Raises:
        ConfigError: the split, the threads or a batch dimension make no sense for this model.
        ModelLoadError: the model cannot be read, exported or run.
        CapacityError: the copies of its weights do not fit into memory.
        WorkerLost: a worker died while the model was measured or loaded.

    Examples:
        >>> with shoal.load("model.onnx", split="pp=2") as model:  # doctest: +SKIP
        ...     y = model(x)["output"]
    """
    check_names(devices, DeviceOptions.__annotations__, ConfigError)
    if micro_batch is not None and micro_batch < 1:
        raise ConfigError(f"micro_batch is {micro_batch}, but it must be at least 1")

    with ExitStack() as owned:
        sample = None
        if isinstance(model, str | Path):
            path = Path(model)
            if example_inputs is not None:
                sample = {name: np.asarray(array) for name, array in example_inputs.items()}
        else:  # the file stays as long as the model: workers that are lost are started from it again
            folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix="shoal-export-")))
            path = export_module(model, example_inputs, folder)
        config = GraphLaunchConfig(
            model=str(path),
            split=split,
            planning=PlanningConfig(objective=objective),
            micro_batch=micro_batch,
            threads=threads,
            devices=devices_config(devices),
            batch_dims={} if batch_dims is None or batch_dims == "none" else batch_dims,
            is_batched=batch_dims != "none",
        )
        return Model(launch_graph(plan_graph(config, sample)), owned.pop_all(), micro_batch=micro_batch)
