"""Split over real processes, the model says what it says unsplit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.launch.launch import LoadedModel
from shoal.protocol.language_messages import Sampling
from tests.integration.leaks import no_leaks
from tests.integration.running import Transcript, executors, launch_tiny, make_requests, transcribe

SPLITS = ("pp=2", "pp=1:2:1", "dp=2", "dp=2,pp=2", "tp=2", "tp=3:1", "pp=2,tp=2", "dp=2,tp=2")
SAMPLED = Sampling(temperature=1.0, top_p=0.95, seed=42, presence_penalty=0.3)


@pytest.fixture(scope="module", params=SPLITS)
def split(request: pytest.FixtureRequest, tiny_model: Path, unsplit: LoadedModel) -> Iterator[LoadedModel]:
    """A running split; closing it must leave nothing behind either."""
    with no_leaks(), launch_tiny(tiny_model, split=request.param) as loaded:
        yield loaded


def test_greedy_tokens_equal_the_unsplit_ones(split: LoadedModel, unsplit: LoadedModel) -> None:
    requests = make_requests(6)
    expected = transcribe(unsplit.engine, requests)
    observed = transcribe(split.engine, requests)
    assert observed.tokens == expected.tokens
    assert {end.reason for end in observed.ends.values()} == {"length"}
    assert len({token for tokens in expected.tokens.values() for token in tokens}) > 30


def test_seeded_draws_equal_the_unsplit_ones(split: LoadedModel, unsplit: LoadedModel) -> None:
    requests = make_requests(6, sampling=SAMPLED)
    expected = transcribe(unsplit.engine, requests)
    assert transcribe(split.engine, requests).tokens == expected.tokens
    assert expected.tokens != transcribe(unsplit.engine, make_requests(6)).tokens


def test_every_replica_and_stage_has_its_process(split: LoadedModel) -> None:
    pids = [pid for executor in executors(split) for pid in executor.worker_pids()]
    assert len(set(pids)) == split.plan.num_workers
    assert split.engine.stats().num_replicas == len(split.plan.replicas)


def test_a_cancelled_request_stops_and_the_others_go_on(split: LoadedModel, unsplit: LoadedModel) -> None:
    requests = make_requests(4, max_tokens=40)
    expected = transcribe(unsplit.engine, requests)
    for request in requests:
        split.engine.add(request)
    observed = Transcript()
    observed.follow(split.engine, lambda: len(observed.tokens.get("request-1", ())) >= 3)
    split.engine.cancel(requests[1].request_id)
    observed.finish(split.engine)
    assert observed.ends["request-1"].reason == "cancelled"
    assert 3 <= len(observed.tokens["request-1"]) < 40
    for name in ("request-0", "request-2", "request-3"):
        assert observed.tokens[name] == expected.tokens[name]
        assert observed.ends[name].reason == "length"
    assert split.engine.stats().kv_usage == 0.0
