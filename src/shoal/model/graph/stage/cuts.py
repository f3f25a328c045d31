"""Where a graph can be cut into stages, and what each stage then reads and writes.

A stage is a run of nodes `[first_node, last_node)` in the file's order. What depends on weights only never crosses a
cut: every stage computes it again from its own copy of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shoal.errors import ConfigError
from shoal.model.graph.file.dataflow import Dataflow
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.value_types import element_bytes
from shoal.protocol.stage_interface import HEAD, StageInput, StageInterface, StageOutput, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPoint:
    """A place where the graph can be cut."""

    node: int
    """The cut lies before this node."""
    tensors: tuple[TensorSpec, ...]
    """Tensors computed before the cut and read after it, without inputs of the graph, which come from the head."""

    @property
    def bytes_per_run(self) -> int:
        """Bytes that cross the cut in one run; unknown sizes count as 1."""
        return sum(map(spec_bytes, self.tensors))


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of one tensor; dimensions that are not fixed, and the length of a text, count as 1."""
    return element_bytes(spec.dtype) * math.prod(dim if isinstance(dim, int) else 1 for dim in spec.shape or ())


def cut_points(graph: GraphFile) -> list[CutPoint]:
    """All places where everything that crosses is known to be a tensor, in ascending order.

    Of several places that differ only in constant or unused nodes, the first is listed.
    """
    flow, specs = graph.dataflow, graph.value_specs
    last_reader = _last_readers(flow)
    crossing: dict[str, None] = {}
    cuts: list[CutPoint] = []
    active = sorted(flow.active)
    for node in active[:-1]:
        for name in [name for name in crossing if last_reader[name] <= node]:
            del crossing[name]
        crossing.update(dict.fromkeys(name for name in flow.writes[node] if last_reader.get(name, -1) > node))
        tensors = [specs[name] for name in crossing if name in specs]
        if len(tensors) == len(crossing):
            cuts.append(CutPoint(node=node + 1, tensors=tuple(tensors)))
    return cuts


def stage_interfaces(graph: GraphFile, boundaries: Sequence[int]) -> list[StageInterface]:
    """Inputs and outputs of the stages between these cuts.

    Every tensor goes directly from its producer to each stage that reads it. Outputs of the graph that no active node
    computes (inputs passed through, constants) belong to the last stage.

    Args:
        boundaries: nodes of cut points, ascending; empty for one stage.

    Raises:
        ConfigError: a boundary is not a cut point.
    """
    _check_boundaries(graph, boundaries)
    edges = [0, *boundaries, graph.num_nodes]
    ranges = list(pairwise(edges))
    stage_of = {node: stage for stage, (first, last) in enumerate(ranges) for node in range(first, last)}
    reads = _stage_reads(graph, stage_of, len(ranges))
    home = {name: stage_of[node] for name, node in graph.dataflow.producer.items() if node in graph.dataflow.active}
    inputs = [[StageInput(spec=_spec(graph, name), source=home.get(name, HEAD)) for name in names] for names in reads]
    outputs: list[list[StageOutput]] = [[] for _ in ranges]
    for name, consumers in _consumers(graph, reads).items():
        stage = home.get(name, len(ranges) - 1)
        if HEAD in consumers or name in home:
            outputs[stage].append(StageOutput(spec=_spec(graph, name), consumers=tuple(sorted(set(consumers)))))
    return [
        StageInterface(first_node=first, last_node=last, inputs=tuple(taken), outputs=tuple(given))
        for (first, last), taken, given in zip(ranges, inputs, outputs, strict=True)
    ]


def _check_boundaries(graph: GraphFile, boundaries: Sequence[int]) -> None:
    allowed = {cut.node for cut in cut_points(graph)} if boundaries else set[int]()
    for before, node in pairwise([0, *boundaries]):
        if node not in allowed or node <= before:
            raise ConfigError(f"the graph cannot be cut before node {node}; `shoal inspect` lists where it can")


def _last_readers(flow: Dataflow) -> Mapping[str, int]:
    return {name: node for node in sorted(flow.active) for name in flow.reads[node]}


def _stage_reads(graph: GraphFile, stage_of: Mapping[int, int], num_stages: int) -> list[list[str]]:
    """For each stage, the values that come from outside it: from other stages or the graph's inputs."""
    flow = graph.dataflow
    inputs = {spec.name for spec in graph.inputs}
    reads: list[dict[str, None]] = [{} for _ in range(num_stages)]
    for node in sorted(flow.active):
        stage = stage_of[node]
        for name in flow.reads[node]:
            producer = flow.producer.get(name)
            is_foreign = producer in flow.active and stage_of[producer] != stage
            if name in inputs or is_foreign:
                reads[stage][name] = None
    reads[-1].update(dict.fromkeys(spec.name for spec in graph.outputs if spec.name in inputs))
    return [list(names) for names in reads]


def _consumers(graph: GraphFile, reads: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """The readers of each value that leaves a stage; the graph's outputs come first, in their order."""
    inputs = {spec.name for spec in graph.inputs}
    consumers: dict[str, list[int]] = {spec.name: [HEAD] for spec in graph.outputs}
    for stage, names in enumerate(reads):
        for name in names:
            if name not in inputs:
                consumers.setdefault(name, []).append(stage)
    return consumers


def _spec(graph: GraphFile, name: str) -> TensorSpec:
    """The type of a value: inferred inside the graph, as in the file for its inputs and outputs."""
    found = graph.value_specs.get(name)
    if found is not None:
        return found
    return next(spec for spec in graph.outputs if spec.name == name)
