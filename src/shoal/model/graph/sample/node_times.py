"""The time of each node of a graph, and the values that ONNX Runtime's optimizer keeps.

ONNX Runtime profiles the nodes of the optimized graph. The optimized model shows what became of the file's nodes: the
time of a node that writes a value of the file, or is named after one, counts for the node that computes this value in
the file; that of a new node (such as a change of layout) for the last node that it waits for.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime as ort

from shoal.errors import ConfigError, DeadlineExceeded, InvalidRequest
from shoal.model.graph.file.flops import node_flops
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.weight_tensors import named_weights
from shoal.model.graph.stage.ort_values import to_value
from shoal.model.graph.stage.run_limit import RunLimit
from shoal.model.graph.stage.session import compute_options, open_session, refusing

_WARM_UP_RUNS = 1
_RUNS = 5
"""Profiled runs, of which each node's median time counts."""
_RUN_LIMIT_S = 600.0
"""A run that takes longer counts as an endless loop. A judgment."""
_ESTIMATED_FLOPS_PER_S = 5e10
"""Speed of one core with AVX2. Source: docs/design.md, first finding (160 GFLOP/s on 2 cores), minus what small layers
lose."""
_NEW_LAYOUT = re.compile(r"_nchwc(_token_\d+)?$")
"""What ONNX Runtime appends to a value's name to name the node that computes it in a memory layout of its own."""
_EVENT_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTimes:
    """Measurements of a sample run."""

    seconds: tuple[float, ...]
    """Seconds of each node of the file, in order; 0 for nodes that were optimized away."""
    kept_values: frozenset[str]
    """Values that still exist after the optimizer's fusions: cuts through these alone break no fusion."""
    output_bytes: tuple[int, ...]
    """Bytes that each node of the file writes; 0 for nodes whose values do not exist after optimization."""


def measure_nodes(graph: GraphFile, inputs: Mapping[str, npt.NDArray[Any]], *, threads: int) -> NodeTimes:
    """Run the graph several times with ONNX Runtime's profiler.

    Args:
        graph: the whole file.
        inputs: of a typical run.
        threads: compute threads, as many as stages will have.

    Raises:
        ModelLoadError: ONNX Runtime cannot load the graph.
        ConfigError: ONNX Runtime cannot run it on these inputs.
    """
    model = _named_model(graph)
    with tempfile.TemporaryDirectory(prefix="shoal-profile-") as name:
        folder = Path(name)
        kept = frozenset(name for node in _fuse(graph, model, folder / "fused.onnx") for name in node.output if name)
        options = _saving_options(folder / "optimized.onnx", threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        session = open_session(graph, model, options)
        try:
            with refusing():
                _run(session, graph, inputs)
        except (InvalidRequest, DeadlineExceeded) as error:
            raise ConfigError(f"{graph.path} cannot be measured on these inputs: {error}") from error
        events = json.loads(Path(session.end_profiling()).read_text())
        optimized = _read_nodes(folder / "optimized.onnx")
    seconds, output_bytes = _charge(graph, optimized, _seconds_by_name(events), _bytes_by_name(events))
    return NodeTimes(seconds=seconds, kept_values=kept, output_bytes=output_bytes)


def _run(session: ort.InferenceSession, graph: GraphFile, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
    """Run the whole graph _RUNS times. Values have ONNX Runtime's own types, since NumPy lacks some."""
    values = {spec.name: to_value(inputs[spec.name], spec.dtype) for spec in graph.inputs}
    names = [spec.name for spec in graph.outputs]
    limit = RunLimit()
    for _ in range(_WARM_UP_RUNS + _RUNS):
        with limit.run(_RUN_LIMIT_S) as options:
            session.run_with_ort_values(names, values, options)


def estimate_nodes(graph: GraphFile) -> list[float]:
    """The nodes' likely times relative to each other, for a graph that does not fit this machine.

    Products and convolutions count by their arithmetic; if all sizes are unknown, all nodes count the same.
    """
    tensors = named_weights(graph.model.graph)
    weights = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    flops = [float(node_flops(node, graph.value_specs, weights) or 0) for node in graph.model.graph.node]
    return [count / _ESTIMATED_FLOPS_PER_S for count in flops] if any(flops) else [1e-6] * graph.num_nodes


def _named_model(graph: GraphFile) -> str | bytes:
    """The file if its nodes have unique names, by which the profile calls them; otherwise a copy with such names."""
    names = [node.name for node in graph.model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return str(graph.path)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for index, node in enumerate(model.graph.node):
        node.name = f"node {index}"
    return model.SerializeToString()


def _fuse(graph: GraphFile, model: str | bytes, path: Path) -> Sequence[onnx.NodeProto]:
    """The nodes after all fusions. Layouts are not changed: that would rename values without merging any."""
    options = _saving_options(path, 1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    open_session(graph, model, options)
    return _read_nodes(path)


def _saving_options(path: Path, threads: int) -> ort.SessionOptions:
    """Options of a session that writes the optimized model, with weights in a separate file, since they may be
    large."""
    options = compute_options(threads)
    options.optimized_model_filepath = str(path)
    weights = f"{path.stem}.weights"
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    return options


def _read_nodes(path: Path) -> Sequence[onnx.NodeProto]:
    """The nodes of a model that was written for inspection; its weights are deleted."""
    path.with_suffix(".weights").unlink(missing_ok=True)
    return onnx.load(path, load_external_data=False).graph.node


def _seconds_by_name(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Median seconds of each optimized node in a run. Nodes inside a body belong to the node that contains it."""
    runs = [event["ts"] for event in events if event.get("cat") == "Session" and event["name"] == "model_run"]
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_EVENT_SUFFIX)]
    times: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    free_from = 0
    for event in sorted(kernels, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= free_from:
            run = bisect_right(runs, event["ts"]) - 1
            times[event["name"].removesuffix(_EVENT_SUFFIX)][run] += event["dur"] * 1e-6
            free_from = event["ts"] + event["dur"]
    return {name: statistics.median(values[_WARM_UP_RUNS:]) for name, values in times.items()}


def _bytes_by_name(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes that each optimized node writes in a run."""
    kernels = (event for event in events if event.get("cat") == "Node" and event["name"].endswith(_EVENT_SUFFIX))
    return {
        event["name"].removesuffix(_EVENT_SUFFIX): int(event.get("args", {}).get("output_size", 0)) for event in kernels
    }


def _charge(
    graph: GraphFile,
    optimized: Sequence[onnx.NodeProto],
    seconds: Mapping[str, float],
    num_bytes: Mapping[str, int],
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Seconds and written bytes of each node of the file."""
    producer = graph.dataflow.producer
    charged_s, written = [0.0] * graph.num_nodes, [0] * graph.num_nodes
    stands_for: dict[str, int] = {}
    for node in optimized:
        values = [*node.output, _NEW_LAYOUT.sub("", node.name)]
        index = next((producer[name] for name in values if name in producer), None)
        if index is None:
            index = max((stands_for[name] for name in node.input if name in stands_for), default=0)
        stands_for.update(dict.fromkeys(node.output, index))
        charged_s[index] += seconds.get(node.name, 0.0)
        written[index] = max(written[index], num_bytes.get(node.name, 0))
    return tuple(charged_s), tuple(written)
