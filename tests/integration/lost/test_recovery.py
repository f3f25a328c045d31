"""Workers die and hang at every point of their lives: requests go on, with the tokens that they would have had."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
import psutil
import pytest

from shoal.config import GraphLaunchConfig
from shoal.core.batching.config import BatchingConfig
from shoal.core.recovery.config import RecoveryConfig
from shoal.core.sequences.request import Request, RequestId
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.process.living_workers import worker_processes
from shoal.launch.graph.launch import launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.launch.launch import LoadedModel
from shoal.protocol.language_messages import Sampling
from shoal.router.batch_engine import BatchEngine, InferenceRequest, InferenceResult
from tests.executor.graphs import skip_chain
from tests.integration.leaks import kinds_of_descriptors
from tests.integration.running import (
    PATIENT,
    QUICK,
    TURN_S,
    Transcript,
    executors,
    launch_tiny,
    make_requests,
    transcribe,
)
from tests.numerics.engines import random_tokens
from tests.plain_runtime import plain_session
from tests.sampling import in_turn

OpenRun = Callable[[str, RecoveryConfig, pytest.FixtureRequest], AbstractContextManager["Run"]]
SPLITS = ("pp=2", "dp=2", "tp=2", "dp=2,pp=2")
SAMPLED = Sampling(temperature=1.0, top_p=0.95, seed=7, presence_penalty=0.3, num_logprobs=1)
LONG_PROMPT = Request(
    request_id=RequestId("long"),
    prompt_ids=tuple(random_tokens(400, seed=99)),
    max_tokens=8,
    sampling=Sampling(temperature=0.0),
)
"""seven steps of prefill"""


class Run(Protocol):
    """A loaded model of some kind of work, its requests, and what came of them."""

    def start(self) -> None:
        """Add the usual requests."""
        ...

    def work_until(self, progress: int) -> None:
        """Until so much of them has been answered, and much is left."""
        ...

    def turn(self) -> None:
        """Of the engine."""
        ...

    def pids(self) -> list[int]:
        """Of all workers that serve."""
        ...

    def finish(self, point: str) -> None:
        """To the right end of every request, and until every replica is whole again."""
        ...

    @property
    def num_losses(self) -> int:
        """So far."""
        ...


@dataclass
class LanguageRun:
    """A language model. Implements `Run`."""

    loaded: LoadedModel
    expected: Transcript
    transcript: Transcript = field(default_factory=Transcript)

    def start(self) -> None:
        self.add(REQUESTS)

    def add(self, requests: Sequence[Request]) -> None:
        self.transcript = Transcript()
        for request in requests:
            self.loaded.engine.add(request)

    def turn(self) -> None:
        self.transcript.take(self.loaded.engine.turn(TURN_S))

    def follow(self, until: Callable[[], bool]) -> None:
        self.transcript.follow(self.loaded.engine, until)

    def pids(self) -> list[int]:
        return [pid for executor in executors(self.loaded) for pid in executor.worker_pids()]

    def busy_pids(self) -> list[int]:
        """Of those that compute for a request: who hangs without being asked for anything is not noticed."""
        stats = self.loaded.engine.stats().replicas
        busy = [one for one, of in zip(executors(self.loaded), stats, strict=True) if of.num_running]
        return [pid for executor in busy for pid in executor.worker_pids()]

    def finish(self, point: str) -> None:
        engine = self.loaded.engine
        self.follow(lambda: not engine.has_work)
        names = self.transcript.ends.keys()
        for name in names:
            assert self.transcript.tokens[name] == self.expected.tokens[name], f"{point}: {name}"
            assert self.transcript.ends[name].reason == "length", f"{point}: {name}"
            assert counts(self.transcript, name) == counts(self.expected, name), f"{point}: {name}"
        self.follow(lambda: not engine.stats().num_recovering)
        assert engine.stats().num_replicas == len(self.loaded.plan.replicas), point

    def work_until(self, progress: int) -> None:
        """Until the youngest request has so many tokens."""
        name = f"request-{NUM_REQUESTS - 1}"
        self.follow(lambda: len(self.transcript.tokens.get(name, ())) >= progress)

    @property
    def num_losses(self) -> int:
        return self.loaded.engine.stats().num_losses


class GraphRun:
    """An ONNX graph, whose requests are a batch each. Implements `Run`."""

    def __init__(self, engine: BatchEngine, num_replicas: int, whole: ort.InferenceSession) -> None:
        """`whole` computes what is expected."""
        self._engine, self._num_replicas, self._whole = engine, num_replicas, whole
        self._results: list[InferenceResult] = []

    def start(self) -> None:
        self._results = []
        for index in range(NUM_INFERENCES):
            self._engine.add(InferenceRequest(request_id=str(index), inputs={"x": rows(index)}))

    def work_until(self, progress: int) -> None:
        """Until so many requests are answered."""
        while len(self._results) < progress:
            self.turn()

    def turn(self) -> None:
        self._results += self._engine.turn(TURN_S)

    def pids(self) -> list[int]:
        pids: list[int] = []
        for executor in self._engine.executors:
            assert isinstance(executor, PipelineExecutor)
            pids += executor.worker_pids()
        return pids

    def finish(self, point: str) -> None:
        while self._engine.has_work or self._engine.stats().num_recovering:
            self.turn()
        assert sorted(int(result.request_id) for result in self._results) == list(range(NUM_INFERENCES)), point
        for result in self._results:
            assert result.error is None, point
            y = self._whole.run(["y"], {"x": rows(int(result.request_id))})[0]
            np.testing.assert_allclose(result.outputs["y"], y, rtol=1e-5, atol=1e-6, err_msg=point)
        assert self._engine.stats().num_replicas == self._num_replicas, point

    @property
    def num_losses(self) -> int:
        return self._engine.stats().num_losses


NUM_REQUESTS = 4
REQUESTS = make_requests(NUM_REQUESTS, max_tokens=40, sampling=SAMPLED)
NUM_INFERENCES = 40
ROWS = 3


def rows(index: int) -> np.ndarray:
    return np.random.default_rng(index).standard_normal((ROWS, 8), np.float32)


@contextmanager
def language_run(split: str, recovery: RecoveryConfig, request: pytest.FixtureRequest) -> Iterator[LanguageRun]:
    tiny_model: Path = request.getfixturevalue("tiny_model")
    with launch_tiny(tiny_model, split=split, recovery=recovery) as loaded:
        yield LanguageRun(loaded, request.getfixturevalue("expected"))


@contextmanager
def graph_run(split: str, recovery: RecoveryConfig, request: pytest.FixtureRequest) -> Iterator[GraphRun]:
    chain: Path = request.getfixturevalue("chain")
    with launch_graph(plan_graph(GraphLaunchConfig(model=str(chain), split=split, threads=1))) as loaded:
        engine = BatchEngine(
            loaded.executors,
            loaded.plan.batch,
            BatchingConfig(max_batch=ROWS),
            factories=loaded.factories,
            recovery=recovery,
            row_s=loaded.row_s,
            sample=loaded.sample,
        )
        with closing(engine):
            yield GraphRun(engine, len(loaded.plan.replicas), plain_session(chain))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = skip_chain(tmp_path_factory.mktemp("chain") / "chain.onnx")
    plain_session(path)  # before leaks are looked for: ONNX Runtime keeps what it opens
    return path


def counts(transcript: Transcript, name: str) -> tuple[int, int]:
    end = transcript.ends[name]
    return end.num_prompt_tokens, end.num_output_tokens


@pytest.fixture(scope="module")
def expected(unsplit: LoadedModel) -> Transcript:
    return transcribe(unsplit.engine, [*REQUESTS, LONG_PROMPT])


def during_prefill(run: Run, strike: Callable[[int], None]) -> None:
    assert isinstance(run, LanguageRun)
    run.add([LONG_PROMPT])
    run.transcript.take(run.loaded.engine.turn(0))
    strike(run.busy_pids()[0])
    assert not run.transcript.tokens


def in_mid_work(run: Run, strike: Callable[[int], None]) -> None:
    run.start()
    run.work_until(5)
    strike(run.busy_pids()[-1] if isinstance(run, LanguageRun) else run.pids()[-1])


def while_idle(run: Run, strike: Callable[[int], None]) -> None:
    """At first it has never done anything."""
    strike(run.pids()[0])
    run.start()


def two_at_once(run: Run, strike: Callable[[int], None]) -> None:
    run.start()
    run.work_until(2)
    for pid in run.pids()[:2]:
        strike(pid)


def every_worker(run: Run, strike: Callable[[int], None]) -> None:
    run.start()
    if isinstance(run, LanguageRun):
        run.loaded.engine.add(LONG_PROMPT)
    run.work_until(2)
    for pid in run.pids():
        strike(pid)


def during_recovery(run: Run, strike: Callable[[int], None]) -> None:
    """One is lost; as soon as others are being started in its place, one of those is lost too, while it loads."""
    before = {child.pid for child in worker_processes(psutil.Process())}
    run.start()
    run.work_until(2)
    os.kill(run.pids()[0], signal.SIGKILL)
    started: set[int] = set()
    while not started:
        run.turn()
        started = {child.pid for child in worker_processes(psutil.Process())} - before
    strike(max(started))


POINTS = {
    signal.SIGKILL: (while_idle, during_prefill, in_mid_work, during_recovery, two_at_once, every_worker),
    signal.SIGSTOP: (while_idle, during_prefill, in_mid_work, every_worker),
}
GRAPH_SPLITS = ("pp=2", "dp=2")


KINDS: tuple[tuple[str, OpenRun, str], ...] = (
    *(("language", language_run, split) for split in SPLITS),
    *(("graph", graph_run, split) for split in GRAPH_SPLITS),
)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    ("number", "kind", "split"),
    [
        pytest.param(number, kind, split, id=f"{number.name}-{name}-{split}")
        for (name, kind, split), number in in_turn(KINDS, tuple(POINTS))
    ],
)
def test_requests_go_on(number: signal.Signals, kind: OpenRun, split: str, request: pytest.FixtureRequest) -> None:
    with kind(split, QUICK if number == signal.SIGSTOP else PATIENT, request) as run:
        descriptors = kinds_of_descriptors()
        for point in POINTS[number]:
            if point is during_prefill and not isinstance(run, LanguageRun):
                continue
            num_losses = run.num_losses
            point(run, lambda pid: os.kill(pid, number))
            run.finish(f"{point.__name__} {split}")
            assert run.num_losses > num_losses, point.__name__
        if isinstance(run, LanguageRun):
            stats = run.loaded.engine.stats()
            assert stats.num_replays >= NUM_REQUESTS
            assert stats.replayed_tokens > 0
            assert len(stats.recoveries_s) == stats.num_recoveries > 0
        assert kinds_of_descriptors() == descriptors


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(("split", "dies"), in_turn(("pp=2", "tp=2"), (0, 1)))
def test_only_the_lost_worker_loads_again(split: str, dies: int, tiny_model: Path, expected: Transcript) -> None:
    with launch_tiny(tiny_model, split=split, recovery=PATIENT) as loaded:
        run = LanguageRun(loaded, expected)
        before = run.pids()
        run.start()
        run.work_until(5)
        os.kill(before[dies], signal.SIGKILL)
        run.finish(f"{dies} of {split}")
        after = run.pids()
        assert (after[dies] == before[dies], after[1 - dies] == before[1 - dies]) == (False, True)
        assert loaded.engine.stats().num_losses == 1


def test_a_hung_worker_takes_its_replica_along(tiny_model: Path, expected: Transcript) -> None:
    """Nobody knows which of the silent ones it is."""
    with launch_tiny(tiny_model, split="pp=2", recovery=QUICK) as loaded:
        run = LanguageRun(loaded, expected)
        before = run.pids()
        run.start()
        run.work_until(5)
        os.kill(before[1], signal.SIGSTOP)
        run.finish("hung")
        assert not set(before) & set(run.pids())


def test_workers_lost_at_the_first_start_are_started_again(tiny_model: Path, expected: Transcript) -> None:
    """The first child that appears is killed while it loads."""
    struck: list[int] = []

    def strike() -> None:
        while not struck:
            struck.extend(child.pid for child in worker_processes(psutil.Process()))
        os.kill(struck[0], signal.SIGKILL)

    striker = threading.Thread(target=strike)
    striker.start()
    with launch_tiny(tiny_model, split="pp=2", recovery=PATIENT) as loaded:
        striker.join()
        run = LanguageRun(loaded, expected)
        run.start()
        run.finish("at the first start")
        assert struck[0] not in run.pids()


def test_a_worker_lost_inside_a_collective(tiny_model: Path, expected: Transcript) -> None:
    """One shard stands still, so that the other is waiting for it in a sum when it dies."""
    with launch_tiny(tiny_model, split="tp=2", recovery=PATIENT) as loaded:
        run = LanguageRun(loaded, expected)
        run.start()
        run.work_until(5)
        waits, dies = run.pids()
        os.kill(dies, signal.SIGSTOP)
        while psutil.Process(waits).status() != psutil.STATUS_SLEEPING:
            pass
        os.kill(dies, signal.SIGKILL)
        run.finish("in a collective")
        assert loaded.engine.stats().num_losses == 1


def test_a_worker_lost_while_a_hung_one_is_not_noticed(tiny_model: Path, expected: Transcript) -> None:
    with launch_tiny(tiny_model, split="dp=2,pp=2", recovery=QUICK) as loaded:
        run = LanguageRun(loaded, expected)
        run.start()
        run.work_until(5)
        pids = run.pids()
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(pids[3], signal.SIGKILL)
        run.finish("hung and killed")


def test_killed_again_and_again_while_it_works(tiny_model: Path, expected: Transcript) -> None:
    """More often than failures in a row are allowed: each time it has done some work."""
    with launch_tiny(tiny_model, split="pp=2", recovery=PATIENT) as loaded:
        run = LanguageRun(loaded, expected)
        run.start()
        for num_tokens in range(2, 2 + 3 * (PATIENT.max_failures + 1), 3):
            run.work_until(num_tokens)
            os.kill(run.pids()[num_tokens % 2], signal.SIGKILL)
            run.follow(lambda: bool(loaded.engine.stats().num_recovering))
        run.finish("again and again")
        assert loaded.engine.stats().num_losses == PATIENT.max_failures + 1
