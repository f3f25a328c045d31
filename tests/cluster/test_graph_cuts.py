"""Places to cut, with what crosses them."""

from __future__ import annotations

from pathlib import Path

from shoal.cluster.graph_cuts import cut_places
from shoal.model.graph.graph_file import open_graph
from shoal.model.graph.node_times import NodeTimes
from tests.cluster.graphs import skip_chain


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
