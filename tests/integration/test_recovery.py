"""Workers die and hang at every point of their lives: requests go on, with the tokens that they would have had."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from shoal.core.sequences.request import Request, RequestId
from shoal.launch.launch import LoadedModel
from shoal.protocol.messages import Sampling
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

SPLITS = ("pp=2", "dp=2", "tp=2", "dp=2,pp=2")
SAMPLED = Sampling(temperature=1.0, top_p=0.95, seed=7, presence_penalty=0.3, num_logprobs=1)
LONG_PROMPT = Request(
    request_id=RequestId("long"),
    prompt_ids=tuple(random_tokens(400, seed=99)),
    max_tokens=8,
    sampling=Sampling(temperature=0.0),
)
"""seven steps of prefill"""


@dataclass
class Run:
    """A loaded model, its requests, and what came of them."""

    loaded: LoadedModel
    expected: Transcript
    transcript: Transcript = field(default_factory=Transcript)

    def start(self, requests: Sequence[Request]) -> None:
        self.transcript = Transcript()
        for request in requests:
            self.loaded.engine.add(request)

    def follow(self, until: Callable[[], bool]) -> None:
        self.transcript.follow(self.loaded.engine, until)

    def pids(self) -> list[int]:
        """Of all workers that serve."""
        return [pid for executor in executors(self.loaded) for pid in executor.worker_pids()]

    def busy_pids(self) -> list[int]:
        """Of those that compute for a request: who hangs without being asked for anything is not noticed."""
        stats = self.loaded.engine.stats().replicas
        busy = [one for one, of in zip(executors(self.loaded), stats, strict=True) if of.num_running]
        return [pid for executor in busy for pid in executor.worker_pids()]

    def finish(self, point: str) -> None:
        """To the end of every request, and until every replica is whole again."""
        engine = self.loaded.engine
        self.follow(lambda: not engine.has_work)
        names = self.transcript.ends.keys()
        for name in names:
            assert self.transcript.tokens[name] == self.expected.tokens[name], f"{point}: {name}"
            assert self.transcript.ends[name].reason == "length", f"{point}: {name}"
            assert counts(self.transcript, name) == counts(self.expected, name), f"{point}: {name}"
        self.follow(lambda: not engine.stats().num_recovering)
        assert engine.stats().num_replicas == len(self.loaded.plan.replicas), point

    def decode_until(self, num_tokens: int) -> None:
        """Until the youngest request has so many tokens."""
        name = f"request-{NUM_REQUESTS - 1}"
        self.follow(lambda: len(self.transcript.tokens.get(name, ())) >= num_tokens)


NUM_REQUESTS = 4
REQUESTS = make_requests(NUM_REQUESTS, max_tokens=40, sampling=SAMPLED)


def counts(transcript: Transcript, name: str) -> tuple[int, int]:
    end = transcript.ends[name]
    return end.num_prompt_tokens, end.num_output_tokens


@pytest.fixture(scope="module")
def expected(unsplit: LoadedModel) -> Transcript:
    return transcribe(unsplit.engine, [*REQUESTS, LONG_PROMPT])


def during_prefill(run: Run, strike: Callable[[int], None]) -> None:
    run.start([LONG_PROMPT])
    run.transcript.take(run.loaded.engine.turn(0))
    strike(run.busy_pids()[0])
    assert not run.transcript.tokens


def in_mid_decode(run: Run, strike: Callable[[int], None]) -> None:
    run.start(REQUESTS)
    run.decode_until(5)
    strike(run.busy_pids()[-1])


def while_idle(run: Run, strike: Callable[[int], None]) -> None:
    strike(run.pids()[0])
    run.start(REQUESTS)


def two_at_once(run: Run, strike: Callable[[int], None]) -> None:
    run.start(REQUESTS)
    run.decode_until(2)
    for pid in run.pids()[:2]:
        strike(pid)


def every_worker(run: Run, strike: Callable[[int], None]) -> None:
    run.start([*REQUESTS, LONG_PROMPT])
    run.decode_until(2)
    for pid in run.pids():
        strike(pid)


def during_recovery(run: Run, strike: Callable[[int], None]) -> None:
    """One is lost; as soon as others are being started in its place, one of those is lost too, while it loads."""
    before = {child.pid for child in psutil.Process().children()}
    run.start(REQUESTS)
    run.decode_until(2)
    os.kill(run.pids()[0], signal.SIGKILL)
    started: set[int] = set()
    while not started:
        run.transcript.take(run.loaded.engine.turn(TURN_S))
        started = {child.pid for child in psutil.Process().children()} - before
    strike(max(started))


POINTS = {
    signal.SIGKILL: (during_prefill, in_mid_decode, while_idle, during_recovery, two_at_once, every_worker),
    signal.SIGSTOP: (during_prefill, in_mid_decode, every_worker),
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("number", POINTS, ids=lambda number: signal.Signals(number).name)
def test_requests_go_on(number: signal.Signals, split: str, tiny_model: Path, expected: Transcript) -> None:
    recovery = QUICK if number == signal.SIGSTOP else PATIENT
    with launch_tiny(tiny_model, split=split, recovery=recovery) as loaded:
        run = Run(loaded, expected)
        num_fds = len(os.listdir("/proc/self/fd"))
        for point in POINTS[number]:
            num_losses = loaded.engine.stats().num_losses
            point(run, lambda pid: os.kill(pid, number))
            run.finish(f"{point.__name__} {split}")
            assert loaded.engine.stats().num_losses > num_losses, point.__name__
        stats = loaded.engine.stats()
        assert stats.num_replays >= NUM_REQUESTS
        assert stats.replayed_tokens > 0
        assert len(stats.recoveries_s) == stats.num_recoveries > 0
        assert len(os.listdir("/proc/self/fd")) == num_fds


@pytest.mark.parametrize("split", ["pp=2", "tp=2"])
@pytest.mark.parametrize("dies", [0, 1])
def test_only_the_lost_worker_loads_again(dies: int, split: str, tiny_model: Path, expected: Transcript) -> None:
    with launch_tiny(tiny_model, split=split, recovery=PATIENT) as loaded:
        run = Run(loaded, expected)
        before = run.pids()
        run.start(REQUESTS)
        run.decode_until(5)
        os.kill(before[dies], signal.SIGKILL)
        run.finish(f"{dies} of {split}")
        after = run.pids()
        assert (after[dies] == before[dies], after[1 - dies] == before[1 - dies]) == (False, True)
        assert loaded.engine.stats().num_losses == 1


def test_a_hung_worker_takes_its_replica_along(tiny_model: Path, expected: Transcript) -> None:
    """Nobody knows which of the silent ones it is."""
    with launch_tiny(tiny_model, split="pp=2", recovery=QUICK) as loaded:
        run = Run(loaded, expected)
        before = run.pids()
        run.start(REQUESTS)
        run.decode_until(5)
        os.kill(before[1], signal.SIGSTOP)
        run.finish("hung")
        assert not set(before) & set(run.pids())


def test_workers_lost_at_the_first_start_are_started_again(tiny_model: Path, expected: Transcript) -> None:
    """The first child that appears is killed while it loads."""
    struck: list[int] = []

    def strike() -> None:
        while not struck:
            struck.extend(child.pid for child in psutil.Process().children())
        os.kill(struck[0], signal.SIGKILL)

    striker = threading.Thread(target=strike)
    striker.start()
    with launch_tiny(tiny_model, split="pp=2", recovery=PATIENT) as loaded:
        striker.join()
        run = Run(loaded, expected)
        run.start(REQUESTS)
        run.finish("at the first start")
        assert struck[0] not in run.pids()


def test_a_worker_lost_inside_a_collective(tiny_model: Path, expected: Transcript) -> None:
    """One shard stands still, so that the other is waiting for it in a sum when it dies."""
    with launch_tiny(tiny_model, split="tp=2", recovery=PATIENT) as loaded:
        run = Run(loaded, expected)
        run.start(REQUESTS)
        run.decode_until(5)
        waits, dies = run.pids()
        os.kill(dies, signal.SIGSTOP)
        while psutil.Process(waits).status() != psutil.STATUS_SLEEPING:
            pass
        os.kill(dies, signal.SIGKILL)
        run.finish("in a collective")
        assert loaded.engine.stats().num_losses == 1


def test_a_worker_lost_while_a_hung_one_is_not_noticed(tiny_model: Path, expected: Transcript) -> None:
    with launch_tiny(tiny_model, split="dp=2,pp=2", recovery=QUICK) as loaded:
        run = Run(loaded, expected)
        run.start(REQUESTS)
        run.decode_until(5)
        pids = run.pids()
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(pids[3], signal.SIGKILL)
        run.finish("hung and killed")


def test_killed_again_and_again_while_it_works(tiny_model: Path, expected: Transcript) -> None:
    """More often than failures in a row are allowed: each time it has done some work."""
    with launch_tiny(tiny_model, split="pp=2", recovery=PATIENT) as loaded:
        run = Run(loaded, expected)
        run.start(REQUESTS)
        for num_tokens in range(2, 2 + 3 * (PATIENT.max_failures + 1), 3):
            run.decode_until(num_tokens)
            os.kill(run.pids()[num_tokens % 2], signal.SIGKILL)
            run.follow(lambda: bool(loaded.engine.stats().num_recovering))
        run.finish("again and again")
        assert loaded.engine.stats().num_losses == PATIENT.max_failures + 1
