"""With an API key, only probes and metrics are open, in both dialects."""

from __future__ import annotations

import grpc
import httpx
import pytest
import tritonclient.grpc as client
from tritonclient.utils import InferenceServerException

from tests.server.oip.rest.test_rest_errors import GOOD, check_error
from tests.server.oip.running import run_server
from tests.server.oip.triton_inputs import doubler_inputs


def test_http() -> None:
    with run_server(api_key="key") as running, httpx.Client(base_url=running.url, timeout=30) as http:
        for path in ("/health", "/ready", "/metrics", "/v2/health/live", "/v2/health/ready"):
            assert http.get(path).status_code == 200
        check_error(http.post("/v2/models/doubler/infer", json=GOOD), 401, "API key")
        check_error(http.post("/v2/repository/models/doubler/unload"), 401)
        headers = {"authorization": "Bearer key"}
        assert http.post("/v2/models/doubler/infer", json=GOOD, headers=headers).status_code == 200


def test_grpc() -> None:
    with run_server(api_key="key") as running, client.InferenceServerClient(running.grpc_address) as grpc_client:
        assert grpc_client.is_server_live()
        with pytest.raises(InferenceServerException, match="API key") as caught:
            grpc_client.infer("doubler", doubler_inputs(client))
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        headers = {"authorization": "Bearer key"}
        assert grpc_client.infer("doubler", doubler_inputs(client), headers=headers).as_numpy("y") is not None


def test_grpc_reads_nothing_of_a_client_without_the_key() -> None:
    with (
        run_server(api_key="key", max_request_bytes=1 << 16) as running,
        grpc.insecure_channel(running.grpc_address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(bytes(1 << 20), timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_loading_needs_a_key_or_leave() -> None:
    with run_server(allow_load=False) as server:
        for change in ("load", "unload"):
            response = httpx.post(f"{server.url}/v2/repository/models/doubler/{change}")
            assert response.status_code == 403
            assert "--allow-load" in response.json()["error"]
        with (
            client.InferenceServerClient(server.grpc_address) as grpc_client,
            pytest.raises(InferenceServerException, match="allow-load"),
        ):
            grpc_client.unload_model("doubler")
        assert httpx.post(f"{server.url}/v2/repository/index").json()[1]["state"] == "READY"
    with run_server(allow_load=False, api_key="secret") as server:
        headers = {"authorization": "Bearer secret"}
        assert httpx.post(f"{server.url}/v2/repository/models/doubler/load", headers=headers).status_code == 200
