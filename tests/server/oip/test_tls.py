"""Triton's clients over TLS, in both dialects."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from shoal.server.http.tls import TlsFiles
from tests.server.certificates import write_certificate
from tests.server.oip.running import RunningServer, run_server
from tests.server.oip.triton_inputs import X, doubler_inputs


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return write_certificate(tmp_path)


@pytest.fixture
def server(files: TlsFiles) -> Generator[RunningServer, None, None]:
    with run_server(tls=files) as running:
        yield running


def test_http(server: RunningServer, files: TlsFiles) -> None:
    with tritonclient.http.InferenceServerClient(
        server.address, ssl=True, ssl_options={"ca_certs": str(files.cert)}
    ) as client:
        answer = client.infer("doubler", doubler_inputs(tritonclient.http)).as_numpy("y")
    np.testing.assert_array_equal(answer, 2 * X)


def test_grpc(server: RunningServer, files: TlsFiles) -> None:
    with tritonclient.grpc.InferenceServerClient(
        server.grpc_address, ssl=True, root_certificates=str(files.cert)
    ) as client:
        answer = client.infer("doubler", doubler_inputs(tritonclient.grpc)).as_numpy("y")
    np.testing.assert_array_equal(answer, 2 * X)


def test_grpc_in_the_clear_gets_nothing(server: RunningServer) -> None:
    with (
        tritonclient.grpc.InferenceServerClient(server.grpc_address) as client,
        pytest.raises(InferenceServerException),
    ):
        client.infer("doubler", doubler_inputs(tritonclient.grpc))
