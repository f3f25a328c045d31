"""Workers of ONNX graphs that are killed: what they had not finished is computed by others or by their successors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import shoal
from shoal.api.graphs import open_runner
from shoal.config import GraphLaunchConfig
from shoal.errors import WorkerLost
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.offline.pull import Chunk
from shoal.router.batch_engine import BatchEngine, InferenceRequest
from tests.executor.graphs import skip_chain
from tests.integration.leaks import no_leaks
from tests.integration.running import PATIENT
from tests.plain_runtime import plain_session

TURN_S = 30.0
NUM_CHUNKS = 60


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Path]:
    path = skip_chain(tmp_path / "chain.onnx")
    plain_session(path)  # before leaks are looked for: ONNX Runtime keeps what it opens
    with no_leaks():
        yield path


def launch(path: Path, split: str) -> LoadedGraph:
    return launch_graph(plan_graph(GraphLaunchConfig(model=str(path), split=split, threads=1)), recovery=PATIENT)


def kill_worker(loaded: LoadedGraph, replica: int, worker: int, end: signal.Signals = signal.SIGKILL) -> None:
    executor = loaded.executors[replica]
    assert isinstance(executor, PipelineExecutor)
    os.kill(executor.worker_pids()[worker], end)


def turn_for_ever(engine: BatchEngine) -> None:
    while True:
        engine.turn(TURN_S)


def rows(index: int) -> np.ndarray:
    return np.random.default_rng(index).standard_normal((3, 8), np.float32)


@pytest.mark.parametrize("split", ["pp=2", "tp=2", "dp=2", "dp=2,pp=2"])
def test_a_killed_worker_costs_no_chunk(split: str, chain: Path, told: list[str]) -> None:
    outputs: dict[int, np.ndarray] = {}
    chunks = (Chunk(index=index, inputs={"x": rows(index)}) for index in range(NUM_CHUNKS))
    with (
        launch(chain, split) as loaded,
        open_runner(loaded) as runner,
    ):
        for result in runner.run(chunks, copy_last=True):
            assert (result.error, result.index in outputs) == (None, False)
            outputs[result.index] = np.array(result.outputs["y"])
            if len(outputs) == NUM_CHUNKS // 3:
                kill_worker(loaded, 0, -1)
    whole = plain_session(chain)
    for index in range(NUM_CHUNKS):
        np.testing.assert_allclose(outputs[index], whole.run(["y"], {"x": rows(index)})[0], rtol=1e-5, atol=1e-6)
    assert told[0].startswith("replica 0 is lost")


def test_a_loaded_model_answers_after_its_worker_was_killed(chain: Path) -> None:
    with shoal.load(chain, split="pp=2", threads=1) as model:
        before = model(rows(0))["y"]
        kill_worker(model._loaded, 0, 0)
        np.testing.assert_array_equal(model(rows(0))["y"], before)
        np.testing.assert_array_equal(model(rows(0))["y"], before)


@pytest.mark.parametrize("replaced", ["chain.onnx", "weights.data"])
def test_a_graph_whose_files_were_replaced_is_not_loaded_again(replaced: str, tmp_path: Path, told: list[str]) -> None:
    """Two graphs of one structure: without a comparison the answers would be of neither."""
    for folder in ("served", "update"):
        (tmp_path / folder).mkdir()
        model = onnx.load(skip_chain(tmp_path / folder / "chain.onnx"))
        path = tmp_path / folder / "chain.onnx"
        onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
    with launch(tmp_path / "served" / "chain.onnx", "pp=2") as loaded:
        engine = BatchEngine(
            loaded.executors,
            loaded.plan.batch,
            factories=loaded.factories,
            recovery=loaded.recovery,
        )
        try:
            (tmp_path / "update" / replaced).replace(tmp_path / "served" / replaced)
            kill_worker(loaded, 0, 1)
            engine.add(InferenceRequest(request_id="a", inputs={"x": rows(0)}))
            with pytest.raises(WorkerLost, match="has changed since the server started; start it again") as raised:
                turn_for_ever(engine)
            assert replaced in str(raised.value)
            assert engine.stats().num_losses == 2
        finally:
            engine.close()
    assert told[-1].startswith("replica 0 is given up: ")
