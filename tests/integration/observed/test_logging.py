"""A served model whose worker is killed: the log answers when that was, and whose requests it concerned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shoal.executor.process.living_workers import worker_processes
from tests.integration.running import EXIT_S, kill
from tests.integration.served import wait_until

PROMPT = "nobody should read this"
OPTIONS = ("--port", "0", "--name", "tiny", "--precision", "fp32", "--threads", "1", "--kv-memory", "16M")


@contextmanager
def logging_server(model: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`shoal serve --log-json` and its address."""
    options = ("--log-json", "--worker-timeout", "60", *options)
    command = (sys.executable, "-m", "shoal.cli.main", "serve", str(model), *OPTIONS, *options)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            first = json.loads(next(process.stderr))
            assert first["message"].startswith("serving tiny at http")
            yield first["message"].split()[-1], process
        finally:
            process.kill()


def ask(url: str) -> str:
    """Stream an answer of 200 tokens to a request that calls itself mine, and return the last line."""
    body = {"prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "stream": True}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers={"x-request-id": "mine"}, timeout=EXIT_S)
    return [line for line in answer.text.splitlines() if line][-1]


def replicas_of(url: str, request_id: str) -> set[int]:
    """The replicas that the story of a request names."""
    entries = httpx.get(f"{url}/status/story", params={"of": request_id}).json()["entries"]
    return {entry["replica"] for entry in entries} - {None}


def rest_of_log(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What else it logs until it has ended after a signal."""
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=EXIT_S)
    return [json.loads(line) for line in err.splitlines()]


@pytest.mark.parametrize("split", ["dp=2", "pp=2"])
def test_the_log_of_a_killed_worker(split: str, tiny_model: Path) -> None:
    with logging_server(tiny_model, "--split", split) as (url, process):
        workers = worker_processes(psutil.Process(process.pid))
        assert len(workers) == 2
        for worker in workers:
            worker.suspend()  # so that the request is being computed when one of them is killed
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, url)
            wait_until(lambda: bool(replicas_of(url, "mine")))
            (busy,) = replicas_of(url, "mine")
            by_age = sorted(workers, key=lambda worker: worker.pid)
            dies = by_age[busy if split == "dp=2" else 0]
            kill(dies.pid)
            for worker in workers:
                if worker != dies:
                    worker.resume()
            assert answer.result() == "data: [DONE]"
        story = httpx.get(f"{url}/status/story", params={"of": str(busy)}).json()["entries"]
        log = rest_of_log(process)
    assert any(entry["event"].startswith("workers lost: ") for entry in story)
    (lost,) = (record for record in log if " is lost: " in record["message"])
    assert (lost["level"], lost["replica"]) == ("warning", busy)
    assert "killed by signal 9" in lost["message"]
    if split == "dp=2":
        (moved,) = (record for record in log if " takes over 1 requests: mine-" in record["message"])
        assert moved["replica"] == 1 - busy
    else:
        (back,) = (record for record in log if " has its workers again after " in record["message"])
        assert back["replica"] == 0
    (access,) = (record for record in log if record["logger"] == "shoal.access" and record["request_id"] == "mine")
    assert (access["status"], access["completion_tokens"]) == (200, 200)
    assert log[-1]["message"] == "the server has shut down"
    assert PROMPT not in json.dumps(log) + json.dumps(story)
