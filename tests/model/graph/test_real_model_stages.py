"""Networks that people use: three stages give plain ONNX Runtime's numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.cuts import cut_points, stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from tests.model.graph.graph_cases import run_stages, run_whole
from tests.real_models import magika, ocr_classifier, ocr_detector, ocr_recognizer, silero_vad

ROUNDING = 1e-5
"""Of the largest value: a cut inside a group of nodes that ONNX Runtime would fuse changes the last bits."""
CHANCE = np.random.default_rng(0)
INPUTS = {
    ocr_classifier: {"x": CHANCE.random((2, 3, 48, 192), np.float32)},
    ocr_detector: {"x": CHANCE.random((1, 3, 96, 64), np.float32)},
    ocr_recognizer: {"x": CHANCE.random((2, 3, 48, 96), np.float32)},
    magika: {"bytes": CHANCE.integers(0, 256, (3, 2048), np.int32)},
    silero_vad: {
        "input": CHANCE.random((1, 576), np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000),
    },
}


@pytest.mark.parametrize("model", INPUTS, ids=lambda model: model.__name__)
def test_three_stages_are_the_whole_network(model: Callable[[], Path]) -> None:
    graph = open_graph(model())
    cuts = cut_points(graph)
    boundaries = [cuts[len(cuts) // 3].node, cuts[2 * len(cuts) // 3].node]
    found, expected = run_stages(graph, boundaries, INPUTS[model]), run_whole(graph, INPUTS[model])
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() <= ROUNDING * max(1, np.abs(values).max())


def test_weights_hidden_in_bodies_and_constants_count() -> None:
    """Silero's file has no initializers at all: its weights are constants inside `If` branches."""
    for model in (silero_vad, ocr_classifier):
        graph = open_graph(model())
        assert not graph.weights
        assert 0.7 < weight_bytes(graph, 0, graph.num_nodes) / graph.path.stat().st_size < 1


def test_the_classifier_sends_no_constants_over_its_cuts() -> None:
    """Its 308 constants lie between the 258 other nodes; only what depends on the image crosses."""
    graph = open_graph(ocr_classifier())
    assert len(cut_points(graph)) == len(graph.dataflow.active) - 1
    for stage in stage_interfaces(graph, [cut.node for cut in cut_points(graph)]):
        names = {value.spec.name for value in (*stage.inputs, *stage.outputs)}
        assert all(graph.dataflow.producer.get(name, -1) not in graph.dataflow.constant for name in names)
