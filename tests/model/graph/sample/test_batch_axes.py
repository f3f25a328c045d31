"""Where the rows are: guessed, named, and confirmed by running."""

from pathlib import Path

import numpy as np
import pytest

from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.sample.batch_axes import guess_axes, take
from shoal.model.graph.sample.batch_decision import BatchDecision, decide_batch
from shoal.model.graph.sample.sample_inputs import sample_inputs
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from tests import real_models
from tests.model.graph.graph_cases import make_graph


def decide(graph: GraphFile, **named: int | None) -> BatchDecision:
    stage = GraphStage(graph, stage_interfaces(graph, ())[0], threads=1)
    guess = guess_axes(graph.inputs, graph.outputs, named)
    return decide_batch(graph, guess, named, stage.run, sample_inputs(graph.inputs, stage.run, axes=guess))


def find(graph: GraphFile, **named: int | None) -> BatchAxes:
    return decide(graph, **named).axes


def axes(
    tmp_path: Path, text: str, **named: int | None
) -> tuple[dict[str, int | None], dict[str, int | None], int | None]:
    found = find(make_graph(tmp_path, text), **named)
    return dict(found.inputs), dict(found.outputs), found.rows


NONE = ({"x": None}, {"y": None}, None)
MIXING = "g (float[N, 4] x) => (float[N, 4] y) { y = Softmax<axis=0>(x) }"


def test_the_first_open_dimension(tmp_path: Path) -> None:
    assert axes(tmp_path, "g (float[N, 4] x) => (float[M, 4] y) { y = Relu(x) }") == ({"x": 0}, {"y": 0}, None)


def test_an_output_may_have_its_rows_elsewhere(tmp_path: Path) -> None:
    text = "g (float[N, 4] x) => (float[4, N] y) { y = Transpose(x) }"
    assert axes(tmp_path, text) == ({"x": 0}, {"y": 1}, None)


def test_several_entries_a_row(tmp_path: Path) -> None:
    text = "g (float[N, 4] x) => (float[M] y) <int64[1] shape = {-1}> { y = Reshape(x, shape) }"
    assert axes(tmp_path, text) == ({"x": 0}, {"y": 0}, None)


def test_a_symbol_that_says_batch_is_found_anywhere(tmp_path: Path) -> None:
    text = """g (float[time, batch, 4] x, float scale) => (float[M, N, 4] y) <int64 zero = {0}> {
        s = Mul(x, scale) y = CumSum(s, zero) }"""
    assert axes(tmp_path, text) == ({"x": 1, "scale": None}, {"y": 1}, None)


@pytest.mark.parametrize(
    "text",
    [
        MIXING,
        "g (float[N, 4] x) => (float[N, 4] y) { m = ReduceMean<axes=[0]>(x) y = Sub(x, m) }",
        "g (float[N, 4] x) => (float[4] y) { y = ReduceSum(x) }",
        "g (float[N, 4] x) => (float[N, N] y) { t = Transpose(x) y = MatMul(x, t) }",
        "g (float[N, 4] x) => (float[N, 4] y) { n = LpNormalization(x) m = ReduceMean<axes=[0]>(n) y = Sub(n, m) }",
    ],
)
def test_rows_that_see_each_other_are_no_batch(tmp_path: Path, text: str) -> None:
    assert axes(tmp_path, text) == NONE


def test_a_fixed_batch(tmp_path: Path) -> None:
    text = "g (float[3, 4] x, float[3] b) => (float[4, 3] y) { t = Transpose(x) y = Add(t, b) }"
    assert axes(tmp_path, text) == ({"x": 0, "b": 0}, {"y": 1}, 3)
    assert axes(tmp_path, MIXING.replace("N", "3")) == NONE
    assert axes(tmp_path, MIXING.replace("N", "1")) == ({"x": 0}, {"y": 0}, 1)


def test_what_the_user_names_goes_first(tmp_path: Path) -> None:
    text = "g (float[A, B] x) => (float[A, B] y) { y = Softmax<axis=0>(x) }"
    assert axes(tmp_path, text) == NONE
    assert axes(tmp_path, text, x=1) == ({"x": 1}, {"y": 1}, None)
    assert axes(tmp_path, text, x=-1, y=-1) == ({"x": 1}, {"y": 1}, None)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"z": 0}, "no input or output 'z'"),
        ({"x": 2}, "'x' has 2 dimensions; give an axis from 0 to 1"),
        ({"x": 0}, "rows of output 'y' depend on the other rows"),
        ({"y": 1}, r"'y' has|output 'y'"),
    ],
)
def test_a_name_that_cannot_be(tmp_path: Path, named: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        axes(tmp_path, MIXING, **named)


def test_a_named_axis_may_sway_its_rows_a_little(tmp_path: Path) -> None:
    """As integers whose scale is found over the whole batch do."""
    text = "g (float[N, 8] x) => (float[N, 8] y) { q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }"
    assert axes(tmp_path, text) == NONE
    assert axes(tmp_path, text, x=0) == ({"x": 0}, {"y": 0}, None)


def test_an_input_without_rows_can_be_named(tmp_path: Path) -> None:
    text = "g (float[N, 4] x, float[N, 4] z) => (float[M, 4] y) { m = ReduceMean<axes = [0]>(z) y = Add(x, m) }"
    assert axes(tmp_path, text) == ({"x": None, "z": None}, {"y": None}, None)
    assert axes(tmp_path, text, z=None) == ({"x": 0, "z": None}, {"y": 0}, None)
    with pytest.raises(ConfigError, match="an output of a batch has rows"):
        axes(tmp_path, text, y=None)


def test_why_there_is_no_batch_is_said(tmp_path: Path) -> None:
    note = decide(make_graph(tmp_path, MIXING)).note
    assert note is not None
    assert "Softmax takes all rows together (node 'y')" in note
    assert "--batch-dim" in note


def test_without_a_session_the_proof_decides(tmp_path: Path) -> None:
    """As where memory holds the replicas, but not one graph more to measure with."""
    graph = make_graph(tmp_path, "g (float[N, 4] x) => (float[4, N] y) { y = Transpose(x) }")
    guess = guess_axes(graph.inputs, graph.outputs, {})
    assert decide_batch(graph, guess, {}, None, {}).axes.outputs == {"y": 1}


def test_take_cuts_what_has_rows() -> None:
    inputs = {"x": np.arange(6).reshape(2, 3), "shared": np.arange(3)}
    taken = take(inputs, BatchAxes(inputs={"x": 1, "shared": None}, outputs={}, rows=None), [2, 0])
    assert taken["x"].tolist() == [[2, 0], [5, 3]]
    assert taken["shared"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("model", ["ocr_recognizer", "ocr_classifier", "magika"])
def test_real_models_tell_by_themselves(model: str) -> None:
    found = find(open_graph(getattr(real_models, model)()))
    assert set(found.inputs.values()) == set(found.outputs.values()) == {0}
    assert found.rows is None


def test_silero_has_to_be_told() -> None:
    graph = open_graph(real_models.silero_vad())
    assert not find(graph).is_batched
    found = find(graph, state=1)
    assert found.inputs == {"input": 0, "state": 1, "sr": None}
    assert found.outputs == {"output": 0, "stateN": 1}
    fixed = find(open_graph(real_models.silero_vad().with_name("silero_vad_openvino_16k.onnx")), state=1)
    assert (fixed.rows, dict(fixed.outputs)) == (1, {"output": 0, "stateN": 1})
