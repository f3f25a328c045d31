"""Drills of real servers: workers go and come back, and no request is lost; servers that allow none refuse."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shoal.arrays import Array
from shoal.bench.drill.inferences import made_up_inputs
from shoal.bench.drill.run import DrillPlan, run_drill
from shoal.errors import ConfigError, WorkerLost
from tests.executor.graphs import skip_chain
from tests.integration.served import served
from tests.model.tiny_models import make_tiny_gguf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny"))


def test_workers_go_and_come_back(tiny: Path) -> None:
    with served(tiny, "--split", "dp=2", "--allow-drill", "--api-key", "secret") as server:
        before = server.workers()
        told = []
        report = run_drill(server.url, DrillPlan(hows=("kill",)), api_key="secret", tell=told.append)
        after = server.workers()
        with pytest.raises(ConfigError, match="requires a key"):
            run_drill(server.url, api_key=None)
    assert [(row.target.replicas, row.how) for row in report.rows] == [((0,), "kill"), ((1,), "kill")]
    assert told == list(report.rows)
    assert (report.num_lost, report.first_error) == (0, None)
    assert report.num_requests >= 4
    assert len(after) == len(before) == 2
    assert not set(before) & set(after)
    assert all(row.seen_s > 0 and row.predicted_s > 0 for row in report.rows)


def test_a_graphs_workers_go_and_come_back(tmp_path: Path) -> None:
    path = skip_chain(tmp_path / "chain.onnx")
    with served(path, "--split", "pp=2", "--allow-drill") as server:
        before = server.workers()
        report = run_drill(server.url, DrillPlan(hows=("kill",), every=True))
        after = server.workers()
    assert [(row.target.worker, row.how) for row in report.rows] == [(0, "kill"), (1, "kill")]
    assert (report.num_lost, report.first_error) == (0, None)
    assert len(after) == len(before) == 2
    assert not set(before) & set(after)
    assert all(row.seen_s > 0 and row.predicted_s > 0 for row in report.rows)


def unlike_inputs(path: Path) -> Path:
    """A product of rows with a matrix that each request brings along."""
    x, w, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["N", 4]), ("w", [4, 3]), ("y", ["N", 3]))
    )
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [x, w], [y])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def test_inputs_whose_first_axes_differ_are_sent_whole(tmp_path: Path) -> None:
    given: dict[str, Array] = {"x": np.ones((2, 4), np.float32), "w": np.ones((4, 3), np.float32)}
    with served(unlike_inputs(tmp_path / "product.onnx"), "--split", "1", "--allow-drill") as server:
        for inputs in (None, given):
            report = run_drill(server.url, DrillPlan(hows=("kill",), inputs=inputs))
            assert len(report.rows) == 1
            assert (report.num_lost, report.first_error) == (0, None)


def test_rows_are_made_up_for_axes_of_any_length() -> None:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
    ]
    made = made_up_inputs({"inputs": inputs})
    assert {name: (array.shape, str(array.dtype)) for name, array in made.items()} == {
        "x": ((1, 3), "float32"),
        "ids": ((1, 1), "int64"),
    }
    with pytest.raises(ConfigError, match="give rows with --inputs"):
        made_up_inputs({"inputs": [{"name": "s", "datatype": "BYTES", "shape": [-1]}]})


def test_a_server_that_allows_none_refuses(tiny: Path) -> None:
    with served(tiny, "--split", "dp=2") as server, pytest.raises(ConfigError, match="start it with --allow-drill"):
        run_drill(server.url)


def test_nobody_there() -> None:
    with pytest.raises(WorkerLost, match="no server answers"):
        run_drill("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="not the address"):
        run_drill("nonsense")
