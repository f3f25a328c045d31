"""A stage's model holds what the stage needs and nothing else; weights are counted wherever they hide."""

from pathlib import Path

import numpy as np
import onnx

from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.stage_model import extract_stage, weight_bytes
from tests.model.graph.graph_cases import make_graph, make_session

SHARED = """
g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}, float[4] late = {1,2,3,4}, float[4] unused = {1,2,3,4}> {
    big = Constant <value = float[4] {5,6,7,8}> ()
    k = Mul(big, w)
    a = Add(x, k)
    b = Mul(a, w)
    c = Abs(b)
    d = Add(c, w)
    y = Sub(d, late)
}
"""


def models(graph: GraphFile, boundaries: list[int]) -> list[onnx.ModelProto]:
    return [
        extract_stage(graph, stage.first_node, stage.last_node, stage.inputs, stage.outputs)
        for stage in stage_interfaces(graph, boundaries)
    ]


def test_only_the_needed_weights_and_constants_come_along(tmp_path: Path) -> None:
    first, last = models(make_graph(tmp_path, SHARED), [5])
    assert [node.op_type for node in first.graph.node] == ["Constant", "Mul", "Add", "Mul", "Abs"]
    assert [tensor.name for tensor in first.graph.initializer] == ["w"]
    assert [node.op_type for node in last.graph.node] == ["Add", "Sub"]
    assert {tensor.name for tensor in last.graph.initializer} == {"w", "late"}


def test_shared_weights_count_once_in_every_stage_that_uses_them(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, SHARED)
    assert weight_bytes(graph, 0, 5) == 16 + 16, "w, though read twice, and the constant"
    assert weight_bytes(graph, 5, 7) == 16 + 16, "w again, and late"
    assert weight_bytes(graph, 0, 7) == 48, "the unused weight is not loaded"


def test_inputs_have_the_inferred_type_and_outputs_no_shape_that_could_be_stale(tmp_path: Path) -> None:
    first, last = models(make_graph(tmp_path, SHARED), [5])
    dims = last.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 4]
    assert not first.graph.output[0].type.tensor_type.HasField("shape")
    assert make_session(first, tmp_path).get_outputs()[0].shape == ["N", 4]


def test_versions_and_metadata_are_kept(tmp_path: Path) -> None:
    header = '<ir_version: 7, opset_import: ["" : 15, "com.microsoft" : 1], metadata_props: ["k" : "v"]>'
    _, last = models(make_graph(tmp_path, SHARED, header), [5])
    assert last.ir_version == 7
    assert {opset.domain: opset.version for opset in last.opset_import} == {"": 15, "com.microsoft": 1}
    assert last.metadata_props[0].value == "v"


def test_replaceable_weights_stay_replaceable(tmp_path: Path) -> None:
    """Else a stage would be optimized where the whole file is not."""
    text = "g (float[N,4] x, float[4] w) => (float[N,4] y) <float[4] w = {1,2,3,4}> { a = Abs(x)  y = Mul(a, w) }"
    first, last = models(make_graph(tmp_path, text), [1])
    assert [value.name for value in first.graph.input] == ["x"]
    assert [value.name for value in last.graph.input] == ["a", "w"]


def test_weights_inside_bodies_and_functions_count(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    text = """
    g (float[N,4] x, bool c) => (float[N,4] y) <float[4] w = {1,2,3,4}> {
        a = own.shift(x)
        b = own.shift(a)
        y = If(c) <
            then_branch = p () => (float[N,4] t) <float[4] k = {1,2,3,4}> { l = Add(b, k)  t = Add(l, w) },
            else_branch = q () => (float[N,4] e) { z = Constant <value = float[2] {0,1}> ()  e = Pad(b, s, z) }
        >
    }
    <domain: "own", opset_import: ["" : 17]> shift (a) => (b) { k = Constant <value = float[1] {3}> ()  b = Add(a, k) }
    """.replace("e = Pad(b, s, z)", "e = Identity(b)")
    graph = make_graph(tmp_path, text, header)
    assert weight_bytes(graph, 0, 2) == 4, "the function's constant, though called twice"
    assert weight_bytes(graph, 2, 3) == 16 + 16 + 8


def test_sizes_by_type(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, "g (float[N] x) => (float[N] y) { y = Abs(x) }")
    sizes = {"FLOAT": 28, "INT4": 4, "UINT2": 2, "BFLOAT16": 14, "BOOL": 7, "DOUBLE": 56, "COMPLEX128": 112}
    for kind, size in sizes.items():
        tensor = onnx.TensorProto(name="x", data_type=onnx.TensorProto.DataType.Value(kind), dims=[7])
        del graph.model.graph.node[:]
        graph.model.graph.node.append(onnx.helper.make_node("Constant", [], ["y"], value=tensor))
        assert weight_bytes(graph, 0, 1) == size, kind


def test_trees_hold_their_weights_in_attributes(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'
    text = """g (float[N,2] x) => (float[N,2] y) {
        a = ai.onnx.ml.Scaler <offset = [1.0, 2.0], scale = [1.0, 2.0]> (x)
        y = Abs(a)
    }"""
    assert weight_bytes(make_graph(tmp_path, text, header), 0, 1) == 16


def test_sparse_weights_come_along_and_count(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { a = Abs(x)  y = Mul(a, s) }'
    )
    values = onnx.numpy_helper.from_array(np.array([3], np.float32), "s")
    indices = onnx.numpy_helper.from_array(np.array([2]), "i")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))
    onnx.save(model, tmp_path / "sparse.onnx")
    graph = open_graph(tmp_path / "sparse.onnx")
    first, last = models(graph, [1])
    assert (len(first.graph.sparse_initializer), len(last.graph.sparse_initializer)) == (0, 1)
    assert weight_bytes(graph, 1, 2) == 4 + 8
    result = make_session(last, tmp_path).run(None, {"a": np.ones((1, 4), np.float32)})
    np.testing.assert_array_equal(result[0], [[0, 0, 3, 0]])
