"""A machine's cable is pulled by the machine itself, for a drill: no request fails, and all is put back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from shoal.api.graphs import open_runner
from shoal.config import GraphLaunchConfig
from shoal.errors import ConfigError, MachineGone
from shoal.executor.remote.host import LocalHost
from shoal.executor.remote.launcher import RemoteLauncher
from shoal.executor.remote.strikes import MAX_CABLE_S, Cable, Strike
from shoal.launch.graph.launch import launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import launch
from shoal.offline.pull import Chunk
from shoal.planner.split.machine_places import MachineCores, place_on_machines
from tests.executor.graphs import skip_chain
from tests.integration.leaks import no_leaks
from tests.integration.running import QUICK, Transcript, executors, make_requests, tiny_config, transcribe
from tests.model.tiny_models import make_tiny_gguf
from tests.plain_runtime import plain_session

pytest.importorskip("cryptography")
LONG_S = 120.0
"""Longer than these tests: the cable is put back when they say so."""
PLACES = [MachineCores(name=name, cores=(0,)) for name in ("a", "b")]
NUM_CHUNKS = 24


@pytest.fixture
def hosts() -> Iterator[Mapping[str, LocalHost]]:
    with no_leaks():
        hosts = {"a": LocalHost("127.0.0.1"), "b": LocalHost("127.0.0.2")}
        yield hosts
        for host in hosts.values():
            host.close()


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize("split", ["pp=2", "dp=2"])
def test_a_language_model_goes_on_without_the_machine(
    split: str, tmp_path: Path, hosts: Mapping[str, LocalHost]
) -> None:
    planned = plan_model(tiny_config(make_tiny_gguf(tmp_path, quant="F32"), split=split))
    requests = make_requests(4, max_tokens=30)
    placed = replace(planned, plan=place_on_machines(planned.plan, PLACES, 1))
    with launch(placed, launcher=RemoteLauncher(hosts), recovery=QUICK) as loaded:
        expected = transcribe(loaded.engine, requests)
        again = [replace(one, request_id=f"{one.request_id}-again") for one in requests]
        transcript = Transcript()
        for request in again:
            loaded.engine.add(request)
        transcript.follow(loaded.engine, lambda: bool(transcript.tokens))
        pid = executors(loaded)[-1].worker_pids()[-1]
        hosts["b"].strike(Strike(how="cable", for_s=LONG_S))
        transcript.finish(loaded.engine)
        assert is_stopped(pid), "what the head wants of it does not arrive"
        with pytest.raises(MachineGone):
            hosts["b"].start(lambda request: pytest.fail("nothing arrives there"))
        hosts["b"].cable.put_back()
        process = psutil.Process(pid)
        transcript.follow(loaded.engine, lambda: not loaded.engine.stats().num_recovering)
        assert psutil.wait_procs([process], 60.0)[0], "it is not wanted any more"
    assert {name.removesuffix("-again"): tokens for name, tokens in transcript.tokens.items()} == expected.tokens


@pytest.mark.parametrize("split", ["pp=2", "dp=2"])
def test_a_graph_goes_on_without_the_machine(split: str, tmp_path: Path, hosts: Mapping[str, LocalHost]) -> None:
    path = skip_chain(tmp_path / "chain.onnx")
    x = np.random.default_rng(0).standard_normal((NUM_CHUNKS, 2, 8), np.float32)
    expected = [plain_session(path).run(["y"], {"x": rows})[0] for rows in x]
    planned = plan_graph(GraphLaunchConfig(model=str(path), split=split, threads=1))
    placed = replace(planned, plan=place_on_machines(planned.plan, PLACES, 1))
    outputs: dict[int, np.ndarray] = {}
    with (
        launch_graph(placed, launcher=RemoteLauncher(hosts), recovery=QUICK) as loaded,
        open_runner(loaded) as runner,
    ):
        for result in runner.run(Chunk(index=index, inputs={"x": rows}) for index, rows in enumerate(x)):
            outputs[result.index] = np.array(result.outputs["y"])
            if len(outputs) == NUM_CHUNKS // 4:
                hosts["b"].strike(Strike(how="cable", for_s=LONG_S))
        hosts["b"].cable.put_back()
    assert sorted(outputs) == list(range(NUM_CHUNKS))
    for index, y in outputs.items():
        np.testing.assert_allclose(y, expected[index], rtol=1e-5, atol=1e-6)


def test_a_cable_is_back_after_its_time_and_brings_what_was_sent() -> None:
    cable, brought = Cable(), list[str]()
    cable.pull([], LONG_S)
    with pytest.raises(MachineGone, match="for a drill"):
        cable.check()
    with pytest.raises(ConfigError, match="pulled already"):
        cable.pull([], LONG_S)
    cable.deliver(lambda: brought.append("later"))
    assert brought == []
    cable.put_back()
    cable.pull([], 0.05)
    assert cable.wait(60.0)
    cable.check()
    cable.deliver(lambda: brought.append("at once"))
    cable.put_back()
    assert brought == ["later", "at once"]


def test_only_workers_of_the_machine_are_struck() -> None:
    host = LocalHost("127.0.0.1")
    try:
        with pytest.raises(ConfigError, match="no worker with process id"):
            host.strike(Strike(how="kill", pid=os.getpid()))
        host.strike(Strike(how="stop"))
    finally:
        host.close()


@pytest.mark.parametrize("fields", [{"pid": 1}, {"for_s": 0.0}, {"for_s": MAX_CABLE_S + 1}])
def test_strikes_that_make_no_sense(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="a cable"):
        Strike(how="cable", **fields)
