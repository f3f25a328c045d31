"""Several models in one server: loading, unloading, and the death of one that leaves the others alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from shoal.core.batching.config import BatchingConfig
from shoal.errors import WorkerLost
from shoal.inference.repository import ModelRepository
from shoal.server.http.serve import bind, serve_app
from shoal.server.oip.app import create_graph_app
from tests.server.oip.fakes import FakeLoader, doubler
from tests.server.oip.rest.test_rest_errors import GOOD, check_error
from tests.server.oip.running import ModelFile, Path, RunningServer, run_server
from tests.server.test_streaming import raw_post

TWO = {"one": doubler, "two": doubler}


def infer(http: httpx.Client, model: str) -> httpx.Response:
    return http.post(f"/v2/models/{model}/infer", json=GOOD)


def client_of(running: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=running.url, timeout=30)


def states(http: httpx.Client, **body: bool) -> dict[str, str]:
    return {line["name"]: line["state"] for line in http.post("/v2/repository/index", json=body).json()}


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again; the test's time-out ends what never comes."""
    while not condition():
        pass


def test_models_are_loaded_and_unloaded() -> None:
    with run_server(TWO, load=["one"]) as running, client_of(running) as http:
        assert states(http) == {"one": "READY", "two": "UNAVAILABLE", "broken": "UNAVAILABLE"}
        assert states(http, ready=True) == {"one": "READY"}
        check_error(infer(http, "two"), 404, "no available versions")
        assert http.post("/v2/repository/models/two/load").json() == {}
        assert infer(http, "two").status_code == 200
        parameters = {"parameters": {"unload_dependents": False}}
        assert http.post("/v2/repository/models/one/unload", json=parameters).status_code == 200
        check_error(infer(http, "one"), 404, "no available versions")
        assert running.loader.loaded["one"][0].num_closed
        assert infer(http, "two").status_code == 200
        check_error(http.post("/v2/repository/models/broken/load"), 400, "is broken")
        (line,) = (line for line in http.post("/v2/repository/index").json() if line["name"] == "broken")
        assert (line["state"], line["reason"]) == ("UNAVAILABLE", "broken.onnx is broken")
        assert http.get("/ready").status_code == 200


def test_every_later_load_happens_on_one_thread_that_stays() -> None:
    with run_server(TWO, load=["one"]) as running, client_of(running) as http:
        for name in ("two", "one", "two"):
            assert http.post(f"/v2/repository/models/{name}/load").status_code == 200
        loader = running.loader
        assert loader.threads[0] == threading.get_ident()
        assert len(set(loader.threads[1:])) == 1
        assert set(loader.threads[1:]) <= {thread.ident for thread in threading.enumerate()}


def test_a_model_loaded_anew_replaces_the_old_one_when_its_requests_have_ended() -> None:
    with run_server(TWO) as running, client_of(running) as http, ThreadPoolExecutor(2) as pool:
        old, old_model = running.loader.executor("one"), running.repository.get("one")
        old.is_stalled = True
        request = pool.submit(infer, http, "one")
        old.submitted.acquire(timeout=30)
        load = pool.submit(http.post, "/v2/repository/models/one/load")
        until(lambda: running.repository.get("one") is not old_model)
        assert infer(http, "one").status_code == 200
        assert running.loader.executor("one").batches
        assert not request.done()
        old.release()
        assert request.result(30).status_code == 200
        assert load.result(30).status_code == 200
        assert old.closed.is_set()


def test_a_load_that_fails_leaves_the_old_model_in_service() -> None:
    with run_server(TWO) as running, client_of(running) as http:
        del running.loader.makers["one"]
        check_error(http.post("/v2/repository/models/one/load"), 400, "one.onnx is broken")
        assert infer(http, "one").status_code == 200
        assert states(http)["one"] == "READY"


def test_unloading_lets_open_requests_finish() -> None:
    with run_server(TWO) as running, client_of(running) as http, ThreadPoolExecutor(2) as pool:
        executor = running.loader.executor("one")
        executor.is_stalled = True
        request = pool.submit(infer, http, "one")
        executor.submitted.acquire(timeout=30)
        unload = pool.submit(http.post, "/v2/repository/models/one/unload")
        until(lambda: states(http)["one"] == "UNLOADING")
        check_error(infer(http, "one"), 404)
        executor.release()
        assert request.result(30).status_code == 200
        assert unload.result(30).status_code == 200


def test_one_dead_model_leaves_the_others_alone_and_can_be_loaded_again() -> None:
    with run_server(TWO) as running, client_of(running) as http:
        running.loader.executor("one").lose()
        until(lambda: states(http)["one"] == "UNAVAILABLE")
        check_error(infer(http, "one"), 503, "lost its workers")
        check_error(http.get("/v2/models/one/ready"), 503)
        check_error(http.get("/v2/health/ready"), 503, "one: ")
        assert http.get("/ready").status_code == 503
        assert http.get("/health").status_code == 200
        assert infer(http, "two").status_code == 200
        assert http.post("/v2/repository/models/one/load").status_code == 200
        assert infer(http, "one").status_code == 200
        assert http.get("/ready").status_code == 200


def test_the_death_of_the_last_model_ends_the_server() -> None:
    loader = FakeLoader({"one": doubler})
    files = {"one": ModelFile(name="one", version="1", path=Path("one.onnx"))}
    repository = ModelRepository(lambda: files, loader, lambda file: BatchingConfig())
    repository.load_now("one")
    with pytest.raises(WorkerLost, match="one: the fake worker is gone"):
        serve_app(create_graph_app(repository), bind("127.0.0.1", 0), on_ready=lambda _: loader.executor("one").lose())
    assert loader.loaded["one"][0].num_closed


def test_a_client_that_goes_away_takes_its_waiting_request_with_it() -> None:
    with run_server({"one": doubler}, batching=BatchingConfig(max_batch=1)) as running, ThreadPoolExecutor(2) as pool:
        executor = running.loader.executor("one")
        executor.is_stalled = True
        with client_of(running) as http:
            busy = [pool.submit(infer, http, "one") for _ in range(2)]
            for _ in busy:
                executor.submitted.acquire(timeout=30)
            pending = 'pending_request_count{model="one",version="1"}'
            with raw_post(running.url, json.dumps(GOOD).encode(), path="/v2/models/one/infer"):
                until(lambda: f"{pending} 1\n" in http.get("/metrics").text)
            until(lambda: 'failure{model="one",version="1",reason="CANCELED"} 1\n' in http.get("/metrics").text)
            executor.release()
            assert [request.result(30).status_code for request in busy] == [200, 200]
        assert len(executor.batches) == 2
