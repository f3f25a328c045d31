"""Health, readiness by evidence, metrics that parse."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal.core.readiness import HealthConfig
from shoal.generation.data_plane import DataPlane
from shoal.generation.generation import GenerationSpec
from shoal.server.generation.generation_status import HANG_S, GenerationStatus
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.draining import Drain
from shoal.server.http.health.readiness import ReadinessProbe
from tests.server.fakes import ByteTokenizer, FakeEngine, FakeStats
from tests.server.running_server import run_server


def samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels["model_name"] == "tiny"
            reason = sample.labels.get("finished_reason") or sample.labels.get("reason")
            if "le" not in sample.labels:
                found[f"{sample.name}/{reason}" if reason else sample.name] = sample.value
    return found


def test_metrics_count_what_happened() -> None:
    with run_server(FakeEngine()) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        http.post("/v1/completions", json={"prompt": "{abc}"})
        http.post("/v1/completions", json={"prompt": "{abcdef}", "max_tokens": 2, "n": 2})
        values = samples(http.get("/metrics").text)
    expected = {
        "shoal:prompt_tokens_total": 5 + 8 + 8,
        "shoal:generation_tokens_total": 4 + 2 + 2,
        "shoal:request_success_total/stop": 1,
        "shoal:request_success_total/length": 2,
        "shoal:time_to_first_token_seconds_count": 3,
        "shoal:inter_token_latency_seconds_count": 3 + 1 + 1,
        "shoal:request_time_per_output_token_seconds_count": 3,
        "shoal:e2e_request_latency_seconds_count": 3,
        "shoal:request_prompt_tokens_sum": 21,
        "shoal:request_generation_tokens_sum": 8,
        "shoal:num_requests_running": 0,
        "shoal:num_requests_waiting": 0,
        "shoal:kv_cache_usage_perc": 0.25,
        "shoal:prefix_cache_queries_total": 40,
        "shoal:prefix_cache_hits_total": 16,
        "shoal:num_preemptions_total": 3,
    }
    assert {name: values.get(name) for name in expected} == expected


def test_slow_workers_are_named() -> None:
    with run_server(FakeEngine()) as running:
        text = httpx.get(f"{running.url}/metrics").text
    found = {
        (sample.labels["replica"], sample.labels["stage"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "shoal:worker_slowdown"
    }
    assert found == {("0", "0"): 1.0, ("0", "1"): 2.5, ("1", "0"): 1.25}


@pytest.mark.parametrize(
    "accept",
    [
        # of Prometheus 2.42 and of Prometheus 3
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3",
        "application/openmetrics-text",
    ],
)
def test_names_are_the_same_whoever_asks(accept: str) -> None:
    with run_server(FakeEngine()) as running:
        response = httpx.get(f"{running.url}/metrics", headers={"accept": accept})
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = {one.name for family in text_string_to_metric_families(response.text) for one in family.samples}
    assert names
    assert all(name.startswith("shoal:") for name in names)


def test_two_apps_do_not_share_metrics() -> None:
    first, second = ServerMetrics("tiny"), ServerMetrics("tiny")
    first.count_end("stop")
    assert b"finished_reason" in first.expose()
    assert b"finished_reason" not in second.expose()


def test_health_version_and_openness_with_a_key() -> None:
    with run_server(FakeEngine(), api_key="key") as running, httpx.Client(base_url=running.url, timeout=30) as http:
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/ready").json() == {"status": "ready"}
        assert http.get("/metrics").status_code == 200
        assert http.get("/version").json()["version"]
        assert http.get("/v1/models").status_code == 401


def test_ready_sends_a_canary_only_without_fresh_tokens() -> None:
    engine = FakeEngine()
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        assert http.get("/ready").status_code == 200
        assert [request.max_tokens for request in engine.requests] == [1]
        assert http.get("/ready").status_code == 200
        assert len(engine.requests) == 1
        assert samples(http.get("/metrics").text)["shoal:generation_tokens_total"] == 0


def test_a_canary_that_is_late_keeps_the_server_unready_until_it_answers() -> None:
    engine = FakeEngine(stall_after=0)
    clock = iter(range(10_000))

    async def run() -> None:
        data_plane = DataPlane(engine, ByteTokenizer(), metrics=ServerMetrics("tiny"), clock=lambda: float(next(clock)))
        data_plane.start()
        probe = ReadinessProbe(data_plane, HealthConfig(window_s=1000.0, canary_deadline_s=0.5))
        assert not await probe.is_ready()
        assert not await probe.is_ready()
        async with await data_plane.generate([GenerationSpec(prompt_ids=(1,), max_tokens=2)]) as generation:
            engine.release()
            assert [delta async for deltas in generation for delta in deltas]
        assert await probe.is_ready()
        await data_plane.close()

    asyncio.run(run())
    assert len(engine.requests) == 2


def test_without_any_replica_the_server_is_healthy_and_not_ready() -> None:
    engine = FakeEngine()
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        assert http.post("/v1/completions", json={"prompt": "{abc}"}).status_code == 200
        engine.base_stats = FakeStats(num_replicas=0, num_recovering=2)
        assert http.get("/health").status_code == 200
        assert http.get("/ready").status_code == 503
        assert "2 replicas have lost their workers" in http.get("/ready").json()["reason"]
        engine.base_stats = FakeStats(num_replicas=1, num_recovering=1)
        assert http.get("/ready").status_code == 200
    assert len(engine.requests) == 1


@dataclass
class Machines:
    """Two, of which one is gone. Implements `MachineState`."""

    trouble: str | None = None

    def describe(self) -> list[dict[str, str]]:
        return [{"name": "h0", "state": "has workers"}, {"name": "h1", "state": "does not answer"}]


def test_a_server_that_its_cluster_will_end_is_healthy_and_not_ready() -> None:
    machines = Machines()
    with run_server(FakeEngine(), machines=machines) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        assert http.get("/ready").status_code == 200
        (model,) = http.get("/status").json()["models"]
        assert model["machines"] == machines.describe()
        machines.trouble = "Ray's head at h0:6379 does not answer"
        assert http.get("/ready").status_code == 503
        assert http.get("/ready").json()["reason"] == machines.trouble
        assert http.get("/health").status_code == 200


def test_losses_and_recoveries_are_counted() -> None:
    engine = FakeEngine()
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        engine.base_stats = FakeStats(
            num_replicas=1,
            num_recovering=1,
            num_losses=3,
            num_replays=5,
            replayed_tokens=77,
            num_recoveries=2,
            recoveries_s=(0.5, 2.0),
        )
        first = samples(http.get("/metrics").text)
        again = samples(http.get("/metrics").text)
        engine.base_stats = FakeStats(num_recoveries=3, recoveries_s=(0.5, 2.0, 4.0))
        last = samples(http.get("/metrics").text)
    expected = {
        "shoal:replicas": 1,
        "shoal:replicas_recovering": 1,
        "shoal:worker_losses_total": 3,
        "shoal:request_replays_total": 5,
        "shoal:replayed_tokens_total": 77,
        "shoal:recovery_seconds_count": 2,
        "shoal:recovery_seconds_sum": 2.5,
    }
    assert {name: first.get(name) for name in expected} == expected
    assert {name: again.get(name) for name in expected} == expected
    assert (last["shoal:recovery_seconds_count"], last["shoal:recovery_seconds_sum"]) == (3, 6.5)


def test_an_engine_that_hangs_is_unhealthy_until_it_moves() -> None:
    engine = FakeEngine()
    now_s = [100.0]

    async def run() -> None:
        metrics = ServerMetrics("tiny")
        data_plane = DataPlane(engine, ByteTokenizer(), metrics=metrics, clock=lambda: now_s[0])
        data_plane.start()
        status = GenerationStatus(data_plane, metrics, Drain(), dict)
        assert status.failure is None
        await data_plane.stats()
        hang = engine.hang()
        assert status.failure is None
        now_s[0] += HANG_S + 1
        assert status.failure is not None
        assert "has not moved for 31 s" in status.failure
        hang.set()
        await data_plane.stats()
        assert status.failure is None
        await data_plane.close()

    asyncio.run(run())


def test_status_says_what_the_server_is_made_of() -> None:
    with run_server(FakeEngine()) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        http.post("/v1/completions", json={"prompt": "{abc}"})
        (model,) = http.get("/status").json()["models"]
    assert (model["name"], model["kind"]) == ("tiny", "language model")
    assert [replica["state"] for replica in model["replicas"]] == ["serving", "starting"]
    assert [replica["is_reduced"] for replica in model["replicas"]] == [True, False]
    assert model["replicas"][0]["stages"][1] == {"step_s": 0.02, "slowdown": 2.5, "busy_s": 6.0}
    work = {name: model["replicas"][0][name] for name in ("running", "waiting", "kv_usage", "pids")}
    assert work == {"running": 2, "waiting": 1, "kv_usage": 0.5, "pids": [11, 12]}
    assert (model["counters"]["prompt_tokens"], model["counters"]["generation_tokens"]) == (5, 4)


def test_status_needs_the_key() -> None:
    with run_server(FakeEngine(), api_key="secret") as running:
        assert httpx.get(f"{running.url}/status").status_code == 401
        assert httpx.get(f"{running.url}/health").status_code == 200
        answer = httpx.get(f"{running.url}/status", headers={"authorization": "Bearer secret"})
        assert answer.status_code == 200
