"""After a signal: new requests are refused, open ones finish, and there is an end to it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from shoal.generation.data_plane import DataPlane
from shoal.server.app import create_app
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.serve import bind, serve_app
from tests.server.fakes import ByteTokenizer, FakeEngine
from tests.server.test_streaming import text_of

COMPLETIONS = "/v1/completions"
WAIT_S = 30.0


@dataclass
class Client:
    """Streams one answer, and does something when its first piece has come."""

    during: Callable[[httpx.Client], None]
    lines: list[str] = field(default_factory=list)
    failure: BaseException | None = None

    def use(self, url: str) -> None:
        try:
            with httpx.Client(base_url=url, timeout=WAIT_S) as http:
                self._stream(http)
        except BaseException as error:
            self.failure = error
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    def _stream(self, http: httpx.Client) -> None:
        with http.stream("POST", COMPLETIONS, json={"prompt": "{abcd}", "stream": True}) as response:
            lines: Iterator[str] = (line for line in response.iter_lines() if line)
            self.lines.append(next(lines))
            self.during(http)
            self.lines.extend(lines)


def serve_with(engine: FakeEngine, client: Client, *, drain_timeout_s: float = WAIT_S) -> list[int]:
    """Serve in this thread, which the signals come to, until the server has ended; what it said of open requests."""
    drained: list[int] = []
    threads: list[threading.Thread] = []

    def on_ready(url: str) -> None:
        threads.append(threading.Thread(target=client.use, args=(url,)))
        threads[0].start()

    metrics = ServerMetrics("tiny")
    app = create_app(DataPlane(engine, ByteTokenizer(), metrics=metrics), metrics, model_name="tiny")
    serve_app(app, bind("127.0.0.1", 0), on_ready=on_ready, drain_timeout_s=drain_timeout_s, on_drain=drained.append)
    threads[0].join(WAIT_S)
    assert engine.closed
    if client.failure is not None:
        raise client.failure
    return drained


def error_of(line: str) -> dict[str, str]:
    return json.loads(line.removeprefix("data: "))["error"]


def test_new_requests_are_refused_while_open_ones_finish() -> None:
    engine = FakeEngine(stall_after=2)
    seen: dict[str, httpx.Response] = {}

    def during(http: httpx.Client) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for path in ("/health", "/ready", "/metrics"):
            seen[path] = http.get(path)
        seen["new"] = http.post(COMPLETIONS, json={"prompt": "{abc}"})
        seen["models"] = http.get("/v1/models")
        seen["/metrics"] = http.get("/metrics")
        engine.release()

    client = Client(during)
    serve_with(engine, client)
    assert {path: response.status_code for path, response in seen.items()} == {
        "/health": 200,
        "/ready": 503,
        "/metrics": 200,
        "new": 503,
        "models": 503,
    }
    assert "shutting down" in seen["/ready"].json()["reason"]
    assert seen["new"].headers["retry-after"] == "1"
    assert seen["new"].headers["connection"] == "close"
    assert seen["new"].json()["error"]["code"] == "shutting_down"
    assert 'shoal:request_refusals_total{model_name="tiny",reason="draining"} 2.0' in seen["/metrics"].text
    assert "".join(map(text_of, client.lines)) == "abcd"
    assert client.lines[-1] == "data: [DONE]"


def test_a_second_signal_ends_open_requests() -> None:
    def during(http: httpx.Client) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        assert http.get("/ready").status_code == 503
        os.kill(os.getpid(), signal.SIGINT)

    client = Client(during)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    serve_with(FakeEngine(stall_after=2), client)
    assert error_of(client.lines[-2])["code"] == "shutting_down"
    assert client.lines[-1] == "data: [DONE]"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("drain_timeout_s", [0.0, 0.2])
def test_open_requests_have_only_so_much_time(drain_timeout_s: float) -> None:
    client = Client(lambda http: os.kill(os.getpid(), signal.SIGTERM))
    assert serve_with(FakeEngine(stall_after=2), client, drain_timeout_s=drain_timeout_s) == [1]
    assert "shutting down" in error_of(client.lines[-2])["message"]
    assert client.lines[-1] == "data: [DONE]"
