"""Workers of ONNX graphs that are reached over the network, all of them on the loopback: the same answers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shoal.comm.links.link import MAX_FRAME_BYTES
from shoal.comm.links.tensor_port import FramePort
from shoal.config import GraphLaunchConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.errors import CapacityError, RemoteProtocolError, WorkerLost
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.remote.host import LocalHost
from shoal.executor.remote.launcher import RemoteLauncher
from shoal.launch.graph.launch import LoadedGraph, launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.offline.pull import Chunk, ChunkRunner
from shoal.protocol.graph_messages import Envelope, Release, RunBatch
from shoal.protocol.tensor_codec import decode_envelope
from shoal.protocol.worker_messages import Generation
from shoal.router.graph_executor import Batch, BatchId
from tests.executor.graphs import skip_chain, strict_reshape
from tests.executor.test_graph_local import results
from tests.integration.leaks import no_leaks
from tests.integration.running import PATIENT, QUICK
from tests.plain_runtime import plain_session
from tests.sampling import in_turn

pytest.importorskip("cryptography")
NUM_CHUNKS = 40
LARGE_ROWS = 300_000
"""of 8 fp32 values: more than sockets hold at both ends together"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    path = skip_chain(tmp_path / "chain.onnx")
    plain_session(path)  # before leaks are looked for: ONNX Runtime keeps what it opens
    return path


@pytest.fixture
def host(chain: Path) -> Iterator[LocalHost]:
    with no_leaks():
        host = LocalHost("127.0.0.1")
        yield host
        host.close()


def launch(path: Path, split: str, host: LocalHost, recovery: RecoveryConfig = PATIENT) -> LoadedGraph:
    planned = plan_graph(GraphLaunchConfig(model=str(path), split=split, threads=1))
    return launch_graph(planned, launcher=RemoteLauncher({"": host}), recovery=recovery)


def pids(loaded: LoadedGraph) -> list[int]:
    executors = [executor for executor in loaded.executors if isinstance(executor, PipelineExecutor)]
    return [pid for executor in executors for pid in executor.worker_pids()]


def rows(index: int) -> np.ndarray:
    return np.random.default_rng(index).standard_normal((3, 8), np.float32)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", ["1", "pp=3", "tp=2", "pp=2,tp=2", "dp=2"])
def test_answers_are_those_of_the_whole_graph(split: str, chain: Path, host: LocalHost) -> None:
    whole = plain_session(chain)
    with launch(chain, split, host) as loaded:
        for executor in loaded.executors:
            batches = [Batch(batch_id=BatchId(index), inputs={"x": rows(index)}) for index in range(6)]
            for batch in batches:
                executor.submit(batch)
            for batch, result in zip(batches, results(executor, len(batches)), strict=True):
                assert (result.batch_id, result.error) == (batch.batch_id, None)
                for name, expected in zip(("y", "first"), whole.run(["y", "first"], dict(batch.inputs)), strict=True):
                    np.testing.assert_allclose(result.outputs[name], expected, rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_be_computed_fails_alone(tmp_path: Path, host: LocalHost) -> None:
    with launch(strict_reshape(tmp_path / "reshape.onnx"), "pp=2", host) as loaded:
        (executor,) = loaded.executors
        for index, width in enumerate((4, 3, 8)):
            executor.submit(Batch(batch_id=BatchId(index), inputs={"x": np.ones((1, width), np.float32)}))
        good, bad, after = results(executor, 3)
    assert (good.error, after.error) == (None, None)
    assert bad.error is not None
    assert "eshape" in bad.error


def test_the_head_never_waits_for_a_worker_that_takes_nothing(chain: Path, host: LocalHost) -> None:
    """It hands over more than the links hold, while the worker sends more than the head has read."""
    x = np.random.default_rng(0).standard_normal((LARGE_ROWS, 8), np.float32)
    with launch(chain, "pp=2", host) as loaded:
        (executor,) = loaded.executors
        for index in range(4):
            executor.submit(Batch(batch_id=BatchId(index), inputs={"x": x + index}))
        answers = [result.take()["y"] for result in results(executor, 4)]
        executor.submit(Batch(batch_id=BatchId(4), inputs={"x": x[-5:]}))
        np.testing.assert_allclose(results(executor, 1)[0].outputs["y"], answers[0][-5:], rtol=1e-5, atol=1e-6)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    ("split", "number"),
    in_turn(("pp=2", "tp=2", "dp=2,pp=2"), (signal.SIGSTOP, signal.SIGKILL)),
    ids=lambda value: getattr(value, "name", value),
)
def test_chunks_survive_a_lost_worker(split: str, number: signal.Signals, chain: Path, host: LocalHost) -> None:
    outputs: dict[int, np.ndarray] = {}
    chunks = (Chunk(index=index, inputs={"x": rows(index)}) for index in range(NUM_CHUNKS))
    recovery = QUICK if number == signal.SIGSTOP else PATIENT
    with (
        launch(chain, split, host, recovery) as loaded,
        ChunkRunner(loaded.executors, factories=loaded.factories, recovery=recovery) as runner,
    ):
        for result in runner.run(chunks):
            outputs[result.index] = np.array(result.outputs["y"])
            if len(outputs) == NUM_CHUNKS // 4:
                os.kill(pids(loaded)[0], number)
    whole = plain_session(chain)
    assert sorted(outputs) == list(range(NUM_CHUNKS))
    for index, y in outputs.items():
        np.testing.assert_allclose(y, whole.run(["y"], {"x": rows(index)})[0], rtol=1e-5, atol=1e-6)


def test_a_dead_worker_is_named(chain: Path, host: LocalHost) -> None:
    def compute_twice() -> None:
        for index in range(2):
            executor.submit(Batch(batch_id=BatchId(index), inputs={"x": rows(0)}))
            results(executor, 1)

    with launch(chain, "pp=2", host) as loaded:
        (executor,) = loaded.executors
        os.kill(pids(loaded)[1], signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"replica 0 stage 1 .*signal 9"):
            compute_twice()


def test_tensors_that_are_too_large_for_a_frame_are_refused_here() -> None:
    too_large = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (MAX_FRAME_BYTES,), (0,))
    with pytest.raises(CapacityError, match="use smaller batches"):
        FramePort().pack(RunBatch(batch_id=0, generation=Generation(0)), {"x": too_large})


def test_frames_that_do_not_hold_what_they_name_are_refused() -> None:
    port = FramePort()
    envelope = decode_envelope(port.pack(RunBatch(batch_id=0, generation=Generation(0)), {"x": rows(0)}))
    received = port.unpack(envelope)
    assert received is not None
    np.testing.assert_array_equal(received.tensors["x"], rows(0))
    for broken in (
        Envelope(message=envelope.message, tensors=envelope.tensors),
        Envelope(message=envelope.message, tensors=envelope.tensors, data=(envelope.data[0][:-1],)),
        Envelope(message=Release(token=1)),
        Envelope(message=envelope.message, releases=(1,)),
    ):
        with pytest.raises(RemoteProtocolError):
            port.unpack(broken)
