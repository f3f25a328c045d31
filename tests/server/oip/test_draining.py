"""A graph server that is about to end, over both protocols."""

from __future__ import annotations

import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import httpx
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.server.oip.fakes import FakeGraphExecutor, doubler
from tests.server.oip.rest.test_rest_errors import GOOD, check_error
from tests.server.oip.running import RunningServer, run_server
from tests.server.oip.triton_inputs import doubler_inputs

INFER = "/v2/models/doubler/infer"


def test_open_requests_finish_and_new_ones_are_refused() -> None:
    with (
        run_server({"doubler": doubler}) as running,
        ThreadPoolExecutor(2) as pool,
        httpx.Client(base_url=running.url, timeout=30) as http,
        tritonclient.grpc.InferenceServerClient(running.grpc_address) as rpc,
        _stalled(running.loader.executor("doubler")) as executor,
    ):
        open_calls = [pool.submit(_infer_http, running)]
        assert executor.submitted.acquire(timeout=30)
        open_calls.append(pool.submit(_infer_grpc, running))
        while 'shoal:inference_pending_request_count{model="doubler",version="1"} 1' not in http.get("/metrics").text:
            assert not open_calls[1].done()
        running.server.handle_exit(signal.SIGTERM, None)
        response = http.post(INFER, json=GOOD)
        check_error(response, 503, "shutting down")
        assert response.headers["retry-after"] == "1"
        with pytest.raises(InferenceServerException) as refused:
            rpc.infer("doubler", doubler_inputs(tritonclient.grpc))
        assert refused.value.status() == str(grpc.StatusCode.UNAVAILABLE)
        assert not rpc.is_server_ready()
        assert rpc.is_server_live()
        statuses = {path: http.get(path).status_code for path in ("/v2/health/ready", "/v2/health/live", "/health")}
        assert statuses == {"/v2/health/ready": 503, "/v2/health/live": 200, "/health": 200}
        executor.release()
        assert [call.result(30) for call in open_calls] == [[2.0, 4.0, 6.0, 8.0], [0.0, 2.0, 4.0, 6.0]]


@contextmanager
def _stalled(executor: FakeGraphExecutor) -> Generator[FakeGraphExecutor, None, None]:
    """Answers nothing until it is released, at the latest when the block ends."""
    executor.is_stalled = True
    try:
        yield executor
    finally:
        executor.release()


def _infer_http(running: RunningServer) -> list[float]:
    answer = httpx.post(f"{running.url}{INFER}", json=GOOD, timeout=30).json()
    return answer["outputs"][0]["data"][:4]


def _infer_grpc(running: RunningServer) -> list[float]:
    with tritonclient.grpc.InferenceServerClient(running.grpc_address) as client:
        return client.infer("doubler", doubler_inputs(tritonclient.grpc)).as_numpy("y")[0].tolist()


def test_a_server_that_its_cluster_will_end_is_healthy_and_not_ready() -> None:
    graph, ends = doubler(), list[str]()
    graph.supervisor.machines = [{"name": "h0", "state": "has workers"}]
    with run_server({"doubler": lambda: graph}) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        (model,) = http.get("/status").json()["models"]
        assert model["machines"] == graph.supervisor.machines
        assert http.get("/ready").status_code == 200
        graph.supervisor.trouble = "Ray's head at h0:6379 does not answer"
        assert http.get("/ready").json()["reason"] == graph.supervisor.trouble
        assert http.get("/health").status_code == 200
        running.repository.on_headless = ends.append
        assert graph.supervisor.leave is not None
        graph.supervisor.leave(graph.supervisor.trouble)
    assert ends == [graph.supervisor.trouble]
