"""Stages in ONNX Runtime sessions."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.protocol.stage_interface import StageInput, StageInterface, StageOutput
from tests.model.graph.graph_cases import make_graph

ADD = "g (float[N] a, float[N] b) => (float[N] y) { s = Add(a, b) y = Neg(s) }"


def whole(graph: GraphFile) -> GraphStage:
    return GraphStage(graph, stage_interfaces(graph, ())[0], threads=1)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_stages_one_after_the_other_are_the_whole(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, ADD)
    first, second = (GraphStage(graph, stage, threads=1) for stage in stage_interfaces(graph, (1,)))
    between = first.run({"a": ones(3), "b": ones(3)})
    assert list(between) == ["s"]
    assert second.run(between)["y"].tolist() == [-2.0, -2.0, -2.0]
    assert whole(graph).run({"a": ones(3), "b": ones(3)})["y"].tolist() == [-2.0, -2.0, -2.0]


def test_what_cannot_be_run_is_one_line_without_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage = whole(make_graph(tmp_path, ADD))
    with pytest.raises(InvalidRequest, match=r"^Non-zero status code .* 3 by 4$") as caught:
        stage.run({"a": ones(3), "b": ones(4)})
    assert "onnxruntime" not in str(caught.value)
    assert stage.run({"a": ones(1), "b": ones(1)})["y"].tolist() == [-2.0]
    assert capfd.readouterr() == ("", "")


def test_an_input_that_nothing_reads_is_not_needed(tmp_path: Path) -> None:
    stage = whole(make_graph(tmp_path, "g (float[N] x, float[N] unread) => (float[N] y) { y = Neg(x) }"))
    assert stage.run({"x": ones(1)})["y"].tolist() == [-1.0]
    assert stage.run({"x": ones(1), "unread": ones(1)})["y"].tolist() == [-1.0]


@pytest.mark.parametrize("boundaries", [(), (1,)])
def test_bfloat16_goes_in_and_comes_out(tmp_path: Path, boundaries: tuple[int, ...]) -> None:
    nodes = "{ h = Identity(x) y = Identity(h) z = Cast<to=1>(h) }"
    graph = make_graph(tmp_path, f"g (bfloat16[N, 2] x) => (bfloat16[N, 2] y, float[N, 2] z) {nodes}")
    x = np.array([[1.5, -2.0], [0.25, 96.0]], ml_dtypes.bfloat16)
    values = {"x": x}
    for stage in stage_interfaces(graph, boundaries):
        values |= GraphStage(graph, stage, threads=1).run(values)
    assert values["y"].dtype == x.dtype
    assert values["y"].tolist() == x.tolist() == values["z"].tolist()
    values["y"][0, 0] = 0


def test_float16_and_strings(tmp_path: Path) -> None:
    text = "g (float16[N] x, string[N] t) => (float16[N] y, string[N] u) { y = Neg(x) u = Identity(t) }"
    outputs = whole(make_graph(tmp_path, text)).run(
        {"x": np.array([1.5], np.float16), "t": np.array(["naïve", ""], dtype=object)}
    )
    assert outputs["y"].dtype == np.float16
    assert outputs["y"].tolist() == [-1.5]
    assert outputs["u"].tolist() == ["naïve", ""]


def test_a_stage_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, ADD)
    first, _ = stage_interfaces(graph, (1,))
    wrong = StageInterface(
        first_node=0,
        last_node=1,
        inputs=tuple(StageInput(spec=spec, source=-1) for spec in (graph.inputs[0],)),
        outputs=(StageOutput(spec=first.outputs[0].spec, consumers=(1,)),),
    )
    with pytest.raises(ModelLoadError, match=r"model\.onnx: ONNX Runtime cannot load it: .*\bb\b") as caught:
        GraphStage(graph, wrong, threads=1)
    assert "\n" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


def test_weights_of_a_stage(tmp_path: Path) -> None:
    graph = make_graph(
        tmp_path, "g (float[N] x) => (float[N] y) <float[4] w = {1, 2, 3, 4}> { h = Add(x, w) y = Neg(h) }"
    )
    first, second = (GraphStage(graph, stage, threads=1) for stage in stage_interfaces(graph, (1,)))
    assert (first.weight_bytes, second.weight_bytes) == (16, 0)
