"""`shoal run` for an ONNX graph: arrays in, arrays out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from shoal.api.graphs import open_runner
from shoal.arrays import Array
from shoal.cli.graphs.files import check_writable, read_arrays, write_arrays
from shoal.cli.graphs.loading import load_graph
from shoal.cli.show.graph_output import describe
from shoal.cli.show.graph_plan_output import describe_error, predicted_dict
from shoal.cli.show.output import counted, note, print_json
from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.sample.empty_batch import is_empty
from shoal.model.graph.sample.input_check import check_inputs
from shoal.offline.run_once import run_once
from shoal.planner.files.plan_data import graph_plan_dict
from shoal.protocol.tensor_codec import dtype_name
from shoal.router.rows import count_rows

_SMALL = 64
"""Values up to this many are printed by --json."""


def run_graph(config: GraphLaunchConfig, *, inputs: Path | None, output: Path | None, as_json: bool) -> None:
    """Compute the outputs of one file of inputs. Raises ShoalError."""
    if output is not None:
        check_writable(output)
    graph = open_graph(Path(config.model))
    if inputs is None:
        wanted = "; ".join(map(describe, graph.inputs))
        raise ConfigError(f"nothing to compute: give --inputs FILE.npz with {wanted}")
    arrays = read_arrays(inputs, graph.inputs)
    started_s = time.perf_counter()
    with load_graph(config, quiet=as_json, sample=arrays, graph=graph) as loaded:
        load_s = time.perf_counter() - started_s
        arrays = check_inputs(graph.inputs, arrays, defaults=graph.defaults, batch=loaded.plan.batch, convert=True)
        started_s = time.perf_counter()
        with open_runner(loaded) as runner:
            outputs = run_once(runner, loaded.plan, arrays, micro_batch=config.micro_batch)
        run_s = time.perf_counter() - started_s
        num_rows = 0 if is_empty(arrays, loaded.plan.batch) else count_rows(arrays, loaded.plan.batch)
        plan, predicted = graph_plan_dict(loaded.plan), loaded.plan.predicted
    outputs = {spec.name: outputs[spec.name] for spec in graph.outputs}
    if output is not None:
        write_arrays(output, outputs)
    if as_json:
        figures = {
            "rows": num_rows,
            "run_s": run_s,
            "rows_per_s": num_rows / run_s,
            "load_s": load_s,
            "predicted": predicted_dict(predicted),
        }
        described = {name: _summary(array) for name, array in outputs.items()}
        print_json({"model": config.model, **figures, "outputs": described, "plan": plan})
        return
    for name, array in outputs.items():
        print(_line(name, array))
    rate = f"{num_rows / run_s:.1f} rows/s{describe_error(predicted, num_rows / run_s)}"
    note(f"\n{counted(num_rows, 'row')} in {run_s * 1e3:.1f} ms ({rate}), loaded in {load_s:.1f} s")


def _summary(array: Array) -> dict[str, Any]:
    summary: dict[str, Any] = {"dtype": dtype_name(array), "shape": list(array.shape)}
    if array.size <= _SMALL:
        values = array if array.dtype.kind in "iubO" else array.astype(np.float64)
        summary["values"] = _plain(values.tolist())
    return summary


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinities: they become null."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _line(name: str, array: Array) -> str:
    """One output, for the person."""
    head = f"{name}: {dtype_name(array)} {list(array.shape)}"
    if array.size <= _SMALL or array.dtype.kind not in "iuf":
        return f"{head} {np.array2string(array, threshold=_SMALL, precision=6)}"
    values = array.astype(np.float64)
    return f"{head} min {values.min():.6g} mean {values.mean():.6g} max {values.max():.6g}"
