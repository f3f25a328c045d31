"""Fixtures of the tests of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Generator

import httpx
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.server.oip.fakes import doubler
from tests.server.oip.running import RunningServer, echoes, run_server


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    """One server for a whole module of independent calls."""
    with run_server({"doubler": doubler} | echoes(), max_request_bytes=1 << 20) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Generator[httpx.Client, None, None]:
    """A plain HTTP client."""
    with httpx.Client(base_url=server.url, timeout=30) as plain:
        yield plain


@pytest.fixture(scope="module")
def triton_http(server: RunningServer) -> Generator[tritonclient.http.InferenceServerClient, None, None]:
    """Triton's HTTP client."""
    with tritonclient.http.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def triton_grpc(server: RunningServer) -> Generator[tritonclient.grpc.InferenceServerClient, None, None]:
    """Triton's gRPC client."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        yield client
