"""Networks as both of torch's exporters write them: the whole's numbers on every rank, nearly all of it split."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.stage.cuts import cut_points
from tests.model.graph.graph_cases import run_whole
from tests.model.graph.tensor_parallel.rank_runs import assert_close, run_ranks, run_split
from tests.real_models import quiet_export
from tests.sampling import in_turn

ROUNDING = 1e-5
NUM_COLLECTIVES = {
    "encoder": (4, 0),
    "encoder, sequence first": (4, 0),
    "encoder, norm first": (4, 0),
    "fused attention": (2, 0),
    "chunked attention": (2, 0),
    "gated perceptron": (1, 0),
    "convolutional": (5, 1),
    "skip network": (1, 0),
}
"""Sums and gathers: two sums a layer; one a pair of convolutions, one for what weighs channels, the last product."""

EXPORTS = {
    "new": {"dynamo": True, "is_open": True},
    "old": {"dynamo": False, "is_open": True},
    "old, fixed sizes": {"dynamo": False, "is_open": False},
}
"""By the exporter, and by whether the batch and the tokens are open."""


class Exported:
    """Networks, each exported once in each way: that takes torch seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def graph(self, name: str, *, dynamo: bool, is_open: bool) -> GraphFile:
        """With random numbers, its batch and tokens open or fixed."""
        path = self._folder / f"{name}, {dynamo}, {is_open}.onnx"
        if not path.exists():
            export(name, path, dynamo=dynamo, is_open=is_open)
        return open_graph(path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("networks"))


def network(name: str) -> tuple[Callable[[], torch.nn.Module], tuple[int, ...]]:
    """How it is made, and the shape of its input."""
    from tests.model.graph.tensor_parallel.networks import NETWORKS  # only here, because it imports torch

    return NETWORKS[name]


def export(name: str, path: Path, *, dynamo: bool, is_open: bool) -> None:
    make, shape = network(name)
    torch.manual_seed(0)
    axes = {0: "batch", 1: "tokens"} if len(shape) == 3 else {0: "batch"}
    keywords: dict[str, object] = {"dynamo": dynamo, "input_names": ["x"]}
    if is_open:
        keywords |= {"dynamic_shapes": (axes,)} if dynamo else {"dynamic_axes": {"x": axes}}
    with quiet_export(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the older exporter says that it is old, and warns of constants
        torch.onnx.export(make().eval(), (torch.randn(shape),), path, **keywords)  # type: ignore[arg-type]


@pytest.mark.sample(every=len(EXPORTS))
@pytest.mark.parametrize(("name", "export_as"), in_turn(list(NUM_COLLECTIVES), list(EXPORTS)))
def test_networks_are_split_and_right(name: str, export_as: str, exported: Exported) -> None:
    graph = exported.graph(name, **EXPORTS[export_as])
    x = np.random.default_rng(0).standard_normal(network(name)[1], np.float32)
    expected = run_whole(graph, {"x": x})
    for shares in ((2, 1), (1, 1, 1)):
        found, report = run_ranks(graph, shares, {"x": x})
        assert_close(found, expected, ROUNDING)
        assert report.split_flops > 0.95 * report.flops
        assert report.split_weight_bytes > 0.9 * report.weight_bytes
        assert (report.num_sums, report.num_gathers) == NUM_COLLECTIVES[name]


@pytest.mark.parametrize("shares", [(1, 1, 1, 1, 1), (7, 1)], ids=str)
def test_more_ranks_than_heads_and_odd_shares(shares: Sequence[int], exported: Exported) -> None:
    """Five ranks cannot share four heads: attention stays together, the rest is split."""
    graph = exported.graph("encoder", dynamo=True, is_open=True)
    x = np.random.default_rng(0).standard_normal((3, 4, 32), np.float32)
    found, report = run_ranks(graph, shares, {"x": x})
    assert_close(found, run_whole(graph, {"x": x}), ROUNDING)
    assert report.split_flops > 0.4 * report.flops


def test_sizes_cross_cuts_between_shards_as_the_scalars_that_they_are(exported: Exported) -> None:
    """The older exporter computes every size that it does not know, a scalar at a time."""
    graph = exported.graph("encoder", dynamo=False, is_open=True)
    x = {"x": np.random.default_rng(0).standard_normal((2, 5, 32), np.float32)}
    expected = run_whole(graph, x)
    scalars = [cut.node for cut in cut_points(graph) if any(spec.shape == () for spec in cut.tensors)]
    assert len(scalars) > 10
    for node in scalars[:: len(scalars) // 4]:
        assert_close([run_split(graph, [node], (1, 1), x)], expected, ROUNDING)
