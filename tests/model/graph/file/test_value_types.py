"""Types of inner values: ONNX's inference, ONNX Runtime's where that ends, the file's word last."""

from pathlib import Path

import onnx
import pytest

from shoal.model.graph.file.value_types import ELEMENT_TYPES, infer_specs, tensor_spec, value_info
from shoal.protocol.stage_interface import TensorSpec
from tests.model.graph.graph_cases import make_graph, save_graph

MICROSOFT = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'


def test_symbolic_dims_follow_through(tmp_path: Path) -> None:
    text = """
    g (float[N,T,8] x, float[8,4] w) => (float[A,B,C] y) <int64[3] s = {0, 0, 4}> {
        a = MatMul(x, w)
        b = Transpose <perm = [1,0,2]> (a)
        y = Reshape(b, s)
    }
    """
    specs = make_graph(tmp_path, text).value_specs
    assert specs["a"] == TensorSpec(name="a", dtype="float32", shape=("N", "T", 4))
    assert specs["b"].shape == ("T", "N", 4)
    assert specs["y"].shape == ("T", "N", 4), "inference tells more than the file's own names"


def test_a_shape_computed_from_the_input_is_followed(tmp_path: Path) -> None:
    text = """
    g (float[N,6] x) => (float[A,B] y) <int64[1] first = {0}, int64[1] rest = {3}, int64 axis = {0}> {
        shape = Shape(x)
        n = Gather(shape, first)
        target = Concat <axis = 0> (n, rest)
        half = Slice(x, first, rest, first)
        r = Reshape(half, target)
        y = Relu(r)
    }
    """
    assert make_graph(tmp_path, text).value_specs["r"].shape == ("N", 3)


def test_operators_that_onnx_does_not_know_are_left_to_the_runtime(tmp_path: Path) -> None:
    text = "g (float16[N,4] x) => (float16[N,4] y) { a = com.microsoft.Gelu(x)  b = Neg(a)  y = Abs(b) }"
    specs = make_graph(tmp_path, text, MICROSOFT).value_specs
    assert specs["b"] == TensorSpec(name="b", dtype="float16", shape=("N", 4))


def test_stale_shapes_in_the_file_do_not_count(tmp_path: Path) -> None:
    """The usual way to a dynamic batch is to edit the input and leave the rest."""
    model = onnx.load(save_graph(tmp_path, "g (float[N,4] x) => (float[N,4] y) { a = Abs(x)  y = Neg(a) }"))
    model.graph.value_info.append(value_info(TensorSpec(name="a", dtype="float32", shape=(1, 4))))
    assert infer_specs(model, tmp_path)["a"].shape == ("N", 4)


def test_the_files_word_is_taken_for_type_and_rank_where_nothing_else_is_known(tmp_path: Path) -> None:
    text = "g (float[A] x, int64[R] s) => (float[B] y) { a = Reshape(x, s)  y = Neg(a) }"
    model = onnx.load(save_graph(tmp_path, text))
    assert infer_specs(model, tmp_path)["a"].shape is None
    model.graph.value_info.append(value_info(TensorSpec(name="a", dtype="float32", shape=(1, 4))))
    assert infer_specs(model, tmp_path)["a"].shape == (None, None)


def test_values_that_are_no_tensors_are_absent(tmp_path: Path) -> None:
    text = """
    g (float[4] x) => (float[4] y) <int64 zero = {0}> {
        s = SequenceConstruct(x, x)
        o = Optional(x)
        a = SequenceAt(s, zero)
        b = OptionalGetElement(o)
        y = Add(a, b)
    }
    """
    specs = make_graph(tmp_path, text).value_specs
    assert {"s", "o"}.isdisjoint(specs)
    assert specs["a"].dtype == "float32"


def test_large_weights_and_constants_keep_their_types(tmp_path: Path) -> None:
    """They are taken out of what inference is given."""
    model = onnx.load(save_graph(tmp_path, "g (float[N,400] x) => (float[N,M] y) { a = MatMul(x, w)  y = Abs(a) }"))
    big = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, [400, 3], bytes(4 * 1200), raw=True)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=big))
    assert infer_specs(model, tmp_path)["a"].shape == ("N", 3)


@pytest.mark.parametrize("dtype", sorted(ELEMENT_TYPES))
def test_every_type_has_a_way_there_and_back(dtype: str) -> None:
    spec = TensorSpec(name="t", dtype=dtype, shape=("N", 3, None))
    assert tensor_spec(value_info(spec)) == spec
    unranked = TensorSpec(name="t", dtype=dtype, shape=None)
    assert tensor_spec(value_info(unranked)) == unranked
