"""A real Prometheus finds under their names the series that a server shows."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.integration.served import wait_until
from tests.server.fakes import FakeEngine
from tests.server.oip.running import run_server as run_graph_server
from tests.server.running_server import run_server


@contextmanager
def prometheus(folder: Path, servers: list[str]) -> Generator[httpx.Client, None, None]:
    """One that scrapes these servers every second, and a client of its own server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    scrape = {"job_name": "shoal", "scrape_interval": "1s", "static_configs": [{"targets": servers}]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    command = ["prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=error"]
    with subprocess.Popen([*command, f"--web.listen-address={address}"], cwd=folder) as process:
        try:
            with httpx.Client(base_url=f"http://{address}", timeout=60) as http:
                yield http
        finally:
            process.kill()


def known(http: httpx.Client, instance: str) -> set[str]:
    """Names of the series of a server, but for Prometheus's own; none before it is ready."""
    query = {"match[]": f'{{instance="{instance}",__name__!~"up|scrape_.*"}}'}
    try:
        answer = http.get("/api/v1/label/__name__/values", params=query)
    except httpx.TransportError:
        return set()
    return set(answer.json()["data"]) if answer.is_success else set()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus")
def test_prometheus_knows_the_names_that_servers_show(tmp_path: Path) -> None:
    with run_server(FakeEngine()) as language, run_graph_server() as graph:
        instances = [server.url.removeprefix("http://") for server in (language, graph)]
        with prometheus(tmp_path, instances) as http:
            for instance in instances:
                text = httpx.get(f"http://{instance}/metrics").text
                shown = set(re.findall(r"^shoal:\w+", text, re.MULTILINE))
                wait_until(lambda instance=instance, shown=shown: known(http, instance) == shown)
