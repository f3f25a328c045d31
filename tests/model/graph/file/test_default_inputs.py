"""Initializers that are inputs too: given or not, in every split, a run is what plain ONNX Runtime makes of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array

import shoal
from shoal.errors import InvalidRequest
from shoal.model.graph.file.default_inputs import MAX_DEFAULT_BYTES, MAX_DEFAULTS
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.row_proof.proof import prove_rows
from shoal.model.graph.sample.batch_axes import guess_axes
from shoal.model.graph.sample.input_check import check_inputs
from tests.model.graph.graph_cases import HEADER, make_session
from tests.model.graph.tensor_parallel.rank_runs import run_split

CHANCE = np.random.default_rng(0)
TEXT = """g (float[N, 64] x, float[128] bias) => (float[N, 64] y) {
    h = MatMul(x, a)  k = Add(h, bias)  y = MatMul(k, b)
}"""
X = CHANCE.standard_normal((3, 64), np.float32)
FIVES = np.full(128, 5, np.float32)


def make(folder: Path, text: str = TEXT, header: str = HEADER, **weights: np.ndarray) -> GraphFile:
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(from_array(array, name) for name, array in weights.items())
    onnx.save(model, folder / "model.onnx")
    return open_graph(folder / "model.onnx")


def perceptron(folder: Path) -> GraphFile:
    a, b = (CHANCE.standard_normal(shape, np.float32) for shape in ((64, 128), (128, 64)))
    return make(folder, a=a, b=b, bias=np.ones(128, np.float32))


def run_plain(graph: GraphFile, given: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.asarray(make_session(graph.path, graph.folder).run(["y"], dict(given))[0])


@pytest.mark.parametrize("given", [{"x": X}, {"x": X, "bias": FIVES}], ids=["left out", "given"])
@pytest.mark.parametrize(
    ("boundaries", "shares"), [((), (1,)), ((1,), (1,)), ((2,), (1,)), ((), (1, 1)), ((1,), (2, 1))], ids=str
)
def test_every_split_computes_with_the_default_or_what_is_given(
    tmp_path: Path, given: Mapping[str, np.ndarray], boundaries: Sequence[int], shares: Sequence[int]
) -> None:
    graph = perceptron(tmp_path)
    arrays = check_inputs(graph.inputs, given, defaults=graph.defaults, convert=True)
    found = run_split(graph, boundaries, shares, arrays)["y"]
    np.testing.assert_allclose(found, run_plain(graph, given), rtol=0, atol=2e-3)


def test_a_loaded_model_takes_it_by_name_or_by_position_and_batches_rows(tmp_path: Path) -> None:
    graph = perceptron(tmp_path)
    with shoal.load(graph.path) as model:
        assert model.plan.batch.inputs == {"x": 0, "bias": None}
        for given in ({"x": X}, {"x": X, "bias": FIVES}):
            np.testing.assert_allclose(model(given)["y"], run_plain(graph, given), rtol=0, atol=2e-3)
        assert np.array_equal(model(X, FIVES)["y"], model({"x": X, "bias": FIVES})["y"])
        with pytest.raises(InvalidRequest, match=r"'bias' has shape \[3\]: expected float32 of shape \[128\]"):
            model(X, FIVES[:3])
        with pytest.raises(InvalidRequest, match="'x' is missing"):
            model({"bias": FIVES})


def test_what_may_be_given_is_not_believed_when_rows_are_proved(tmp_path: Path) -> None:
    text = "g (float[N, 4] x, int64[1] axes) => (float[N, 4] y) { s = ReduceSum<keepdims = 1>(x, axes) y = Sub(x, s) }"
    graph = make(tmp_path, text, axes=np.array([1]))
    assert prove_rows(graph, guess_axes(graph.inputs, graph.outputs, {})).reason is not None


def test_before_format_version_4_weights_had_to_be_listed_and_are_weights(tmp_path: Path) -> None:
    header = '<ir_version: 3, opset_import: ["" : 9]>'
    graph = make(tmp_path, "g (float[N] x, float[1] b) => (float[N] y) { y = Add(x, b) }", header, b=np.ones(1, "f"))
    assert [spec.name for spec in graph.inputs] == ["x"]
    assert not graph.defaults


def test_an_exporter_that_lists_all_weights_means_weights(tmp_path: Path) -> None:
    weights = {f"w{index}": np.ones(1, np.float32) for index in range(MAX_DEFAULTS + 1)}
    listed = ", ".join(f"float[1] {name}" for name in weights)
    many = make(tmp_path, f"g (float[N] x, {listed}) => (float[N] y) {{ y = Sum(x, {', '.join(weights)}) }}", **weights)
    assert [spec.name for spec in many.inputs] == ["x"]
    w = np.ones(MAX_DEFAULT_BYTES // 4 + 1, np.float32)
    large = make(tmp_path, f"g (float[N, {w.size}] x, float[{w.size}] w) => (float[N] y) {{ y = MatMul(x, w) }}", w=w)
    assert [spec.name for spec in large.inputs] == ["x"]


def test_text_and_external_data_can_be_defaults(tmp_path: Path) -> None:
    text = """g (string[N] x, string[1] tail, float[300] w) => (string[N] y, float[300] v) {
        y = StringConcat(x, tail)  v = Neg(w)
    }"""
    model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 20]>' + text)
    w = np.arange(300, dtype=np.float32)
    model.graph.initializer.extend([from_array(np.array(["é"], object), "tail"), from_array(w, "w")])
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="data", size_threshold=100)
    graph = open_graph(tmp_path / "model.onnx")
    assert graph.defaults["tail"].tolist() == ["é"]
    assert np.array_equal(graph.defaults["w"], w)
    with shoal.load(graph.path) as loaded:
        found = loaded({"x": np.array(["a", "b"], object)})
        assert found["y"].tolist() == ["aé", "bé"]
        assert np.array_equal(found["v"], -w)
