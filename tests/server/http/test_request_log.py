"""Every request has a name, which goes back, and a line in the log, which holds nothing that is secret."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
import tritonclient.grpc as triton

from shoal.server.http.request_log import MAX_ID_CHARS
from tests.server.fakes import FakeEngine
from tests.server.oip.running import run_server as run_graph_server
from tests.server.oip.triton_inputs import doubler_inputs
from tests.server.running_server import run_server

SECRET = "the-prompt-is-secret"
NAMED = {"x-request-id": "mine/1.2"}


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "shoal")


def access_records(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name == "shoal.access"]


def test_a_name_is_taken_given_back_and_logged_with_the_tokens(caplog: pytest.LogCaptureFixture) -> None:
    body = {"prompt": SECRET, "max_tokens": 3}
    with run_server(FakeEngine(), api_key="key") as running, httpx.Client(base_url=running.url, timeout=30) as http:
        headers = {"authorization": "Bearer key", **NAMED}
        for more in ({}, {"stream": True}):
            response = http.post("/v1/completions?q=hidden", json={**body, **more}, headers=headers)
            assert response.headers["x-request-id"] == "mine/1.2"
        names = [request.request_id for request in running.engine.requests]
    for record in access_records(caplog):
        assert (record.method, record.path, record.status) == ("POST", "/v1/completions", 200)
        assert record.request_id == "mine/1.2"
        assert (record.prompt_tokens, record.completion_tokens) == (len(SECRET), 3)
        assert record.ms > 0
        assert record.getMessage().endswith(f"id=mine/1.2 prompt_tokens={len(SECRET)} completion_tokens=3")
    assert len(access_records(caplog)) == 2
    assert all(name.startswith("mine/1.2-") for name in names)
    assert len(set(names)) == 2, "one name may be given twice"
    for secret in (SECRET, "key", "hidden"):
        assert secret not in caplog.text


@pytest.mark.parametrize("name", ["", "a" * (MAX_ID_CHARS + 1), "two words", "caf\xe9"])
def test_a_name_that_no_line_should_hold_is_replaced(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with run_server(FakeEngine()) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        raw = [(b"x-request-id", name.encode("latin-1"))]
        ids = [http.get("/v1/models", headers=raw).headers["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(len(one) == 32 and one.isalnum() for one in ids)
    assert [record.request_id for record in access_records(caplog)] == ids


def test_refusals_and_failures_have_names_and_lines_too(caplog: pytest.LogCaptureFixture) -> None:
    with run_server(FakeEngine(), api_key="key") as running, httpx.Client(base_url=running.url, timeout=30) as http:
        key = {"authorization": "Bearer key"}
        responses = [
            http.get("/v1/models", headers=NAMED),
            http.get("/nowhere%0A%1B[31m", headers=NAMED),
            http.post("/v1/completions", content=b"{", headers=NAMED | key),
        ]
    assert [response.status_code for response in responses] == [401, 404, 400]
    assert all(response.headers["x-request-id"] == "mine/1.2" for response in responses)
    records = access_records(caplog)
    assert [record.status for record in records] == [401, 404, 400]
    assert all(record.getMessage().isprintable() for record in records), "no client writes lines of its own"


def test_over_grpc_the_name_is_metadata(caplog: pytest.LogCaptureFixture) -> None:
    import grpc

    from shoal.server.oip.rpc.server import SERVICE

    with run_graph_server(api_key="key") as running, grpc.insecure_channel(running.grpc_address) as channel:

        def call(method: str, *metadata: tuple[str, str]) -> tuple[str, str]:
            waiting = channel.unary_unary(f"/{SERVICE}/{method}").with_call
            done: Any
            try:
                _, done = waiting(b"", metadata=metadata, timeout=30)
            except grpc.RpcError as error:
                done = error
            return dict(done.initial_metadata())["x-request-id"], done.code().name

        assert call("ServerLive", ("x-request-id", "mine")) == ("mine", "OK")
        assert call("ModelInfer", ("x-request-id", "mine"), ("authorization", "Bearer key")) == ("mine", "NOT_FOUND")
        assert call("ModelInfer", ("x-request-id", "mine")) == ("mine", "UNAUTHENTICATED")
        replaced, _ = call("ServerLive", ("x-request-id", "two words"))
        with triton.InferenceServerClient(running.grpc_address) as client:
            client.infer("doubler", doubler_inputs(triton), headers={"authorization": "Bearer key"})
    told = [(record.method, record.path, record.status, record.request_id) for record in access_records(caplog)]
    assert told[:4] == [
        ("gRPC", "ServerLive", "OK", "mine"),
        ("gRPC", "ModelInfer", "NOT_FOUND", "mine"),
        ("gRPC", "without the key", "UNAUTHENTICATED", "mine"),
        ("gRPC", "ServerLive", "OK", replaced),
    ]
    assert told[4][:3] == ("gRPC", "ModelInfer", "OK")


def test_the_story_is_behind_the_key_and_told_of_replicas_and_requests() -> None:
    engine = FakeEngine()
    engine.story.note(0.0, 0, "request call-0 came, 3 prompt tokens", request_ids=["call-0"])
    engine.story.note(1.0, 0, "decided", ["step 1, 3 rows of 1 requests"])
    with run_server(engine, api_key="key") as running, httpx.Client(base_url=running.url, timeout=30) as http:
        http.headers["authorization"] = "Bearer key"
        whole = http.get("/status/story", params={"of": "0"}).json()["entries"]
        part = http.get("/status/story", params={"of": "call"}).json()["entries"]
        assert http.get("/status/story", params={"of": "1"}).json() == {"entries": []}
        assert http.get("/status/story").status_code == 400
        assert http.get("/status/story", params={"of": "a" * 1000}).status_code == 400
        assert http.get("/status/story", params={"of": "0"}, headers={"authorization": ""}).status_code == 401
    assert part == whole[:1]
    assert [entry["event"] for entry in whole] == ["request call-0 came, 3 prompt tokens", "decided"]
    assert whole[1]["effects"] == ["step 1, 3 rows of 1 requests"]
    assert {entry["model"] for entry in whole} == {"tiny"}
    assert whole[0]["time"] < whole[1]["time"]


def test_the_story_of_a_graph_names_its_requests_by_their_ids() -> None:
    from tests.server.oip.rest.test_rest_errors import GOOD

    with run_graph_server() as running, httpx.Client(base_url=running.url, timeout=30) as http:
        assert http.post("/v2/models/doubler/infer", json=GOOD, headers=NAMED).status_code == 200
        entries = http.get("/status/story", params={"of": "mine/1.2"}).json()["entries"]
    assert [entry["replica"] for entry in entries] == [None, 0, 0]
    came, sent, ended = entries
    assert " came, " in came["event"]
    assert sent["effects"] == ["batch 0, 1 rows of 1 requests"]
    assert ended["effects"][0].endswith(" ended")
