"""Loops without end are ended, whole and on shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError, DeadlineExceeded
from shoal.launch.graph import sample as graph_sample
from shoal.launch.graph.planning import plan_graph
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.model.graph.stage.shard_session import ShardSegments
from shoal.model.graph.tensor_parallel.shard_model import shard_model
from tests.model.graph.graph_cases import make_graph

LOOP = """g (float[N,4] x) => (float[N,4] y) <int64 num = {9223372036854775807}, bool yes = {1}, float zero = {0}> {
    s = ReduceSum <keepdims = 0> (x)
    more = Greater(s, zero)
    y = Loop(num, more, x) <body = b (int64 i, bool c, float[N,4] a) => (bool d, float[N,4] o) {
        d = Identity(c)  o = Neg(a)
    }>
}"""
"""Never ends where the sum of the numbers is positive."""
POSITIVE, NEGATIVE = (np.full((2, 4), number, np.float32) for number in (1, -1))


@pytest.fixture
def graph(tmp_path: Path) -> GraphFile:
    return make_graph(tmp_path, LOOP)


def test_only_graphs_with_loops_may_run_away(graph: GraphFile, tmp_path: Path) -> None:
    assert graph.has_loops
    assert not make_graph(tmp_path, "g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }").has_loops


def test_a_run_that_does_not_end_is_ended_and_the_session_goes_on(
    graph: GraphFile, capfd: pytest.CaptureFixture[str]
) -> None:
    stage = GraphStage(graph, stage_interfaces(graph, ())[0], threads=1)
    with pytest.raises(DeadlineExceeded, match=r"not done after 0\.1 s"):
        stage.run({"x": POSITIVE}, limit_s=0.1)
    assert stage.run({"x": NEGATIVE}, limit_s=0.1)["y"].tolist() == NEGATIVE.tolist()
    assert capfd.readouterr() == ("", "")


def test_a_shard_ends_as_well(graph: GraphFile) -> None:
    (stage,) = stage_interfaces(graph, ())
    model = shard_model(graph, stage, (1, 1), 0).model
    shard = ShardSegments(model, stage.inputs, stage.outputs, folder=graph.folder, threads=1)
    with pytest.raises(DeadlineExceeded, match=r"not done after 0\.1 s"):
        next(shard.run({"x": POSITIVE}, limit_s=0.1))


def test_a_model_that_does_not_end_is_refused_while_it_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_sample, "_RUN_LIMIT_S", 0.1)
    graph = make_graph(tmp_path, LOOP.replace("Loop(num, more, x)", "Loop(num, yes, x)"))
    config = GraphLaunchConfig(model=str(graph.path), split="1", threads=1)
    with pytest.raises(ConfigError, match=r"model\.onnx: .* not done after 0\.1 s: the model loops without end"):
        plan_graph(config)
