"""Places to cut, with what crosses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from shoal.measure.graph.cuts import cut_places
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.sample.node_times import NodeTimes, measure_nodes
from shoal.planner.graph_cut import cut_stages
from shoal.verify.graphs import PlainRuntime, compare_outputs
from tests.executor.graphs import skip_chain
from tests.model.graph.graph_cases import HEADER
from tests.model.graph.tensor_parallel.rank_runs import run_split


def test_bytes_are_those_of_the_sample_run_where_there_was_one(tmp_path: Path) -> None:
    """`first` crosses every cut behind the first layer, beside that cut's own tensor."""
    graph = open_graph(skip_chain(tmp_path / "chain.onnx", depth=2))
    assert [(place.node, place.num_bytes, place.breaks_fusion) for place in cut_places(graph, None)] == [
        (1, 32, False),
        (2, 32, False),
        (3, 64, False),
        (4, 64, False),
    ]
    times = NodeTimes(seconds=(1.0,) * 5, kept_values=frozenset({"first", "m1"}), output_bytes=(0, 3200, 3200, 6400, 1))
    assert [(place.node, place.num_bytes, place.breaks_fusion) for place in cut_places(graph, times)] == [
        (1, 32, True),
        (2, 3200, False),
        (3, 6400, False),
        (4, 9600, True),
    ]


def test_quantized_groups_are_not_cut_where_there_is_another_place(tmp_path: Path) -> None:
    """Of QuantizeLinear, DequantizeLinear, MatMul and so on, ONNX Runtime makes one operator on whole numbers."""
    text = """g (float[N,16] x) => (float[N,16] y) <float s = {0.05}, int8 z = {0}, float s2 = {0.2}> {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  w = DequantizeLinear(w8, s, z)
        a = MatMul(d, w)  q2 = QuantizeLinear(a, s2, z)  d2 = DequantizeLinear(q2, s2, z)
        b = Relu(d2)  y = MatMul(b, w)
    }"""
    model = onnx.parser.parse_model(HEADER + text)
    random = np.random.default_rng(0)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(random.integers(-60, 61, (16, 16)).astype(np.int8), "w8")
    )
    onnx.save(model, tmp_path / "model.onnx")
    graph = open_graph(tmp_path / "model.onnx")
    assert all(place.is_quantized for place in cut_places(graph, None))
    assert [place.node for place in cut_places(graph, None) if not place.breaks_fusion] == [1, 5, 7]
    x = {"x": random.standard_normal((64, 16)).astype(np.float32)}
    times = measure_nodes(graph, x, threads=1)
    whole = [place.node for place in cut_places(graph, times) if not place.breaks_fusion]
    assert whole
    assert cut_stages([1.0] * graph.num_nodes, cut_places(graph, times), 2)[0] in whole
    plain = PlainRuntime(graph.path, threads=1)
    reordered = PlainRuntime(graph.path, threads=1, is_optimized=False)
    for node in whole:
        split = run_split(graph, [node], (1,), x)
        assert all(one.agrees for one in compare_outputs(plain.run(x), split, reordered.run(x)))
