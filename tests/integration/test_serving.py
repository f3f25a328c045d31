"""`shoal serve` with real workers: overload, the end of a server, clients that leave while workers are missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.running import EXIT_S, has_ended
from tests.integration.served import Served, served, wait_until
from tests.model.tiny_models import make_tiny_gguf
from tests.server.test_streaming import raw_post, text_of

COMPLETIONS = "/v1/completions"
LONG = {"prompt": "A shoal is", "max_tokens": 400, "ignore_eos": True, "temperature": 0.0}


def test_a_signal_drains_and_then_everything_is_gone(tiny_model: Path) -> None:
    with served(tiny_model, "--split", "pp=2") as server, httpx.Client(base_url=server.url, timeout=EXIT_S) as http:
        expected = http.post(COMPLETIONS, json=LONG).json()["choices"][0]["text"]
        workers = server.workers()
        handles = [os.pidfd_open(pid) for pid in workers]
        os.kill(workers[0], signal.SIGSTOP)
        running = raw_post(server.url, json.dumps({**LONG, "stream": True}).encode())
        wait_until(lambda: server.metric("num_requests_running") == 1)
        server.process.terminate()
        wait_until(lambda: http.get("/ready").status_code == 503)
        refused = httpx.post(f"{server.url}{COMPLETIONS}", json=LONG, timeout=EXIT_S)
        assert http.get("/health").status_code == 200
        os.kill(workers[0], signal.SIGCONT)
        with running, running.makefile() as answer:
            *texts, done = (line.strip() for line in answer if line.startswith("data: "))
        assert server.process.wait(EXIT_S) == 0
        ended = [has_ended(handle) for handle in handles]
        for handle in handles:
            os.close(handle)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health", timeout=EXIT_S)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert done == "data: [DONE]"
    assert "".join(map(text_of, texts)) == expected
    assert ended == [True, True]


def test_a_second_signal_ends_at_once(tiny_model: Path) -> None:
    with served(tiny_model, "--split", "pp=2") as server, httpx.Client(base_url=server.url, timeout=EXIT_S) as http:
        handles = [os.pidfd_open(pid) for pid in server.workers()]
        os.kill(server.workers()[0], signal.SIGSTOP)
        waiting = raw_post(server.url, json.dumps(LONG).encode())
        wait_until(lambda: server.metric("num_requests_running") == 1)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: http.get("/ready").status_code == 503)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(EXIT_S) == 0
        assert [has_ended(handle) for handle in handles] == [True, True]
        for handle in handles:
            os.close(handle)
        assert waiting.recv(64).startswith(b"HTTP/1.1 503 ")
        waiting.close()


def test_a_full_queue_answers_429(tiny_model: Path) -> None:
    options = ("--split", "pp=2", "--max-seqs", "1", "--max-queue", "1")
    with served(tiny_model, *options) as server, httpx.Client(base_url=server.url, timeout=EXIT_S) as http:
        os.kill(server.workers()[0], signal.SIGSTOP)
        waiting = [raw_post(server.url, json.dumps(LONG).encode()) for _ in range(2)]
        wait_until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 2)
        refused = http.post(COMPLETIONS, json=LONG)
        os.kill(server.workers()[0], signal.SIGCONT)
        statuses = [sock.recv(15) for sock in waiting]
        for sock in waiting:
            sock.close()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert statuses == [b"HTTP/1.1 200 OK"] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_workers_are_missing_is_forgotten(stream: bool, tmp_path: Path) -> None:
    """They are missing as long as the model's file is."""
    path = make_tiny_gguf(tmp_path, quant="F32")
    with served(path, "--split", "pp=2") as server, httpx.Client(base_url=server.url, timeout=EXIT_S) as http:
        leaving = _long_request(server, stream)
        path.rename(tmp_path / "elsewhere.gguf")
        os.kill(server.workers()[1], signal.SIGKILL)
        wait_until(lambda: server.metric("replicas") == 0)
        assert http.get("/ready").status_code == 503
        assert http.get("/health").status_code == 200
        leaving.close()
        wait_until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0)
        (tmp_path / "elsewhere.gguf").rename(path)
        wait_until(lambda: server.metric("replicas") == 1)
        assert http.post(COMPLETIONS, json=LONG).json()["usage"]["completion_tokens"] == 400
        assert server.metric("worker_losses_total") >= 1
        assert server.metric("recovery_seconds_count") == 1


def _long_request(server: Served, stream: bool) -> socket.socket:
    """A request that is being computed."""
    sock = raw_post(server.url, json.dumps({**LONG, "stream": stream}).encode())
    if stream:
        assert sock.recv(15) == b"HTTP/1.1 200 OK"
    else:
        wait_until(lambda: server.metric("num_requests_running") == 1)
    return sock


def test_what_a_client_sees_of_several_choices_does_not_change(tiny_model: Path) -> None:
    """Workers die again and again while two choices are drawn, one of which ends with a stop string."""
    body = {"prompt": "A shoal is", "n": 2, "max_tokens": 150, "seed": 5, "logprobs": 1, "ignore_eos": True}
    with served(tiny_model, "--split", "pp=2") as server, httpx.Client(base_url=server.url, timeout=EXIT_S) as http:
        unstopped = _streamed(http, body)
        body["stop"] = unstopped.texts[0][100:106]
        undisturbed = _streamed(http, body)
        disturbed = _streamed(http, body, lambda: _kill_a_worker(server))
        losses = server.metric("worker_losses_total")
    assert undisturbed.reasons[0] == "stop"
    assert undisturbed.texts[0] in unstopped.texts[0]
    assert disturbed == undisturbed
    assert losses >= 3


def _kill_a_worker(server: Served) -> None:
    """Return once the server has noticed it, and has all of its workers again."""
    num_losses = server.metric("worker_losses_total")
    os.kill(server.workers()[-1], signal.SIGKILL)
    wait_until(lambda: server.metric("worker_losses_total") > num_losses and server.metric("replicas") == 1)


@dataclass
class _Seen:
    """What came of a streamed completion with two choices."""

    texts: list[str] = field(default_factory=lambda: ["", ""])
    reasons: list[str | None] = field(default_factory=lambda: [None, None])
    tokens: list[list[str]] = field(default_factory=lambda: [[], []])
    usage: dict[str, int] = field(default_factory=dict[str, int])


def _streamed(http: httpx.Client, body: dict[str, Any], strike: Callable[[], None] = lambda: None) -> _Seen:
    """`strike` is called after every 40 events; the stream goes on with whatever is left."""
    seen, num_events = _Seen(), 0
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with http.stream("POST", COMPLETIONS, json=body) as response:
        for line in response.iter_lines():
            if not line or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            for choice in event["choices"]:
                index = choice["index"]
                seen.texts[index] += choice["text"]
                seen.reasons[index] = choice["finish_reason"] or seen.reasons[index]
                seen.tokens[index] += (choice["logprobs"] or {"tokens": []})["tokens"]
            seen.usage = event["usage"] or seen.usage
            num_events += 1
            if num_events % 40 == 0:
                strike()
    return seen


@pytest.mark.parametrize("log", [(), ("--log-json",)])
def test_several_models_are_loaded_in_turn_and_end_with_their_server(
    tiny_model: Path, tmp_path: Path, log: tuple[str, ...]
) -> None:
    other = tmp_path / "the other.gguf"
    other.symlink_to(tiny_model)
    options = (str(other), "--max-loaded", "1", "--port", "0", "--threads", "1", "--kv-memory", "16M", "--split", "1")
    options += ("--allow-drill",)
    command = [sys.executable, "-m", "shoal.cli.main", "serve", str(tiny_model), *options, *log]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = (json.loads(line)["message"] if log else line.strip() for line in process.stderr)
            line = next(line for line in said if line.startswith(f"serving {tiny_model.stem}, "))
            name, url = tiny_model.stem, line.split()[-1]
            assert line == f"serving {name}, the other at {url}"
            answers = [
                httpx.post(f"{url}{COMPLETIONS}", json={**LONG, "model": model, "max_tokens": 8}, timeout=EXIT_S).json()
                for model in (name, "the other", name)
            ]
            killed = httpx.post(f"{url}/status/kill", json={"model": name, "replica": 0, "worker": 0}, timeout=EXIT_S)
            families = psutil.Process(process.pid).children(recursive=True)
        finally:
            process.kill()
    assert killed.json() == {"status": "ok"}
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1
    assert [answer["model"] for answer in answers] == [name, "the other", name]
    assert families
    wait_until(lambda: all(not child.is_running() or child.status() == psutil.STATUS_ZOMBIE for child in families))
