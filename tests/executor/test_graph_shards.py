"""Stages of ONNX graphs split over shards, as real processes."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError, ModelLoadError, WorkerLost
from shoal.executor.graph_factory import start_graph
from shoal.executor.launcher import Place
from shoal.executor.load_message import graph_load_message
from shoal.executor.local_launcher import LocalLauncher
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import PlannedGraph, plan_graph
from shoal.protocol.worker_messages import Generation
from shoal.router.graph_executor import Batch, BatchId, BatchResult, GraphExecutor
from tests.executor.graphs import skip_chain, strict_reshape
from tests.plain_runtime import plain_session

WAIT_S = 30.0
WIDTH = 64


def plan(path: Path, split: str) -> PlannedGraph:
    return plan_graph(GraphLaunchConfig(model=str(path), split=split, threads=1))


def launch(path: Path, split: str) -> LoadedGraph:
    return launch_graph(plan(path, split))


def results(executor: GraphExecutor, count: int) -> list[BatchResult]:
    found: list[BatchResult] = []
    while len(found) < count:
        new = executor.poll()
        found += new
        if not new:
            assert select.select(executor.filenos(), [], [], WAIT_S)[0], "no result in time"
    return found


def check(executor: GraphExecutor, path: Path, num_stages: int) -> None:
    """Several batches in flight give what the whole graph gives."""
    x = np.random.default_rng(1).standard_normal((5, WIDTH), np.float32)
    batches = [Batch(batch_id=BatchId(index), inputs={"x": x + index}) for index in range(6)]
    whole = plain_session(path)
    for batch in batches:
        executor.submit(batch)
    for batch, result in zip(batches, results(executor, len(batches)), strict=True):
        assert (result.batch_id, result.error, len(result.compute_s)) == (batch.batch_id, None, num_stages)
        for name, expected in zip(("y", "first"), whole.run(["y", "first"], dict(batch.inputs)), strict=True):
            np.testing.assert_allclose(result.outputs[name], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx", depth=4, width=WIDTH)


@pytest.mark.parametrize(
    ("split", "num_stages", "num_workers"),
    [("tp=2", 1, 2), ("tp=3", 1, 3), ("tp=3:1", 1, 2), ("pp=2,tp=2", 2, 4), ("dp=2,tp=2", 1, 4)],
)
def test_shards_compute_what_the_whole_graph_computes(
    chain: Path, split: str, num_stages: int, num_workers: int
) -> None:
    with launch(chain, split) as loaded:
        assert loaded.plan.num_workers == num_workers
        for executor in loaded.executors:
            check(executor, chain, num_stages)


@pytest.mark.parametrize("shares", [((1, 1), (1, 2, 1)), ((1, 1, 1), (2, 1)), ((1,), (1, 1)), ((1, 1), (1,))])
def test_stages_may_have_different_numbers_of_shards(chain: Path, shares: Sequence[tuple[int, ...]]) -> None:
    (replica,) = plan(chain, "pp=2").plan.replicas
    stages = [
        [
            msgspec.structs.replace(
                graph_load_message(chain, replica, index, 0),
                shares=own,
                rank=rank,
            )
            for rank in range(len(own))
        ]
        for index, own in enumerate(shares)
    ]
    places = [[Place(label="worker", load=load, machine=None) for load in loads] for loads in stages]
    executor = start_graph(places, LocalLauncher(), Generation(0))
    try:
        executor.wait_until_loaded(WAIT_S)
        assert len(executor.worker_pids()) == sum(map(len, shares))
        check(executor, chain, 2)
    finally:
        executor.close()


def test_the_plan_says_what_is_split(chain: Path) -> None:
    planned = plan(chain, "tp=3:1").plan
    (stage,) = planned.replicas[0].stages
    assert planned.split == "tp=3:1"
    assert stage.shares == (3, 1)
    assert stage.split == planned.split_report
    whole_bytes = 4 * WIDTH * WIDTH * 4
    assert stage.split is not None
    assert stage.split.weight_bytes == stage.split.split_weight_bytes == whole_bytes
    held = [shard.weight_bytes for shard in stage.shards]
    assert held == pytest.approx([whole_bytes * 3 / 4, whole_bytes / 4], abs=256)  # and sizes that the rewriting adds
    assert plan(chain, "pp=2").plan.split_report is None


def test_a_batch_that_cannot_be_computed_fails_alone(tmp_path: Path) -> None:
    with launch(strict_reshape(tmp_path / "reshape.onnx"), "pp=2,tp=2") as loaded:
        (executor,) = loaded.executors
        for index, width in enumerate((4, 3, 8)):
            executor.submit(Batch(batch_id=BatchId(index), inputs={"x": np.ones((1, width), np.float32)}))
        good, bad, after = results(executor, 3)
    assert good.error is None
    assert bad.error is not None
    assert "eshape" in bad.error
    assert bad.outputs == {}
    assert after.outputs["y"].shape == (2, 4)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_shard_is_noticed_at_once(chain: Path, rank: int) -> None:
    with launch(chain, "tp=2") as loaded:
        (executor,) = loaded.executors
        assert isinstance(executor, PipelineExecutor)

        def compute_twice() -> None:
            for index in range(2):
                executor.submit(Batch(batch_id=BatchId(index), inputs={"x": np.ones((1, WIDTH), np.float32)}))
                results(executor, 1)

        os.kill(executor.worker_pids()[rank], signal.SIGKILL)
        with pytest.raises(WorkerLost, match="replica 0 stage 0 shard"):
            compute_twice()


def test_a_file_that_vanished_is_told_by_the_shard(chain: Path) -> None:
    planned = plan(chain, "tp=2")
    chain.unlink()
    with pytest.raises(ModelLoadError, match="replica 0 stage 0 shard"):
        launch_graph(planned)


def test_too_many_shards_are_refused(chain: Path) -> None:
    with pytest.raises(ConfigError, match="16"):
        plan(chain, "tp=17")
