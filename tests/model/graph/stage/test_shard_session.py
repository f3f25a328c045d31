"""Models with markers, cut into segments: hand-made shards against the whole."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from shoal.errors import InvalidRequest, RemoteProtocolError, WorkerLost
from shoal.model.graph.stage.segments import MARKER_DOMAIN, Gathering, Reduction, cut_at_markers
from shoal.model.graph.stage.shard_session import GraphShard, ShardSegments
from shoal.protocol.stage_interface import HEAD, StageInput, StageOutput, TensorSpec
from tests.model.graph.lockstep import run_lockstep

RANDOM = np.random.default_rng(0)
SIZES = (3, 5)
"""columns of the two shards"""
W1 = RANDOM.standard_normal((4, 8), np.float32)
W2 = RANDOM.standard_normal((8, 4), np.float32)
BIAS = RANDOM.standard_normal(4, np.float32)


def marker(kind: str, source: str, result: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, [source], [result], domain=MARKER_DOMAIN, **attributes)


def make_model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    outputs: tuple[str, ...] = ("y",),
    inputs: tuple[tuple[str, int, list[int | str]], ...] = (("x", TensorProto.FLOAT, ["N", 4]),),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "shard",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MARKER_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def load(model: onnx.ModelProto, outputs: tuple[str, ...] = ("y",)) -> ShardSegments:
    taken = [
        StageInput(spec=TensorSpec(name=value.name, dtype="float32", shape=None), source=HEAD)
        for value in model.graph.input
    ]
    given = [
        StageOutput(spec=TensorSpec(name=name, dtype="float32", shape=None), consumers=(HEAD,)) for name in outputs
    ]
    return ShardSegments(model, taken, given, folder=Path(), threads=1)


def perceptron(rank: int) -> onnx.ModelProto:
    """y = relu(x W1) W2 + bias, W1 by columns and W2 by rows; and the hidden values, gathered."""
    first = sum(SIZES[:rank])
    own = slice(first, first + SIZES[rank])
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["partial"]),
        marker("AllReduce", "partial", "sum"),
        helper.make_node("Add", ["sum", "bias"], ["y"]),
        marker("AllGather", "r", "hidden", axis=1, sizes=SIZES),
    ]
    return make_model(nodes, {"w1": W1[:, own], "w2": W2[own], "bias": BIAS}, ("y", "hidden"))


@pytest.mark.parametrize("rows", [1, 6, 0])
def test_shards_compute_what_the_whole_computes(rows: int) -> None:
    shards = [load(perceptron(rank), ("y", "hidden")) for rank in range(2)]
    x = RANDOM.standard_normal((rows, 4), np.float32)
    hidden = np.maximum(x @ W1, 0)
    for outputs in run_lockstep(shards, {"x": x}):
        np.testing.assert_allclose(outputs["hidden"], hidden, rtol=1e-5)
        np.testing.assert_allclose(outputs["y"], hidden @ W2 + BIAS, rtol=1e-4, atol=1e-5)


def test_outputs_outlive_the_next_run() -> None:
    shards = [load(perceptron(rank), ("y", "hidden")) for rank in range(2)]
    first = run_lockstep(shards, {"x": np.ones((2, 4), np.float32)})[0]["y"]
    kept = first.copy()
    run_lockstep(shards, {"x": np.zeros((2, 4), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_nodes_run_as_early_as_their_inputs_allow() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        marker("AllReduce", "a", "b"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Neg", ["x"], ["early"]),
        marker("AllReduce", "c", "d"),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["d", "t"], ["e"]),
        helper.make_node("Add", ["e", "early"], ["y"]),
        helper.make_node("Neg", ["e"], ["unused"]),
    ]
    cut = cut_at_markers(make_model(nodes, {"w": W1[:, :4].copy()}))
    assert [segment.nodes for segment in cut.segments] == [(0, 3), (2,), (5, 6, 7)]
    assert [segment.inputs for segment in cut.segments] == [("x",), ("b",), ("d", "early")]
    assert [segment.outputs for segment in cut.segments] == [("a", "early"), ("c",), ("y",)]
    assert [sorted(segment.weights) for segment in cut.segments] == [["w"], [], ["w"]]
    assert cut.markers == (
        Reduction(source="a", result="b", is_last_use=True),
        Reduction(source="c", result="d", is_last_use=True),
    )


def test_constants_are_handed_out_where_a_marker_or_an_output_wants_them() -> None:
    nodes = [
        helper.make_node("Neg", ["w"], ["negated"]),
        marker("AllGather", "negated", "gathered", axis=0, sizes=[4, 4]),
        helper.make_node("MatMul", ["x", "gathered"], ["y"]),
        helper.make_node("Identity", ["w"], ["copy"]),
    ]
    x = np.ones((1, 8), np.float32)
    shards = [
        load(
            make_model(nodes, {"w": W2[rank * 4 : rank * 4 + 4]}, ("y", "copy"), (("x", TensorProto.FLOAT, ["N", 8]),)),
            ("y", "copy"),
        )
        for rank in range(2)
    ]
    for rank, outputs in enumerate(run_lockstep(shards, {"x": x})):
        np.testing.assert_allclose(outputs["y"], x @ -W2, rtol=1e-5)
        np.testing.assert_array_equal(outputs["copy"], W2[rank * 4 : rank * 4 + 4])


def test_a_summand_that_is_read_again_stays_as_it_is() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["partial"]),
        marker("AllReduce", "partial", "sum"),
        helper.make_node("Sub", ["sum", "partial"], ["others"]),
        marker("AllReduce", "x", "doubled"),
        helper.make_node("Add", ["x", "doubled"], ["tripled"]),
    ]
    halves = W2[:4], W2[4:]
    names = ("others", "tripled")
    x = RANDOM.standard_normal((3, 4), np.float32)
    given = x.copy()
    outputs = run_lockstep([load(make_model(nodes, {"w": half.copy()}, names), names) for half in halves], {"x": given})
    for rank in range(2):
        np.testing.assert_allclose(outputs[rank]["others"], x @ halves[1 - rank], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs[rank]["tripled"], 3 * x, rtol=1e-6)
    np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, np.float16])
def test_unequal_slices_of_any_type_are_gathered_along_any_axis(axis: int, dtype: type) -> None:
    whole = RANDOM.standard_normal((4, 5, 6)).astype(np.float32)
    sizes = [1, whole.shape[axis] - 1]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "along"], ["slice"]),
        helper.make_node("Cast", ["slice"], ["own"], to=kind),
        marker("AllGather", "own", "gathered", axis=axis, sizes=sizes),
        helper.make_node("Cast", ["gathered"], ["y"], to=TensorProto.FLOAT),
    ]
    ranges = [(0, 1), (1, whole.shape[axis])]
    shards = [
        load(
            make_model(
                nodes,
                {"from": np.array([first]), "to": np.array([last]), "along": np.array([axis])},
                inputs=(("x", TensorProto.FLOAT, ["A", "B", "C"]),),
            )
        )
        for first, last in ranges
    ]
    for outputs in run_lockstep(shards, {"x": whole}):
        np.testing.assert_array_equal(outputs["y"], whole.astype(dtype).astype(np.float32))


def test_sequences_cross_from_segment_to_segment() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["pieces"], axis=1, keepdims=1),
        marker("AllReduce", "x", "sum"),
        helper.make_node("SequenceInsert", ["pieces", "sum"], ["more"]),
        helper.make_node("ConcatFromSequence", ["more"], ["y"], axis=1),
    ]
    x = RANDOM.standard_normal((2, 4), np.float32)
    (outputs,) = run_lockstep([load(make_model(nodes, {}))], {"x": x})
    np.testing.assert_array_equal(outputs["y"], np.concatenate([x, x], axis=1))


class ThreadGroup:
    """Ranks as threads that see each other's arguments. Implements the calls that a shard makes."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, seen: dict[int, tuple[str, bytes]]) -> None:
        self.rank, self.size = rank, size
        self._barrier, self._seen = barrier, seen

    def all_reduce(self, x: np.ndarray, *, timeout_s: float) -> None:
        parts = self._exchange("reduce", x.tobytes(), timeout_s)
        x[:] = np.sum([np.frombuffer(part, np.float32) for part in parts], axis=0)

    def all_gather(self, part: bytes, out: list[bytearray], *, timeout_s: float) -> None:
        for target, source in zip(out, self._exchange("gather", bytes(part), timeout_s), strict=True):
            target[:] = source

    def _exchange(self, call: str, data: bytes, timeout_s: float) -> list[bytes]:
        self._seen[self.rank] = call, data
        try:
            self._barrier.wait(timeout_s)
            parts = [self._seen[rank] for rank in range(self.size)]
            self._barrier.wait(timeout_s)
        except threading.BrokenBarrierError:
            raise WorkerLost("a peer did not come") from None
        if {name for name, _ in parts} != {call}:
            raise RemoteProtocolError("a peer called something else")
        return [data for _, data in parts]


def run_threads(models: list[onnx.ModelProto], x: np.ndarray) -> list[object]:
    """What each shard returns or raises."""
    barrier, seen, ends = threading.Barrier(len(models)), {}, [None] * len(models)
    loaded = [load(model) for model in models]

    def run(rank: int) -> None:
        group = ThreadGroup(rank, len(models), barrier, seen)
        try:
            ends[rank] = GraphShard(loaded[rank], group, timeout_s=60.0).run({"x": x})
        except (InvalidRequest, WorkerLost, RemoteProtocolError) as error:
            ends[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100.0)
    return ends


def reshaping(width: int, *, after: bool = False) -> onnx.ModelProto:
    """y = the sum of x over the shards, reshaped to rows of `width` before or after."""
    reshape = ["Reshape", ["sum" if after else "x", "shape"], ["y" if after else "r"]]
    steps = [helper.make_node(*reshape), marker("AllReduce", "x" if after else "r", "sum" if after else "y")]
    return make_model(steps[::-1] if after else steps, {"shape": np.array([-1, width])})


def test_a_group_carries_out_the_collectives() -> None:
    x = RANDOM.standard_normal((3, 4), np.float32)
    for end in run_threads([reshaping(2), reshaping(2)], x):
        np.testing.assert_allclose(end["y"], 2 * x.reshape(-1, 2), rtol=1e-6)


@pytest.mark.parametrize("after", [False, True])
def test_what_no_shard_can_compute_is_the_requests_fault(after: bool) -> None:
    ends = run_threads([reshaping(5, after=after)] * 2, np.ones((1, 4), np.float32))
    assert [type(end) for end in ends] == [InvalidRequest] * 2


def test_a_shard_that_fails_alone_is_noticed_by_all() -> None:
    ends = run_threads([reshaping(5), reshaping(4)], np.ones((1, 4), np.float32))
    assert [type(end) for end in ends] == [RemoteProtocolError] * 2


def test_a_gathering_names_its_slices() -> None:
    gathering = cut_at_markers(perceptron(0)).markers[1]
    assert gathering == Gathering(source="r", result="hidden", axis=1, sizes=SIZES)
