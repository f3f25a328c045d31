"""The walk over a graph: for every node in order, what its outputs have to do with rows."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from shoal.model.graph.file.dataflow import RANDOM_OPERATORS, bodies, captured
from shoal.model.graph.row_proof.bodies import FOLLOW
from shoal.model.graph.row_proof.kinds import SHARED, AlreadyMixed, Kind, Mixed, Mixing, Shared
from shoal.model.graph.row_proof.rules import RULES
from shoal.model.graph.row_proof.walk import Walk
from shoal.model.graph.tensor_parallel.shapes.nodes import DEFAULT_DOMAINS
from shoal.model.graph.tensor_parallel.shapes.shape_rules import follow

_QUIET = "Dropout"
"""Draws random numbers only if it is told to train, which its rule checks."""
_UNFIT = (LookupError, ValueError, TypeError, ArithmeticError, StopIteration)
"""Exceptions of rules at nodes that contradict their operator's description; nothing is known of those nodes."""


def follow_nodes(walk: Walk, nodes: Sequence[onnx.NodeProto]) -> None:
    """Learn what the outputs of nodes, given in order, have to do with rows."""
    for node in nodes:
        if not all(name in walk.constants for name in node.output if name):
            kinds = _kinds(walk, node)
            for place, name in enumerate(node.output):
                if name:
                    walk.learn(name, kinds[place] if place < len(kinds) else _unknown(node, place))


def _kinds(walk: Walk, node: onnx.NodeProto) -> tuple[Kind, ...]:
    try:
        follow(walk.known, node)
        found = _found(walk, node)
    except AlreadyMixed as error:
        found = (Mixed(reason=str(error)),)
    except Mixing as error:
        found = (Mixed(reason=f"{error} ({_place(node)})"),)
    except _UNFIT:
        found = (Mixed(reason=f"nothing is known of what it computes ({_place(node)})"),)
    if len(found) == 1 and isinstance(found[0], Mixed):
        return found * len(node.output)
    return found


def _found(walk: Walk, node: onnx.NodeProto) -> tuple[Kind, ...]:
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    if not domain and node.op_type in FOLLOW:
        return FOLLOW[node.op_type](walk, node, follow_nodes)
    if node.op_type in RANDOM_OPERATORS and node.op_type != _QUIET:
        raise Mixing("random numbers are drawn for the whole batch")
    reads = [*node.input, *(name for body in bodies(node) for name in captured(body))]
    if node.op_type != _QUIET and all(isinstance(walk.kind(name), Shared) for name in reads):
        return (SHARED,) * len(node.output)
    rule = RULES.get((domain, node.op_type))
    if rule is None:
        for name in reads:
            walk.rows(name)
        raise Mixing(f"{node.op_type} is not known to keep rows apart")
    kinds = rule(walk, node)
    return kinds if isinstance(kinds, tuple) else (kinds,)


def _unknown(node: onnx.NodeProto, place: int) -> Mixed:
    return Mixed(reason=f"output {place + 1} of {node.op_type} is not known to keep rows apart ({_place(node)})")


def _place(node: onnx.NodeProto) -> str:
    return f"node {node.name or (node.output[0] if node.output else '')!r}"
