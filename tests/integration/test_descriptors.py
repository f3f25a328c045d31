"""A server whose clients take every connection that it has for them, behind a key and under a name of its own."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.integration.running import EXIT_S
from tests.integration.served import served, wait_until

NUM_DESCRIPTORS = 256
PROMPT = {"prompt": "A shoal is", "max_tokens": 2, "temperature": 0.0}


def test_silent_connections_keep_neither_health_nor_a_restart_from_the_server(tiny_model: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("secret\n")
    options = ("--split", "pp=2", "--api-key-file", str(key_file), "--allowed-host", "models.example")
    key = {"authorization": "Bearer secret"}
    with (
        served(tiny_model, *options, num_descriptors=NUM_DESCRIPTORS) as server,
        httpx.Client(base_url=server.url, timeout=EXIT_S) as http,
        ExitStack() as silent,
    ):
        assert http.post("/v1/completions", json=PROMPT).status_code == 401
        expected = http.post("/v1/completions", json=PROMPT, headers=key).json()["choices"][0]["text"]
        assert http.get("/version", headers={"host": "models.example"}).status_code == 200
        assert http.get("/version", headers={"host": "other.example"}).status_code == 403
        address = urlsplit(server.url)
        sockets = [
            silent.enter_context(socket.create_connection((address.hostname, address.port), timeout=EXIT_S))
            for _ in range(NUM_DESCRIPTORS)
        ]
        assert sockets[-1].recv(12) == b"HTTP/1.1 503"
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: before[0] not in server.workers() and len(server.workers()) == len(before))
        assert http.get("/health").status_code == 200
        wait_until(lambda: http.get("/ready").status_code == 200)
        answer = http.post("/v1/completions", json=PROMPT, headers=key).json()
        assert answer["choices"][0]["text"] == expected
        assert server.process.poll() is None
