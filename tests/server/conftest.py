"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import Generator

import httpx
import openai
import pytest

from tests.server.fakes import FakeEngine
from tests.server.running_server import RunningServer, run_server


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    """One server for a whole module of independent calls."""
    with run_server(FakeEngine()) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Generator[openai.OpenAI, None, None]:
    """The official client, without its retries."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as official:
        yield official


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Generator[httpx.Client, None, None]:
    """A plain HTTP client."""
    with httpx.Client(base_url=server.url, timeout=30) as plain:
        yield plain
