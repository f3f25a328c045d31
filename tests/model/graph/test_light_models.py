"""Well-known networks at full depth (their weights are constants that the graph fills in): any split, the same numbers.

Source: the `light_*` models of the onnx package; operator set 9 and format version 3, with weights listed as inputs.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.cuts import cut_points, stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from tests.model.graph.graph_cases import assert_same, run_stages, run_whole

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = ["bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet"]
ROUNDING = 1e-5
"""A cut inside a group of nodes that ONNX Runtime would fuse changes the last bits."""


@pytest.mark.parametrize("name", NAMES)
def test_three_stages_are_the_whole_network(name: str) -> None:
    graph = open_graph(FOLDER / f"light_{name}.onnx")
    [image] = graph.inputs
    assert image.shape == (1, 3, 224, 224), "weights that are inputs too are not asked for"
    cuts = cut_points(graph)
    assert len(cuts) == len(graph.dataflow.active) - 1, "nothing in these networks forbids a cut"
    x = {image.name: np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}
    boundaries = [cuts[len(cuts) // 3].node, cuts[2 * len(cuts) // 3].node]
    assert_same(run_stages(graph, boundaries, x), run_whole(graph, x), rtol=ROUNDING)
    parts = [weight_bytes(graph, stage.first_node, stage.last_node) for stage in stage_interfaces(graph, boundaries)]
    assert sum(parts) >= weight_bytes(graph, 0, graph.num_nodes) > max(parts)
