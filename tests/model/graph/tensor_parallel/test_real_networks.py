"""Networks that people use, on two and three ranks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shoal.model.graph.file.graph_file import open_graph
from tests.model.graph.graph_cases import run_whole
from tests.model.graph.tensor_parallel.rank_runs import assert_close, run_ranks
from tests.real_models import magika, ocr_classifier, ocr_detector, ocr_recognizer, silero_vad

ROUNDING = 1e-4
"""Of the largest value, or of 1 where all are smaller: 30 sums in another order one after the other."""
CHANCE = np.random.default_rng(0)
INPUTS = {
    ocr_classifier: {"x": CHANCE.random((2, 3, 48, 192), np.float32)},
    ocr_detector: {"x": CHANCE.random((1, 3, 96, 64), np.float32)},
    ocr_recognizer: {"x": CHANCE.random((2, 3, 48, 96), np.float32)},
    magika: {"bytes": CHANCE.integers(0, 256, (3, 2048), np.int32)},
}


@pytest.mark.parametrize("model", INPUTS, ids=lambda model: model.__name__)
def test_ranks_give_the_whole_network(model: Callable[[], Path]) -> None:
    graph = open_graph(model())
    expected = run_whole(graph, INPUTS[model])
    for shares in ((2, 1), (1, 1, 1)):
        found, report = run_ranks(graph, shares, INPUTS[model])
        assert_close(found, expected, ROUNDING)
        assert report.split_flops > 0.98 * report.flops
        assert report.split_weight_bytes > 0.95 * report.weight_bytes


def test_a_network_inside_the_branches_of_an_if_stays_whole() -> None:
    graph = open_graph(silero_vad())
    arrays = {
        "input": CHANCE.random((1, 576), np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000),
    }
    found, report = run_ranks(graph, (1, 1), arrays)
    assert_close(found, run_whole(graph, arrays), 0)
    assert report.split_flops == report.num_sums == report.num_gathers == 0


def test_the_sentence_encoder_takes_two_sums_a_layer(minilm: Path) -> None:
    """Word embeddings are half of its weights; they are only looked up, so every rank keeps them."""
    graph = open_graph(minilm)
    mask = np.array([[1] * 9, [1] * 5 + [0] * 4])
    arrays = {"input_ids": CHANCE.integers(1, 2000, (2, 9)), "attention_mask": mask}
    expected = run_whole(graph, arrays)
    for shares in ((1, 1), (2, 1)):
        found, report = run_ranks(graph, shares, arrays)
        assert_close(found, expected, ROUNDING)
        assert (report.num_sums, report.num_gathers) == (12, 0)
        assert report.split_flops > 0.99 * report.flops
        assert report.split_weight_bytes > 0.45 * report.weight_bytes
