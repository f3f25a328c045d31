"""The bytes of a stream, and what happens when either end of it goes away."""

from __future__ import annotations

import json
import re
import socket
from http.client import HTTPResponse
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.fakes import FakeEngine
from tests.server.running_server import MODEL, RunningServer, run_server

COMPLETIONS = "/v1/completions"


def events_of(content: bytes) -> list[bytes]:
    assert content.endswith(b"\n\n")
    events = content[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [event.removeprefix(b"data: ") for event in events]


def raw_post(url: str, body: bytes, *, path: str = COMPLETIONS) -> socket.socket:
    """A client in full control of its connection."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    sock = socket.create_connection((parts.hostname, parts.port), timeout=30)
    sock.sendall(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
    )
    return sock


def test_bytes_of_a_completion_stream(http: httpx.Client) -> None:
    options = {"include_usage": True}
    body = {"prompt": '{a"\n}', "stream": True, "stream_options": options, "model": MODEL, "max_tokens": 2}
    response = http.post(COMPLETIONS, json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    *chunks, usage, done = events_of(response.content)
    assert done == b"[DONE]"
    choices = b"".join(re.findall(rb'"choices":\[(.*?)\],"usage":null\}', b"\n".join(chunks)))
    text = "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)
    assert text == 'a"'
    assert choices.endswith(b'"logprobs":null,"finish_reason":"length"}')
    fields = json.loads(usage)
    assert fields["object"] == "text_completion"
    assert fields["choices"] == []
    assert fields["usage"]["completion_tokens"] == 2
    assert {json.loads(chunk)["id"] for chunk in chunks} == {fields["id"]}


def test_bytes_of_a_chat_stream(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "{x}"}], "stream": True, "n": 2}
    *chunks, done = events_of(http.post("/v1/chat/completions", json=body).content)
    assert done == b"[DONE]"
    first, second = (json.loads(chunk) for chunk in chunks[:2])
    opening = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    assert first["choices"] == [{"index": 0, **opening}]
    assert second["choices"] == [{"index": 1, **opening}]
    assert first["object"] == "chat.completion.chunk"
    assert "usage" not in first


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    engine = FakeEngine(stall_after=4)
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        body = {"prompt": "{abcdeX}", "stream": True, "stop": "cdef"}
        with http.stream("POST", COMPLETIONS, json=body) as response:
            text, lines = "", response.iter_lines()
            while len(text) < 2:
                text += text_of(next(lines))
            assert text == "ab"
            engine.release()
            assert text + "".join(map(text_of, lines)) == "abcdeX"


def text_of(line: str) -> str:
    return json.loads(line.removeprefix("data: "))["choices"][0]["text"] if line.startswith("data: {") else ""


def test_a_stop_string_cancels_the_request() -> None:
    engine = FakeEngine(stall_after=9)
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        answer = http.post(COMPLETIONS, json={"prompt": "{one two three}", "stop": "wo t"}).json()
    assert answer["choices"][0]["text"] == "one t"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 9
    assert engine.cancelled == [engine.requests[0].request_id]


@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_a_client_that_leaves_frees_all_its_requests(stream: bytes) -> None:
    engine = FakeEngine(stall_after=3)
    with run_server(engine) as running:
        sock = raw_post(running.url, b'{"prompt": "{abcdef}", "n": 2, "stream": %s}' % stream)
        if stream == b"true":
            assert sock.recv(15) == b"HTTP/1.1 200 OK"
        else:
            wait_for_requests(engine, 2)
        sock.close()
        assert engine.cancel_seen.wait(30)
        metrics = httpx.get(f"{running.url}/metrics").text
    assert len(engine.cancelled) == 2
    assert 'shoal:num_requests_running{model_name="tiny"} 0.0' in metrics


def wait_for_requests(engine: FakeEngine, count: int) -> None:
    assert engine.added.acquire(timeout=30)
    for _ in range(count - 1):
        assert engine.added.acquire(timeout=30)


def test_an_engine_that_dies_ends_a_stream_with_an_error() -> None:
    engine = FakeEngine(stall_after=3)
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        with http.stream("POST", COMPLETIONS, json={"prompt": "{abcdef}", "stream": True}) as response:
            lines = (line for line in response.iter_lines() if line)
            assert text_of(next(lines)) != ""
            engine.kill("worker 1 of replica 0 exited with code -9")
            *_, error, done = lines
        assert done == "data: [DONE]"
        fields = json.loads(error.removeprefix("data: "))["error"]
        assert fields["type"] == "server_error"
        assert "exited with code -9" in fields["message"]


def test_an_engine_that_dies_ends_a_plain_call_with_503(dying_server: RunningServer) -> None:
    with httpx.Client(base_url=dying_server.url, timeout=30) as http:
        response = http.post(COMPLETIONS, json={"prompt": "{abcdef}"})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "worker_lost"
        assert http.post(COMPLETIONS, json={"prompt": "{abcdef}", "stream": True}).status_code == 503
        for path in ("/health", "/ready"):
            assert http.get(path).status_code == 503
            assert "worker died" in http.get(path).json()["reason"]
        assert http.get("/metrics").status_code == 200


@pytest.fixture
def dying_server():
    """An engine that dies of its first request."""
    engine = FakeEngine(stall_after=0)
    engine.dies_of_request = "worker died"
    with run_server(engine) as running:
        yield running


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_breaks_workers_is_told_so_and_the_server_goes_on(stream: bool) -> None:
    engine = FakeEngine(stall_after=0)
    with run_server(engine) as running, httpx.Client(base_url=running.url, timeout=30) as http:
        body = {"prompt": "{abc}", "stream": stream}
        waiting = raw_post(running.url, json.dumps(body).encode())
        wait_for_requests(engine, 1)
        engine.condemn("3 replicas in a row were lost while they computed this request")
        answer = HTTPResponse(waiting)
        answer.begin()
        error = json.loads(answer.read())["error"]
        engine.release()
        assert http.post(COMPLETIONS, json={"prompt": "{abc}"}).status_code == 200
        assert http.get("/health").status_code == 200
        waiting.close()
    assert answer.status == 500
    assert (error["type"], error["code"]) == ("server_error", "request_failed")
    assert error["message"].startswith("3 replicas in a row")
