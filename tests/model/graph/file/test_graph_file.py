"""Opening: what is read, and one clear line for every file that cannot run."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.helper import make_node

from shoal.errors import ModelLoadError
from shoal.model.graph.file.graph_file import open_graph
from shoal.protocol.stage_interface import TensorSpec
from tests.model.graph.graph_cases import HEADER, make_graph, save_graph

PLAIN = "g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}> { a = Add(x, w)  y = Relu(a) }"

_WHOLE = onnx.parser.parse_model(HEADER + PLAIN).SerializeToString()


def refusal(path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        open_graph(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_inputs_and_outputs_are_as_the_file_has_them(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "g (float[N,4] x, float[4] w, string[1] s) => (float[N,4] y) <float[4] w = {1,2,3,4}> { y = Add(x, w) }"
    )
    onnx.save(model, tmp_path / "model.onnx")
    graph = open_graph(tmp_path / "model.onnx")
    assert graph.inputs == (
        TensorSpec(name="x", dtype="float32", shape=("N", 4)),
        TensorSpec(name="w", dtype="float32", shape=(4,), is_optional=True),
        TensorSpec(name="s", dtype="string", shape=(1,)),
    )
    assert graph.defaults["w"].tolist() == [1, 2, 3, 4]
    assert graph.outputs == (TensorSpec(name="y", dtype="float32", shape=("N", 4)),)
    assert not graph.weights


def test_a_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent.onnx")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(100)])
def test_files_of_other_kinds(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert "is not an ONNX file" in refusal(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """Some cuts fall between two fields, where the rest still parses."""
    path = save_graph(tmp_path, PLAIN)
    content = path.read_bytes()
    for size in range(2, len(content)):
        path.write_bytes(content[:size])
        assert "truncated" in refusal(path), size


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("g (float[4] x) => (float[4] y) { y = Frobnicate(x) }", 'operator "Frobnicate" of domain "ai.onnx"'),
        ("g (float[4] x) => (float[4] y) { y = my.lib.Op(x) }", 'operator "Op" of domain "my.lib"'),
        ("g (float[4] x) => (float[4] y) { y = Gelu(x) }", "exists since operator set 20, but the model declares 17"),
        (
            """g (float[4] x, bool c) => (float[4] y) { y = If(c) <
                then_branch = a () => (float[4] t) { t = Inner(x) }, else_branch = b () => (float[4] e) { e = Abs(x) }
            > }""",
            'operator "Inner"',
        ),
        ("g (float[4] x) => (float[4] y) { a = Abs(x) }", None),
    ],
)
def test_unknown_operators_are_named(tmp_path: Path, text: str, named: str | None) -> None:
    path = save_graph(tmp_path, text)
    if named:
        assert named in refusal(path)
    else:
        assert open_graph(path).num_nodes == 1


def test_custom_domains_and_functions_that_can_run_are_fine(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1, "com.microsoft" : 1]>'
    text = """
    g (float[4] x) => (float[4] y) { a = com.microsoft.Gelu(x)  y = own.twice(a) }
    <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }
    """
    assert make_graph(tmp_path, text, header).num_nodes == 2


def test_an_unknown_operator_inside_a_function_is_named(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    text = """
    g (float[4] x) => (float[4] y) { y = own.odd(x) }
    <domain: "own", opset_import: ["" : 17]> odd (a) => (b) { b = Strange(a) }
    """
    assert 'operator "Strange"' in refusal(save_graph(tmp_path, text, header))


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ('<ir_version: 8, opset_import: ["" : 6]>', "operator set 6"),
        ('<ir_version: 8, opset_import: ["" : 999]>', "newer than ONNX Runtime"),
        ('<ir_version: 99, opset_import: ["" : 17]>', "newer than ONNX Runtime"),
    ],
)
def test_versions_that_cannot_run(tmp_path: Path, header: str, named: str) -> None:
    assert named in refusal(save_graph(tmp_path, PLAIN, header))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("g (float[4] x) => (seq(float[4]) y) { y = SequenceConstruct(x, x) }", "output 'y' is a sequence"),
        ("g (seq(float[4]) x) => (float[4] y) <int64 i = {0}> { y = SequenceAt(x, i) }", "input 'x' is a sequence"),
        ("g (optional(float[4]) x) => (bool y) { y = OptionalHasElement(x) }", "input 'x' is optional"),
        ("g (float[4] x) => () { y = Abs(x) }", "no outputs"),
        ("g (float[4] x) => (float[4] y) { y = Add(x, nowhere) }", "reads 'nowhere'"),
    ],
)
def test_graphs_that_cannot_be_served(tmp_path: Path, text: str, named: str) -> None:
    assert named in refusal(save_graph(tmp_path, text))


def test_an_output_without_a_type_is_inferred(tmp_path: Path) -> None:
    model = onnx.load(save_graph(tmp_path, PLAIN))
    model.graph.output[0].ClearField("type")
    onnx.save(model, tmp_path / "model.onnx")
    assert open_graph(tmp_path / "model.onnx").outputs == (TensorSpec(name="y", dtype="float32", shape=("N", 4)),)


def test_unnamed_dims_are_unknown_and_not_equal_to_each_other(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [-1, "?", "?", 0, "N", None])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([make_node("Abs", ["x"], ["y"])], "g", [value], [out])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    opened = open_graph(tmp_path / "m.onnx")
    assert opened.inputs[0].shape == (None, None, None, 0, "N", None)
    assert opened.outputs[0].shape is None


def test_half_precision_names(tmp_path: Path) -> None:
    text = "g (float16[2] a, bfloat16[2] b) => (float16[2] c, float[2] d) { c = Abs(a)  d = Cast <to = 1> (b) }"
    assert [spec.dtype for spec in make_graph(tmp_path, text).inputs] == ["float16", "bfloat16"]
    assert np.dtype("bfloat16").itemsize == 2


@pytest.mark.parametrize(("element", "dims"), [(999, [1]), (0, [1]), (1, [-1]), (1, [1 << 40, 1 << 40])])
@pytest.mark.parametrize("where", ["initializer", "constant", "function", "sparse"])
def test_tensors_that_cannot_be_are_named(tmp_path: Path, where: str, element: int, dims: list[int]) -> None:
    model = onnx.parser.parse_model(HEADER + "g (float[N] x) => (float[N] y) { y = Neg(x) }")
    tensor = onnx.TensorProto(name="w", data_type=element, dims=dims)
    constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    match where:
        case "initializer":
            model.graph.initializer.append(tensor)
        case "constant":
            model.graph.node.append(constant)
        case "function":
            opsets = [onnx.helper.make_opsetid("", 17)]
            model.functions.append(onnx.helper.make_function("own", "f", [], ["w"], [constant], opsets))
        case _:
            model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, dims=[4]))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert "weight 'w' has the " in refusal(tmp_path / "model.onnx")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    assert "not a regular file" in refusal(tmp_path / "model.onnx")


def test_a_file_that_no_onnx_file_can_be_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(1 << 40)
    assert "2 GiB" in refusal(tmp_path / "model.onnx")


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10_000), change=st.binary(min_size=1, max_size=4))
def test_a_damaged_file_is_opened_or_refused(place: int, change: bytes) -> None:
    content = bytearray(_WHOLE)
    place %= len(content)
    content[place : place + len(change)] = change
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        path.write_bytes(content)
        with suppress(ModelLoadError):
            _ = open_graph(path).value_specs
