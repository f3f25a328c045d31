"""Workers that are reached over the network, all of them on the loopback: the same tokens, the same recovery."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from shoal.comm.tls.tls_identity import ClusterAuthority, MachineKey
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.sequences.request import Request
from shoal.errors import ModelLoadError, WorkerLost
from shoal.executor.launcher import Place
from shoal.executor.load_message import load_message
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.process.child_process import module_command
from shoal.executor.remote.host import Admit, LocalHost, StartedWorker
from shoal.executor.remote.launcher import RemoteLauncher
from shoal.executor.traffic import StepTraffic
from shoal.launch.language.planning import plan_model
from shoal.launch.launch import LoadedModel, launch
from shoal.protocol.worker_messages import Generation
from tests.comm.loopback import own_loopback_address
from tests.executor.remote.delay_proxy import FarHost
from tests.integration.leaks import no_leaks
from tests.integration.running import PATIENT, QUICK, Transcript, executors, make_requests, tiny_config, transcribe
from tests.model.tiny_models import make_tiny_gguf
from tests.sampling import in_turn

pytest.importorskip("cryptography")
REQUESTS = make_requests(4, max_tokens=30)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> Transcript:
    with launch(plan_model(tiny_config(tiny_model, split="1"))) as loaded:
        return transcribe(loaded.engine, REQUESTS)


@pytest.fixture
def host(expected: Transcript) -> Iterator[LocalHost]:
    with no_leaks():
        host = LocalHost("127.0.0.1")
        yield host
        host.close()


def launch_remote(model: Path, split: str, host: LocalHost, recovery: RecoveryConfig = PATIENT) -> LoadedModel:
    planned = plan_model(tiny_config(model, split=split))
    return launch(planned, launcher=RemoteLauncher({"": host}), recovery=recovery)


def placed(model: Path) -> Place:
    """The whole model, on a host h1."""
    planned = plan_model(tiny_config(model, split="1"))
    load = load_message(planned.model.path, planned.plan, planned.plan.replicas[0], 0, 0, num_layers=4)
    return Place(label="replica 0 stage 0 on h1", load=load, machine="h1")


def tokens_of(transcript: Transcript, requests: list[Request]) -> list[list[int]]:
    return [transcript.tokens[request.request_id] for request in requests]


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", ["1", "pp=2", "tp=2", "dp=2", "pp=2,tp=2"])
def test_tokens_are_those_of_the_whole_model(
    split: str, tiny_model: Path, expected: Transcript, host: LocalHost
) -> None:
    with launch_remote(tiny_model, split, host) as loaded:
        assert tokens_of(transcribe(loaded.engine, REQUESTS), REQUESTS) == tokens_of(expected, REQUESTS)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    ("split", "number"),
    in_turn(("pp=2", "tp=2", "dp=2,pp=2"), (signal.SIGKILL, signal.SIGSTOP)),
    ids=lambda value: getattr(value, "name", value),
)
def test_requests_survive_a_lost_worker(
    split: str, number: signal.Signals, tiny_model: Path, expected: Transcript, host: LocalHost
) -> None:
    recovery = QUICK if number == signal.SIGSTOP else PATIENT
    with launch_remote(tiny_model, split, host, recovery) as loaded:
        engine, transcript = loaded.engine, Transcript()
        before = [pid for executor in executors(loaded) for pid in executor.worker_pids()]
        for request in REQUESTS:
            engine.add(request)
        transcript.follow(engine, lambda: len(transcript.tokens.get("request-3", ())) >= 3)
        os.kill(before[0], number)
        transcript.finish(engine)
        transcript.follow(engine, lambda: not engine.stats().num_recovering)
        assert tokens_of(transcript, REQUESTS) == tokens_of(expected, REQUESTS)
        after = [pid for executor in executors(loaded) for pid in executor.worker_pids()]
        assert before[0] not in after
        assert (before[1] in after) == (number is signal.SIGKILL), "whoever is not suspected keeps its weights"


@pytest.mark.parametrize("split", ["pp=2", "tp=2"])
def test_links_that_take_long_change_nothing_but_the_time(
    split: str, tiny_model: Path, expected: Transcript, host: LocalHost
) -> None:
    far = FarHost(delay_s=0.005)
    try:
        with launch_remote(tiny_model, split, far) as loaded:
            transcript = transcribe(loaded.engine, REQUESTS)
            assert tokens_of(transcript, REQUESTS) == tokens_of(expected, REQUESTS)
            assert not loaded.engine.stats().num_losses
    finally:
        far.close()


def test_what_cannot_be_loaded_is_named(tiny_model: Path, host: LocalHost) -> None:
    planned = plan_model(tiny_config(tiny_model, split="1"))
    load = load_message(planned.model.path, planned.plan, planned.plan.replicas[0], 0, 0, num_layers=4)
    place = Place(label="stage 0", load=structs.replace(load, model_path="nowhere.gguf"), machine=None)
    executor = PipelineExecutor([[place]], RemoteLauncher({"": host}), StepTraffic(), Generation(0))
    try:
        with pytest.raises(ModelLoadError, match=r"stage 0: .*nowhere\.gguf"):
            executor.wait_until_loaded(60.0)
    finally:
        executor.close()


def test_a_worker_that_is_not_wanted_any_more_ends_while_it_is_being_started(tiny_model: Path, host: LocalHost) -> None:
    planned = plan_model(tiny_config(tiny_model, split="1"))
    load = load_message(planned.model.path, planned.plan, planned.plan.replicas[0], 0, 0, num_layers=4)
    place = Place(label="stage 0", load=load, machine=None)
    PipelineExecutor([[place]], RemoteLauncher({"": host}), StepTraffic(), Generation(0)).close()


def test_a_worker_that_was_killed_is_said_to_have_been(tiny_model: Path, host: LocalHost) -> None:
    """As the kernel does it where there is too little memory."""
    executor = PipelineExecutor([[placed(tiny_model)]], RemoteLauncher({"h1": host}), StepTraffic(), Generation(0))
    try:
        executor.wait_until_loaded(60.0)
        (pid,) = executor.worker_pids()
        os.kill(pid, signal.SIGKILL)
        assert select.select(executor.filenos(), [], [], 60.0)[0]
        with pytest.raises(WorkerLost) as caught:
            executor.poll()
    finally:
        executor.close()
    assert str(caught.value) == f"replica 0 stage 0 on h1 (pid {pid}) was killed by signal 9 (out of memory?)"


def test_a_start_that_never_answers_is_not_waited_for_at_the_end(tiny_model: Path) -> None:
    """As one on a host that is frozen."""

    class FrozenHost(LocalHost):
        def start(
            self, admit: Admit, is_wanted: Callable[[], bool] = lambda: True, python: str | None = None
        ) -> StartedWorker:
            while is_wanted():
                asked.set()
            raise WorkerLost("nobody wants it any more")

    asked, host = threading.Event(), FrozenHost("127.0.0.1")
    executor = PipelineExecutor([[placed(tiny_model)]], RemoteLauncher({"h1": host}), StepTraffic(), Generation(0))
    assert asked.wait(60.0)
    executor.close()
    host.close()


def test_a_worker_that_nobody_dials_ends() -> None:
    """Whoever asked for it has given it up, or is gone."""
    credentials = ClusterAuthority().issue()
    command = module_command("shoal.worker.remote_main", "127.0.0.1", "--head-timeout", "0.2")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        said, _ = process.communicate(msgspec.msgpack.encode(credentials), timeout=60.0)
    assert said.strip().isdigit()
    assert process.returncode == 1


def test_workers_that_are_started_at_once_share_their_machines_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is of one key: it must be that of the request, whoever asks meanwhile."""
    both_ask, made = threading.Barrier(2), list[MachineKey]()

    class SlowKey(MachineKey):
        def __init__(self) -> None:
            with suppress(threading.BrokenBarrierError):
                both_ask.wait(0.2)
            super().__init__()
            made.append(self)

    monkeypatch.setattr("shoal.executor.remote.host.MachineKey", SlowKey)
    host = LocalHost("127.0.0.1")
    with ThreadPoolExecutor(2) as pool:
        keys = [asked.result() for asked in [pool.submit(lambda: host.key) for _ in range(2)]]
    assert keys[0] is keys[1]
    assert len(made) == 1
    host.close()


def test_workers_keep_to_their_ports(tiny_model: Path) -> None:
    address = own_loopback_address()
    with socket.create_server((address, 0)) as taken:
        port = taken.getsockname()[1]
        host = LocalHost(address, range(port, port + 1))
        with pytest.raises(WorkerLost, match=f"started on {address}: no port of SHOAL_PORTS={port}-{port} is free"):
            host.start(ClusterAuthority().admit)
    started = host.start(ClusterAuthority().admit)
    assert started.address == (address, port)
    host.close()
