"""Inputs that are made up."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from shoal.core.plan.graph import BatchAxes
from shoal.errors import ConfigError, InvalidRequest
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.sample.input_check import check_inputs
from shoal.model.graph.sample.sample_inputs import sample_inputs
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.protocol.stage_interface import Dim, TensorSpec
from tests import real_models
from tests.model.graph.graph_cases import make_graph


def spec(name: str, dtype: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def test_every_kind_of_input_fits_its_spec() -> None:
    specs = [
        spec("tokens", "int64", "batch", "sequence"),
        spec("attention_mask", "int64", "batch", "sequence"),
        spec("token_type_ids", "int32", "batch", "sequence"),
        spec("pixels", "float16", "batch", 3, None, None),
        spec("flag", "bool"),
        spec("tiny", "int8"),
        spec("sr", "int64"),
        spec("text", "string", "batch"),
        spec("title", "string"),
        TensorSpec(name="unknown", dtype="bfloat16", shape=None),
    ]
    made = sample_inputs(specs, None, rows=2)
    checked = check_inputs(specs, made, convert=False)
    assert checked["tokens"].shape == (2, 32)
    assert checked["tokens"].min() > 0
    assert checked["attention_mask"].all()
    assert not checked["token_type_ids"].any()
    assert checked["sr"] == 16_000
    assert checked["pixels"].shape[:2] == (2, 3)


def test_the_same_every_time() -> None:
    specs = [spec("x", "float32", None, 4)]
    assert sample_inputs(specs, None)["x"].tobytes() == sample_inputs(specs, None)["x"].tobytes()


def test_rows_go_where_the_batch_is() -> None:
    axes = BatchAxes(inputs={"x": 1, "shared": None}, outputs={"y": 0}, rows=None)
    made = sample_inputs([spec("x", "float32", 2, None), spec("shared", "float32", None, 3)], None, rows=5, axes=axes)
    assert made["x"].shape == (2, 5)
    assert made["shared"].shape == (1, 3)


def test_sizes_are_tried_until_one_runs(tmp_path: Path) -> None:
    text = (
        "g (float[N, T] x) => (float[N, M] y) <int64[3] shape = {-1, 2, 256}> { r = Reshape(x, shape) y = Flatten(r) }"
    )
    graph = make_graph(tmp_path, text)
    stage = GraphStage(graph, stage_interfaces(graph, ())[0], threads=1)
    assert sample_inputs(graph.inputs, stage.run)["x"].size % 512 == 0


def test_ids_of_a_small_vocabulary(tmp_path: Path) -> None:
    text = "g (int64[N] x) => (float[N] y) <float[1] table = {3}> { y = Gather(table, x) }"
    graph = make_graph(tmp_path, text)
    stage = GraphStage(graph, stage_interfaces(graph, ())[0], threads=1)
    assert sample_inputs(graph.inputs, stage.run)["x"].tolist() == [0]


def test_nothing_is_tried_twice_and_the_first_reason_is_given() -> None:
    seen: list[bytes] = []

    def refuse(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        seen.append(tensors["x"].tobytes())
        raise InvalidRequest(f"reason {len(seen)}")

    with pytest.raises(ConfigError, match=r"reason 1\).*--inputs"):
        sample_inputs([spec("x", "int64", 4)], refuse)
    assert len(seen) == len(set(seen)) == 2


@pytest.mark.parametrize("model", ["ocr_detector", "ocr_recognizer", "ocr_classifier", "magika", "silero_vad"])
def test_real_models_run_on_them(model: str) -> None:
    graph = open_graph(getattr(real_models, model)())
    stage = GraphStage(graph, stage_interfaces(graph, ())[0], threads=1)
    made = sample_inputs(graph.inputs, stage.run)
    assert set(stage.run(made)) == {spec.name for spec in graph.outputs}
