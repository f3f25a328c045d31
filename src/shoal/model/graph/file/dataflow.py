"""Which nodes of an ONNX graph read which values, and which nodes depend on constants only.

A node with bodies (`If`, `Loop`, `Scan`, also nested) counts as one node that reads whatever its bodies take from the
graph around them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from shoal.errors import ModelLoadError

RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)
"""Operators whose results differ from run to run, so they must run once however many stages read them.

Source: the ONNX operators that their schema calls non-deterministic, apart from those with bodies.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataflow:
    """A graph's edges. Nodes are named by their index in the graph; empty (optional) names are left out."""

    reads: tuple[tuple[str, ...], ...]
    """For each node, the values of the graph that it or its bodies read, each once."""
    writes: tuple[tuple[str, ...], ...]
    producer: Mapping[str, int]
    """The node that computes each value; inputs and initializers have none."""
    constant: frozenset[int]
    """Nodes that depend on weights only. Every stage that needs one computes it again."""
    active: frozenset[int]
    """Nodes that depend on inputs (or chance) and that some output of the graph needs."""

    def is_constant(self, value: str, weights: Collection[str]) -> bool:
        """Whether the value is one of `weights` or computed from them alone."""
        return value in weights or self.producer.get(value) in self.constant

    def nodes_for(self, outputs: Iterable[str], first_node: int, last_node: int) -> tuple[list[int], set[str]]:
        """The nodes that compute `outputs` inside a stage, including constant ones from before it.

        Returns:
            Their indices, ascending, and all values that they read or that are among `outputs`.
        """
        values = set(outputs)
        nodes: list[int] = []
        for node in reversed(range(last_node)):
            is_in_reach = node >= first_node or node in self.constant
            if is_in_reach and not values.isdisjoint(self.writes[node]):
                nodes.append(node)
                values.update(self.reads[node])
        return nodes[::-1], values


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node, one level down."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and all nodes inside their bodies, however deep."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from nested_nodes(body.node)


def weight_names(graph: onnx.GraphProto) -> set[str]:
    """Names of the graph's initializers, sparse ones included."""
    return {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}


def trace(model: onnx.ModelProto, *, run_once: Collection[str] = ()) -> Dataflow:
    """Find the edges of a model whose nodes are in topological order (see `sort_nodes`).

    Args:
        run_once: operators, besides the random ones, that never count as constant, even if they read weights only.
    """
    graph = model.graph
    reads = tuple(_node_reads(node) for node in graph.node)
    writes = tuple(tuple(name for name in node.output if name) for node in graph.node)
    constant = _constant_nodes(model, reads, writes, run_once)
    needed = _needed_nodes(reads, writes, {output.name for output in graph.output})
    return Dataflow(
        reads=reads,
        writes=writes,
        producer={name: node for node, names in enumerate(writes) for name in names},
        constant=constant,
        active=needed - constant,
    )


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes into topological order, as ONNX Runtime does with files that break this rule of the format.

    Mutates: `graph`, only if necessary.

    Raises:
        ModelLoadError: a node reads a value that nothing computes, or nodes wait for each other in a cycle.
    """
    order = _topological_order(graph)
    if order != list(range(len(order))):
        nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _topological_order(graph: onnx.GraphProto) -> list[int]:
    known = {value.name for value in graph.input} | weight_names(graph)
    order: list[int] = []
    waiting = list(range(len(graph.node)))
    reads = [_node_reads(node) for node in graph.node]
    while waiting:
        blocked: list[int] = []
        for index in waiting:
            if known.issuperset(reads[index]):
                order.append(index)
                known.update(graph.node[index].output)
            else:
                blocked.append(index)
        if len(blocked) == len(waiting):
            raise ModelLoadError(_blocked_reason(graph.node[blocked[0]], reads[blocked[0]], known))
        waiting = blocked
    return order


def _blocked_reason(node: onnx.NodeProto, reads: Iterable[str], known: set[str]) -> str:
    missing = next(name for name in reads if name not in known)
    return (
        f"node {node.name or '(unnamed)'!r} ({node.op_type}) reads {missing!r}, which nothing before it computes: "
        "the graph is damaged or has a cycle; export the model again"
    )


def _node_reads(node: onnx.NodeProto) -> tuple[str, ...]:
    names = dict.fromkeys(name for name in node.input if name)
    for body in bodies(node):
        names.update(dict.fromkeys(captured(body)))
    return tuple(names)


def captured(body: onnx.GraphProto) -> Iterator[str]:
    """Values that a body reads from the graph around it, directly or as its outputs."""
    own = {value.name for value in body.input} | weight_names(body)
    own.update(name for node in body.node for name in node.output)
    for node in body.node:
        yield from (name for name in _node_reads(node) if name not in own)
    yield from (output.name for output in body.output if output.name and output.name not in own)


def _constant_nodes(
    model: onnx.ModelProto,
    reads: tuple[tuple[str, ...], ...],
    writes: tuple[tuple[str, ...], ...],
    run_once: Collection[str],
) -> frozenset[int]:
    values = weight_names(model.graph)
    random = _random_operators(model).union(run_once)
    nodes: set[int] = set()
    for index, node in enumerate(model.graph.node):
        if values.issuperset(reads[index]) and not _uses(node, random):
            nodes.add(index)
            values.update(writes[index])
    return frozenset(nodes)


def _random_operators(model: onnx.ModelProto) -> set[str]:
    """Operators that draw random numbers, including the model's own functions."""
    random = set(RANDOM_OPERATORS)
    for _ in model.functions:  # functions may call functions: as many rounds as there are functions suffice
        found = {f.name for f in model.functions if any(_uses(node, random) for node in f.node)}
        if found <= random:
            break
        random |= found
    return random


def _uses(node: onnx.NodeProto, operators: set[str]) -> bool:
    return any(inner.op_type in operators for inner in nested_nodes([node]))


def _needed_nodes(
    reads: tuple[tuple[str, ...], ...], writes: tuple[tuple[str, ...], ...], outputs: set[str]
) -> frozenset[int]:
    values = set(outputs)
    nodes: set[int] = set()
    for node in reversed(range(len(reads))):
        if not values.isdisjoint(writes[node]):
            nodes.add(node)
            values.update(reads[node])
    return frozenset(nodes)
