"""The server as a process part: addresses, signals, exit when the engine dies."""

from __future__ import annotations

import os
import signal
import threading

import httpx
import pytest

from shoal.errors import ConfigError, WorkerLost
from shoal.generation.data_plane import DataPlane
from shoal.server.app import create_app
from shoal.server.generation.metrics import ServerMetrics
from shoal.server.http.serve import bind, serve_app, url_of
from tests.server.fakes import ByteTokenizer, FakeEngine


def app_of(engine: FakeEngine):
    metrics = ServerMetrics("tiny")
    return create_app(DataPlane(engine, ByteTokenizer(), metrics=metrics), metrics, model_name="tiny")


def test_a_port_in_use_is_one_clear_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: .*in use.*--port$"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("not a host", 80), ("127.0.0.1", 65_536), ("127.0.0.1", -1)])
def test_an_impossible_address_is_one_clear_line(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=r"^cannot listen on .*"):
        bind(host, port)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_requests_finish(signal_number: signal.Signals) -> None:
    engine = FakeEngine(stall_after=2)
    answers: list[str] = []

    def use(url: str) -> None:
        with httpx.stream("POST", f"{url}/v1/completions", json={"prompt": "{abcd}", "stream": True}) as response:
            lines = response.iter_lines()
            answers.append(next(lines))
            os.kill(os.getpid(), signal_number)
            engine.release()
            answers.extend(lines)

    clients: list[threading.Thread] = []

    def on_ready(url: str) -> None:
        clients.append(threading.Thread(target=use, args=(url,)))
        clients[0].start()

    before = signal.getsignal(signal_number)
    serve_app(app_of(engine), bind("127.0.0.1", 0), on_ready=on_ready)
    clients[0].join(30)
    assert [line for line in answers if line][-1] == "data: [DONE]"
    assert engine.closed
    assert signal.getsignal(signal_number) is before


def test_a_dead_engine_stops_the_server() -> None:
    engine = FakeEngine(stall_after=1)
    with pytest.raises(WorkerLost, match="worker 0 died"):
        serve_app(app_of(engine), bind("127.0.0.1", 0), on_ready=lambda _: engine.kill("worker 0 died"))
    assert engine.closed


def test_url_of_ipv6_has_brackets() -> None:
    with bind("::1", 0) as sock:
        assert url_of(sock) == f"http://[::1]:{sock.getsockname()[1]}"
