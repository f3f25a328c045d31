"""Metrics under Triton's names and meanings; readiness by canary."""

from __future__ import annotations

from dataclasses import replace

import httpx
from prometheus_client.parser import text_string_to_metric_families

from shoal.core.plan.graph import PredictedRows
from tests.server.oip.fakes import FakeGraph, doubler
from tests.server.oip.rest.test_rest_errors import GOOD
from tests.server.oip.running import run_server


def test_metrics_count_what_happened() -> None:
    two_rows = {
        "inputs": [
            {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": list(range(8))},
            {"name": "ids", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]},
        ]
    }
    with run_server() as running, httpx.Client(base_url=running.url, timeout=30) as http:
        assert http.get("/ready").status_code == 200
        for body, status in ((GOOD, 200), (two_rows, 200), ({"inputs": []}, 400)):
            assert http.post("/v2/models/doubler/infer", json=body).status_code == status
        response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    labels = '{model="doubler",version="1"}'
    for line in (
        f"shoal:inference_request_success{labels} 2",
        'shoal:inference_request_failure{model="doubler",version="1",reason="OTHER"} 1',
        'shoal:inference_request_failure{model="doubler",version="1",reason="REJECTED"} 0',
        f"shoal:inference_count{labels} 3",
        f"shoal:inference_exec_count{labels} 2",
        f"shoal:inference_pending_request_count{labels} 0",
        'shoal:inference_batch_size_bucket{model="doubler",version="1",le="1"} 1',
        'shoal:inference_batch_size_bucket{model="doubler",version="1",le="2"} 2',
        f"shoal:inference_batch_size_sum{labels} 3",
        f"shoal:inference_batch_size_count{labels} 2",
        f"shoal:inference_replicas{labels} 1",
    ):
        assert line in response.text.splitlines()
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert families["shoal:inference_count"].type == "counter"
    assert families["shoal:inference_batch_size"].type == "histogram"
    compute_s = families["shoal:inference_compute_infer_duration_seconds"].samples[0].value
    assert 0.002 <= compute_s <= 0.0021
    assert families["shoal:inference_request_duration_seconds"].samples[0].value > 0
    assert families["shoal:inference_rows_per_second"].samples[0].value > 0
    assert families["shoal:inference_predicted_rows_per_second"].samples == []


def test_a_prediction_stands_beside_what_was_measured() -> None:
    def planned() -> FakeGraph:
        graph = doubler()
        graph.plan = replace(graph.plan, predicted=PredictedRows(rows_per_s=123.5, latency_s=0.01))
        return graph

    with run_server({"doubler": planned}) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        lines = http.get("/metrics").text.splitlines()
    labels = '{model="doubler",version="1"}'
    assert f"shoal:inference_predicted_rows_per_second{labels} 123.5" in lines
    assert f"shoal:inference_rows_per_second{labels} 0.0" in lines


def test_readiness_runs_the_sample_and_believes_it_for_a_while() -> None:
    with run_server() as running, httpx.Client(base_url=running.url, timeout=30) as http:
        executor = running.loader.executor("doubler")
        assert executor.batches == []
        for path in ("/ready", "/v2/health/ready", "/v2/models/doubler/ready"):
            assert http.get(path).status_code == 200
        assert len(executor.batches) == 1


def test_a_server_whose_workers_cannot_compute_is_not_ready() -> None:
    with run_server() as running, httpx.Client(base_url=running.url, timeout=30) as http:

        def refuse(_: object) -> dict:
            raise ValueError("out of order")

        running.loader.executor("doubler").function = refuse
        assert http.get("/v2/health/ready").status_code == 503
        assert http.get("/v2/health/live").status_code == 200
