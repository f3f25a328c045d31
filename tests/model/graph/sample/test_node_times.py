"""Times of nodes. Which node they are charged to, not how long it takes."""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from shoal.errors import ConfigError
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.sample import node_times
from shoal.model.graph.sample.node_times import estimate_nodes, measure_nodes
from tests import real_models
from tests.model.graph.graph_cases import HEADER, make_graph

LAYERS = """g (float[N, 64] x) => (float[N, 64] y) {
    a = Exp(x) b = Tanh(a) c = Add(b, x) d = Erf(c) e = Cos(d) y = Sub(e, x) }"""
GELU = """g (float[N, 64] x) => (float[N, 64] y) <float root = {1.41421356}, float one = {1}, float half = {0.5}> {
    a = Exp(x) d = Div(a, root) e = Erf(d) s = Add(e, one) m = Mul(a, s) g = Mul(m, half) y = Tanh(g) }"""
BRANCH = """g (float[N, 64] x, bool[] flag) => (float[N, 64] y) {
    a = Exp(x)
    b = If(flag) <
        then_branch = t () => (float[N, 64] p) { p = Tanh(a) },
        else_branch = e () => (float[N, 64] q) { q = Neg(a) }>
    y = Sub(b, x) }"""


def x(rows: int = 64) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((rows, 64), np.float32)}


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def test_every_node_without_a_name_is_charged(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, LAYERS)
    assert not any(node.name for node in graph.model.graph.node)
    times = measure_nodes(graph, x(4096), threads=1)
    assert len(times.seconds) == graph.num_nodes
    assert all(seconds > 0 for seconds in times.seconds)
    assert not any(node.name for node in graph.model.graph.node)


def test_what_a_node_writes_is_known_in_bytes(tmp_path: Path) -> None:
    times = measure_nodes(make_graph(tmp_path, GELU), x(8), threads=1)
    exp, div, erf, add, mul, gelu, tanh = times.output_bytes
    assert div == erf == add == mul == 0
    assert exp == gelu == tanh == 8 * 64 * 4


def test_a_fusion_is_charged_to_the_node_that_it_ends_with(tmp_path: Path) -> None:
    times = measure_nodes(make_graph(tmp_path, GELU), x(8192), threads=1)
    exp, div, erf, add, mul, gelu, tanh = times.seconds
    assert div == erf == add == mul == 0
    assert min(exp, gelu, tanh) > 0
    assert {"a", "g"} <= times.kept_values
    assert not {"d", "e", "s", "m"} & times.kept_values


def test_a_body_belongs_to_its_node(tmp_path: Path) -> None:
    times = measure_nodes(make_graph(tmp_path, BRANCH), x(8192) | {"flag": np.array(True)}, threads=1)
    assert all(seconds > 0 for seconds in times.seconds)
    assert len(times.seconds) == 3


def test_nodes_in_another_layout_are_charged_by_the_value_that_they_are_named_after(tmp_path: Path) -> None:
    """Every Conv of the classifier takes time, itself or in one of the nodes behind it that it is fused with."""
    graph = open_graph(real_models.ocr_classifier())
    seconds = measure_nodes(graph, {"x": np.zeros((1, 3, 48, 192), np.float32)}, threads=1).seconds
    nodes = graph.model.graph.node
    writes = {name: index for index, node in enumerate(nodes) for name in node.output}
    convs = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(writes.get(name, -1), []).append(index)

    def is_charged(conv: int) -> bool:
        near = {conv}
        for _ in range(3):
            near |= {reader for index in near for reader in readers.get(index, [])}
        return any(seconds[index] > 0 for index in near)

    assert sum(map(is_charged, convs)) == len(convs)


def test_times_add_up_to_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = make_graph(tmp_path, LAYERS)
    events = [
        {"cat": "Session", "name": "model_run", "ts": run * 1000, "dur": 900} | {}
        for run in range(node_times._WARM_UP_RUNS + node_times._RUNS)
    ]
    for run in range(len(events)):
        start = run * 1000
        events += [
            {"cat": "Node", "name": "node 1_kernel_time", "ts": start + 1, "dur": 100 if run else 700},
            {"cat": "Node", "name": "node 1_kernel_time", "ts": start + 20, "dur": 30},  # inside the one before
            {"cat": "Node", "name": "node 2_kernel_time", "ts": start + 800, "dur": 50},
        ]
    monkeypatch.setattr(json, "loads", lambda _: events)
    seconds = measure_nodes(graph, x(), threads=1).seconds
    assert seconds == pytest.approx((0, 100e-6, 50e-6, 0, 0, 0))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, LAYERS)
    before = sorted(tmp_path.iterdir())
    measure_nodes(graph, x(), threads=1)
    assert sorted(tmp_path.iterdir()) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_inputs_that_do_not_run_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.onnx cannot be measured on these inputs: ") as caught:
        measure_nodes(make_graph(tmp_path, LAYERS), {"x": np.zeros((2, 63), np.float32)}, threads=1)
    assert "\n" not in str(caught.value)


def test_external_data_are_found(tmp_path: Path) -> None:
    text = "g (float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) y = Tanh(a) }"
    model = onnx.parser.parse_model(HEADER + text)
    weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    graph = open_graph(tmp_path / "model.onnx")
    assert all(seconds > 0 for seconds in measure_nodes(graph, x(4096), threads=1).seconds)


def test_estimates_go_by_arithmetic(tmp_path: Path) -> None:
    text = """g (float[2, 64] x) => (float[2, 8] y) {
        a = Tanh(x) t = Transpose(a) s = MatMul(t, a) b = MatMul(a, s) i = Identity(b)
        y = Slice(i, first, last, axis) }"""
    text = text.replace(" {\n", " <int64[1] first = {0}, int64[1] last = {8}, int64[1] axis = {1}> {\n", 1)
    seconds = estimate_nodes(make_graph(tmp_path, text))
    assert seconds[2] == seconds[3] > 0
    assert seconds[0] == seconds[1] == seconds[4] == 0
    assert len(set(estimate_nodes(make_graph(tmp_path, LAYERS)))) == 1
