"""A machine whose cable is pulled in the middle of streams: no request fails, and none says anything else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ray.hosts import RayHosts

NUM_STREAMS, NUM_TOKENS = 6, 90
OPTIONS = ("--cluster", "ray", "--precision", "fp32", "--name", "tiny", "--port", "0", "--kv-memory", "16M")


@dataclass
class Server:
    url: str = ""
    lines: list[str] = field(default_factory=list)
    """what it has reported"""


@contextmanager
def served(cluster: RayHosts, model: Path, split: str) -> Iterator[Server]:
    command = cluster.shoal("serve", str(model), "--split", split, *OPTIONS)
    with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        server = Server()
        try:
            server.url = next(line for line in process.stderr if line.startswith("serving ")).split()[-1]
            threading.Thread(target=server.lines.extend, args=(process.stderr,), daemon=True).start()
            yield server
        finally:
            process.terminate()
            process.wait(60.0)
            print(*server.lines, sep="\n")


def start_streams(cluster: RayHosts, url: str) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "tests.ray.streams", url, str(NUM_STREAMS), str(NUM_TOKENS))
    return subprocess.Popen(cluster.hosts[0].command(*command), stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("split", ["dp=2", "pp=2"])
def test_no_stream_fails(split: str, cluster: RayHosts, model: Path) -> None:
    lost = cluster.hosts[1]
    with served(cluster, model, split) as server:
        with start_streams(cluster, server.url) as undisturbed:
            expected = json.loads(undisturbed.communicate(timeout=60.0)[0].splitlines()[-1])
        with start_streams(cluster, server.url) as streams:
            assert streams.stdout is not None
            assert streams.stdout.readline() == "started\n"
            try:
                lost.set_link(False)
                said = json.loads(streams.stdout.readline())
            finally:
                lost.set_link(True)
        assert said == expected
    assert any("is lost" in line for line in server.lines), "the cable was pulled too late"
