"""Replicas of ONNX graphs as real processes."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError, ModelLoadError, WorkerLost
from shoal.executor.graph_factory import graph_factories
from shoal.executor.graph_in_process import InProcessGraphExecutor
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.protocol.worker_messages import Generation
from shoal.router.graph_executor import Batch, BatchId, BatchResult, GraphExecutor
from tests.executor.graphs import skip_chain, strict_reshape
from tests.log_lines import launch_lines
from tests.plain_runtime import plain_session

WAIT_S = 30.0


def launch(path: Path, split: str, *, in_process: bool = False) -> LoadedGraph:
    config = GraphLaunchConfig(model=str(path), split=split, threads=1, in_process=in_process)
    return launch_graph(plan_graph(config))


def results(executor: GraphExecutor, count: int) -> list[BatchResult]:
    found: list[BatchResult] = []
    while len(found) < count:
        new = executor.poll()
        found += new
        if not new and executor.filenos():
            assert select.select(executor.filenos(), [], [], WAIT_S)[0], "no result in time"
    return found


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx")


@pytest.fixture
def pipeline(chain: Path) -> Iterator[PipelineExecutor]:
    with launch(chain, "pp=3") as loaded:
        (executor,) = loaded.executors
        assert isinstance(executor, PipelineExecutor)
        yield executor


def test_a_pipeline_computes_what_the_whole_graph_computes(chain: Path, pipeline: PipelineExecutor) -> None:
    x = np.random.default_rng(1).standard_normal((5, 8), np.float32)
    batches = [Batch(batch_id=BatchId(index), inputs={"x": x + index}) for index in range(20)]
    whole = plain_session(chain)
    for batch in batches:
        pipeline.submit(batch)
    for batch, result in zip(batches, results(pipeline, len(batches)), strict=True):
        assert (result.batch_id, result.error, len(result.compute_s)) == (batch.batch_id, None, 3)
        y, first = whole.run(["y", "first"], dict(batch.inputs))
        np.testing.assert_array_equal(result.outputs["y"], y)
        np.testing.assert_array_equal(result.outputs["first"], first)


def test_taken_outputs_are_the_receivers_own(pipeline: PipelineExecutor) -> None:
    x = np.ones((2, 8), np.float32)
    for index in range(2):
        pipeline.submit(Batch(batch_id=BatchId(index), inputs={"x": x * index}))
    zero, one = results(pipeline, 2)
    taken = zero.take()["y"]
    np.testing.assert_array_equal(taken, np.zeros((2, 8)))
    taken[:] = 7
    assert not np.array_equal(one.outputs["y"], taken)


def test_a_batch_that_cannot_be_computed_fails_alone(tmp_path: Path) -> None:
    with launch(strict_reshape(tmp_path / "reshape.onnx"), "pp=3") as loaded:
        (executor,) = loaded.executors
        for index, width in enumerate((4, 3, 8)):
            executor.submit(Batch(batch_id=BatchId(index), inputs={"x": np.ones((1, width), np.float32)}))
        good, bad, after = results(executor, 3)
    assert good.error is None
    assert bad.error is not None
    assert "Reshape" in bad.error or "reshape" in bad.error
    assert "\n" not in bad.error
    assert bad.outputs == {}
    assert after.outputs["y"].shape == (2, 4)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_dead_worker_is_noticed_at_once(pipeline: PipelineExecutor, stage: int, number: signal.Signals) -> None:
    def compute_twice() -> None:
        for index in range(2):
            pipeline.submit(Batch(batch_id=BatchId(index), inputs={"x": np.ones((1, 8), np.float32)}))
            results(pipeline, 1)

    os.kill(pipeline.worker_pids()[stage], number)
    with pytest.raises(WorkerLost, match="replica 0 stage"):
        compute_twice()


def submit_and_wait(executor: GraphExecutor, count: int, x: np.ndarray) -> None:
    """Raises WorkerLost by whichever notices first."""
    for index in range(count):
        executor.submit(Batch(batch_id=BatchId(index), inputs={"x": x}))
    results(executor, count)


@pytest.mark.parametrize("split", ["pp=3", "tp=2", "pp=2,tp=2"])
def test_only_the_lost_worker_loads_again(split: str, chain: Path) -> None:
    """The others keep their sessions, whatever was under way among them, and are wired to the new one."""
    x = np.random.default_rng(3).standard_normal((4, 8), np.float32)
    with launch(chain, split) as loaded:
        (executor,), (factory,) = loaded.executors, loaded.factories
        assert isinstance(executor, PipelineExecutor)
        before = executor.worker_pids()
        os.kill(before[1], signal.SIGKILL)
        with pytest.raises(WorkerLost, match="signal 9"):
            submit_and_wait(executor, 3, x)
        executor.fence()
        _, later = factory.start(Generation(1), None, executor)
        try:
            assert isinstance(later, PipelineExecutor)
            later.wait_until_loaded(WAIT_S)
            after = later.worker_pids()
            assert [old == new for old, new in zip(before, after, strict=True)] == [
                index != 1 for index in range(len(before))
            ]
            later.submit(Batch(batch_id=BatchId(0), inputs={"x": x}))
            (result,) = results(later, 1)
            expected = plain_session(chain).run(["y"], {"x": x})[0]
            np.testing.assert_allclose(result.outputs["y"], expected, rtol=1e-5, atol=1e-6)
        finally:
            later.close()


@pytest.mark.parametrize(
    ("split", "shares"),
    [("pp=3", [(1,), (1,)]), ("tp=3", [(1, 1)]), ("pp=2,tp=2", [(1,), (1, 1)]), ("1", [(1,)])],
)
def test_a_replica_does_without_a_worker_that_cannot_be_started(
    split: str, shares: list[tuple[int, ...]], chain: Path
) -> None:
    """One of a single worker is started as it is."""
    planned = plan_graph(GraphLaunchConfig(model=str(chain), split=split, threads=1))
    (factory,) = graph_factories(planned.graph, planned.plan.replicas)
    x = np.random.default_rng(4).standard_normal((4, 8), np.float32)
    with launch_lines() as told:
        _, executor = factory.start(Generation(0), 0, None)
    try:
        executor.wait_until_loaded(WAIT_S)
        executor.submit(Batch(batch_id=BatchId(0), inputs={"x": x}))
        (result,) = results(executor, 1)
        for name, expected in zip(("y", "first"), plain_session(chain).run(["y", "first"], {"x": x}), strict=True):
            np.testing.assert_allclose(result.outputs[name], expected, rtol=1e-5, atol=1e-6)
    finally:
        executor.close()
    assert [stage.shares for stage in factory.latest.stages] == shares
    assert len(told) == (split != "1")


def test_large_tensors_travel(pipeline: PipelineExecutor) -> None:
    x = np.random.default_rng(2).standard_normal((500_000, 8), np.float32)
    pipeline.submit(Batch(batch_id=BatchId(0), inputs={"x": x}))
    (result,) = results(pipeline, 1)
    assert result.outputs["y"].shape == x.shape
    pipeline.submit(Batch(batch_id=BatchId(1), inputs={"x": x[-5:]}))
    np.testing.assert_allclose(results(pipeline, 1)[0].outputs["y"], result.outputs["y"][-5:], rtol=1e-5)


def test_one_worker_computes_here_unless_told_otherwise(chain: Path) -> None:
    x = np.ones((1, 8), np.float32)
    answers = []
    for in_process in (True, False):
        with launch(chain, "1", in_process=in_process) as loaded:
            (executor,) = loaded.executors
            assert isinstance(executor, InProcessGraphExecutor) == in_process
            executor.submit(Batch(batch_id=BatchId(0), inputs={"x": x}))
            answers.append(results(executor, 1)[0].outputs["y"])
    np.testing.assert_array_equal(answers[0], answers[1])


def test_the_plan_says_who_hands_what_to_whom(chain: Path) -> None:
    plan = plan_graph(GraphLaunchConfig(model=str(chain), split="dp=2,pp=3")).plan
    assert plan.num_workers == 6
    stages = plan.replicas[1].stages
    producer = {one.spec.name: stage for stage, plan in enumerate(stages) for one in plan.outputs}
    consumers = {one.spec.name: one.consumers for plan in stages for one in plan.outputs}
    assert consumers["first"][0] == consumers["y"][0] == -1
    for stage, one in ((stage, one) for stage, plan in enumerate(stages) for one in plan.inputs):
        assert one.source == (-1 if one.spec.name == "x" else producer[one.spec.name])
        assert one.spec.name == "x" or stage in consumers[one.spec.name]
    assert [plan.first_node for plan in stages[1:]] == [plan.last_node for plan in stages[:-1]]


def test_what_cannot_be_cut_is_refused(chain: Path) -> None:
    with pytest.raises(ConfigError, match="stages"):
        plan_graph(GraphLaunchConfig(model=str(chain), split="pp=50"))


def test_a_file_that_vanished_is_told_by_the_worker(chain: Path) -> None:
    planned = plan_graph(GraphLaunchConfig(model=str(chain), split="pp=2"))
    chain.unlink()
    with pytest.raises(ModelLoadError, match="replica 0 stage"):
        launch_graph(planned)
