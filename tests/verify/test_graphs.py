"""Plain ONNX Runtime as the reference that a split is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.executor.graph_in_process import InProcessGraphExecutor
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.cuts import cut_points
from shoal.router.graph_executor import Batch, BatchId
from shoal.verify.graphs import PlainRuntime, compare_outputs
from tests.model.graph.tensor_parallel.rank_runs import run_split
from tests.real_models import ocr_detector

_DOUBLER = """
    <ir_version: 9, opset_import: ["" : 17]>
    doubler (float[rows, 2] x) => (float[rows, 2] y) { y = Add(x, x) }
"""


@pytest.fixture
def doubler(tmp_path: Path) -> PlainRuntime:
    path = tmp_path / "doubler.onnx"
    onnx.save(onnx.parser.parse_model(_DOUBLER), path)
    return PlainRuntime(path, threads=1)


def test_plain_runtime_computes_the_whole_file(doubler: PlainRuntime) -> None:
    x = np.array([[1.0, 2.0]], np.float32)
    assert doubler.run({"x": x})["y"].tolist() == [[2.0, 4.0]]


def test_what_plain_runtime_refuses_is_an_invalid_request(doubler: PlainRuntime) -> None:
    with pytest.raises(InvalidRequest, match="plain ONNX Runtime"):
        doubler.run({"x": np.zeros((1, 3), np.float32)})


def test_a_refused_batch_fails_alone_in_an_executor(doubler: PlainRuntime) -> None:
    executor = InProcessGraphExecutor(doubler)
    for index, columns in enumerate((3, 2)):
        executor.submit(Batch(batch_id=BatchId(index), inputs={"x": np.ones((1, columns), np.float32)}))
    (refused,), (computed,) = executor.poll(), executor.poll()
    assert refused.error is not None
    assert refused.outputs == {}
    assert computed.error is None
    assert computed.outputs["y"].tolist() == [[2.0, 2.0]]


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot load .*missing\.onnx"):
        PlainRuntime(tmp_path / "missing.onnx", threads=1)


def test_outputs_agree_up_to_rounding_only() -> None:
    whole = {"y": np.array([1.0, -4.0], np.float32)}
    (equal,) = compare_outputs(whole, {"y": whole["y"].copy()})
    (rounded,) = compare_outputs(whole, {"y": np.array([1.0 + 1e-6, -4.0], np.float32)})
    (wrong,) = compare_outputs(whole, {"y": np.array([1.1, -4.0], np.float32)})
    assert equal.is_equal
    assert not rounded.is_equal
    assert rounded.agrees
    assert not wrong.agrees


def test_a_cut_is_judged_by_the_graphs_own_rounding() -> None:
    """A text detector on noise finds no text: its outputs are as small as the rounding of a sigmoid far from zero."""
    graph = open_graph(ocr_detector())
    x = {graph.inputs[0].name: np.random.default_rng(0).random((1, 3, 96, 128), np.float32)}
    cuts = cut_points(graph)
    split = run_split(graph, [cuts[len(cuts) // 2].node], (1,), x)
    whole = PlainRuntime(graph.path, threads=1).run(x)
    reordered = PlainRuntime(graph.path, threads=1, is_optimized=False).run(x)
    assert all(one.agrees for one in compare_outputs(whole, split, reordered))
