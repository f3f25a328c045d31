"""Nodes that contain graphs: branches, loops and scans. All rows must share the choice of the branch and the number of
iterations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import onnx

from shoal.arrays import Array
from shoal.model.graph.file.dataflow import trace, weight_names
from shoal.model.graph.row_proof.kinds import SHARED, Kind, Mixed, Mixing, Rows, Shared
from shoal.model.graph.row_proof.walk import Walk
from shoal.model.graph.tensor_parallel.shapes.constants import ArrayKind, Constants, ConstantValues
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, from_front, integers
from shoal.model.graph.tensor_parallel.shapes.sizes import Shape

FollowNodes = Callable[[Walk, Sequence[onnx.NodeProto]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """An input or output of a body."""

    kind: Kind
    shape: Shape | None

    @property
    def rank(self) -> int | None:
        return self.kind.rank if isinstance(self.kind, Rows) else None if self.shape is None else len(self.shape)


class BodyConstants:
    """The constants of a body and of the graphs around it."""

    def __init__(self, walk: Walk, body: onnx.GraphProto, own: Collection[str]) -> None:
        """`own`: names that the body gives to values, which hide the same names outside."""
        self._outer = walk.constants
        self._own = own
        model = onnx.ModelProto(ir_version=walk.model.ir_version, opset_import=walk.model.opset_import)
        model.graph.name = "body"
        model.graph.node.extend(body.node)
        model.graph.initializer.extend(body.initializer)
        model.graph.sparse_initializer.extend(body.sparse_initializer)
        self._inner = Constants(model, trace(model), walk.folder)

    def __contains__(self, name: str) -> bool:
        return name in self._place(name)

    def kind(self, name: str) -> ArrayKind | None:
        return self._place(name).kind(name)

    def array(self, name: str) -> Array | None:
        return self._place(name).array(name)

    def _place(self, name: str) -> ConstantValues:
        return self._inner if name in self._own else self._outer


def _walk_body(
    walk: Walk, body: onnx.GraphProto, inputs: Sequence[_Value], scope: str, follow_nodes: FollowNodes
) -> list[_Value]:
    """What the outputs of a body have to do with rows, given its inputs and the values around it."""
    own = {value.name for value in body.input} | weight_names(body)
    own |= {name for node in body.node for name in node.output}
    constants = BodyConstants(walk, body, own)
    known = walk.known.inside(constants, f"{scope}/", own)
    inner = Walk(known, constants, walk.batch, walk.model, walk.folder, outer=walk)
    for name in own:
        inner.kinds.pop(name, None)
    for name in weight_names(body):
        inner.kinds[name] = SHARED
    for value, given in zip(body.input, inputs, strict=False):
        if given.shape is not None:
            known.learn_shape(value.name, tuple(known.unknown(value.name, axis) for axis in range(len(given.shape))))
        inner.learn(value.name, given.kind)
    follow_nodes(inner, body.node)
    return [_Value(kind=inner.kind(output.name), shape=known.shape(output.name)) for output in body.output]


def _body(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    return next(found.g for found in node.attribute if found.name == name)


def branch(walk: Walk, node: onnx.NodeProto, follow_nodes: FollowNodes) -> tuple[Kind, ...]:
    """`If`: the branch that is always taken, or what both branches have in common."""
    numbers = walk.known.numbers(node, 0)
    names = ["then_branch", "else_branch"] if not numbers else ["then_branch" if numbers[0] else "else_branch"]
    if not numbers:
        walk.check_shared([node.input[0]], "a condition")
    found = [_walk_body(walk, _body(node, name), (), f"{node.output[0]}:{name}", follow_nodes) for name in names]
    for place, output in enumerate(node.output):
        shapes = [branch_outputs[place].shape for branch_outputs in found]
        _learn_common_shape(walk, output, shapes)
    return tuple(_common([outputs[place].kind for outputs in found]) for place in range(len(node.output)))


def _common(kinds: Sequence[Kind]) -> Kind:
    mixed = next((kind for kind in kinds if isinstance(kind, Mixed)), None)
    if mixed is not None:
        return mixed
    if any(kind != kinds[0] for kind in kinds):
        return Mixed(reason="the branches of an If have their rows in different places")
    return kinds[0]


def _learn_common_shape(walk: Walk, name: str, shapes: Sequence[Shape | None]) -> None:
    """Learn the sizes that all shapes agree on and that were known outside."""
    first = shapes[0]
    if not name or first is None or any(shape is None or len(shape) != len(first) for shape in shapes):
        return
    walk.known.learn_shape(
        name,
        tuple(
            size
            if all(shape is not None and shape[axis] == size for shape in shapes) and size.fixed is not None
            else walk.known.unknown(name, axis)
            for axis, size in enumerate(first)
        ),
    )


def loop(walk: Walk, node: onnx.NodeProto, follow_nodes: FollowNodes) -> tuple[Kind, ...]:
    """`Loop`: the number of iterations must be the same for all rows."""
    walk.check_shared(node.input[:2], "the number of turns")
    number = _Value(kind=SHARED, shape=())
    states = [_outside(walk, name) for name in node.input[2:]]
    body, scope = _body(node, "body"), node.output[0]
    states, outputs = _settle(
        states, lambda given: _walk_body(walk, body, [number, number, *given], scope, follow_nodes), num_before=1
    )
    if not isinstance(outputs[0].kind, Shared):
        raise Mixing("a loop goes on until every row is done")
    for output, state in zip(node.output, states, strict=False):
        _learn_rank(walk, output, state.rank)
    scans = outputs[1 + len(states) :]
    for output, scan in zip(node.output[len(states) :], scans, strict=False):
        _learn_rank(walk, output, None if scan.rank is None else scan.rank + 1)
    return (*(state.kind for state in states), *(_stacked(scan.kind, 0) for scan in scans))


def scan(walk: Walk, node: onnx.NodeProto, follow_nodes: FollowNodes) -> tuple[Kind, ...]:
    """`Scan`: over axes other than the batch."""
    if walk.opset < _AXES_OF_SCAN:
        raise Mixing("Scan has a batch of its own in this operator set")
    num_scanned = attribute(node, "num_scan_inputs", 1)
    num_states = len(node.input) - num_scanned
    states = [_outside(walk, name) for name in node.input[:num_states]]
    axes = integers(node, "scan_input_axes") or [0] * num_scanned
    entries = [_entry(walk, name, axis) for name, axis in zip(node.input[num_states:], axes, strict=True)]
    body, scope = _body(node, "body"), node.output[0]
    states, outputs = _settle(
        states, lambda given: _walk_body(walk, body, [*given, *entries], scope, follow_nodes), num_before=0
    )
    scans = outputs[num_states:]
    out_axes = integers(node, "scan_output_axes") or [0] * len(scans)
    for output, state in zip(node.output, states, strict=False):
        _learn_rank(walk, output, state.rank)
    for output, one in zip(node.output[num_states:], scans, strict=False):
        _learn_rank(walk, output, None if one.rank is None else one.rank + 1)
    stacked = [_stacked(one.kind, axis) for one, axis in zip(scans, out_axes, strict=True)]
    return (*(state.kind for state in states), *stacked)


def _settle(
    states: list[_Value], run: Callable[[list[_Value]], list[_Value]], *, num_before: int
) -> tuple[list[_Value], list[_Value]]:
    """States whose rows a body does not change, and its outputs for them: the fixed point of `_kept`."""
    while True:
        outputs = run(states)
        after = outputs[num_before : num_before + len(states)]
        found = [_kept(before, now) for before, now in zip(states, after, strict=True)]
        if found == states:
            return states, outputs
        states = found


def _kept(before: _Value, now: _Value) -> _Value:
    """The state, or a mixed one if an iteration moves its rows."""
    if isinstance(before.kind, Mixed):
        return before
    if isinstance(now.kind, Mixed):
        return replace(before, kind=now.kind, shape=None)
    if before.kind == now.kind and before.rank == now.rank and now.rank is not None:
        return before
    return _Value(kind=Mixed(reason="a loop moves the rows of what it keeps"), shape=None)


def _outside(walk: Walk, name: str) -> _Value:
    return _Value(kind=walk.kind(name), shape=walk.known.shape(name))


def _entry(walk: Walk, name: str, axis: int) -> _Value:
    """One iteration's part of what is scanned. Raises Mixing if that is a row, or if the iterations are unknown."""
    rows, rank = walk.plain_rows(name), walk.rank(name)
    axis = from_front(axis, rank)
    shape = tuple(walk.known.unknown(name, place) for place in range(rank - 1))
    if rows is None:
        return _Value(kind=SHARED, shape=shape)
    if rows.axis == axis:
        raise Mixing("a Scan goes from row to row")
    return _Value(kind=rows.at(rows.axis - (axis < rows.axis), rank - 1), shape=shape)


def _stacked(kind: Kind, axis: int) -> Kind:
    """The kind of the iterations' outputs after they are stacked along a new axis."""
    if not isinstance(kind, Rows):
        return kind
    axis = from_front(axis, kind.rank + 1)
    return kind.at(kind.axis + (axis <= kind.axis), kind.rank + 1)


def _learn_rank(walk: Walk, name: str, rank: int | None) -> None:
    if name and rank is not None:
        walk.known.learn_shape(name, tuple(walk.known.unknown(name, axis) for axis in range(rank)))


_AXES_OF_SCAN = 9
"""From this operator set on, Scan has its axes as attributes; before, its first axis is a batch."""
FOLLOW = {"If": branch, "Loop": loop, "Scan": scan}
"""Functions by operator of the default domain."""
