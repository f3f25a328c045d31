"""No request for a graph keeps the event loop from everybody else's for long."""

from __future__ import annotations

from collections.abc import Generator

import grpc
import httpx
import pytest

from tests.server.hostile_requests import TO_ANY, TO_GRAPHS, TO_GRPC, send_raw
from tests.server.load.loop_lag import MAX_LAG_S, LagWatch, frozen_heap
from tests.server.oip.fakes import doubler
from tests.server.oip.running import RunningServer, echoes, run_server

GOOD = {
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
        {"name": "ids", "datatype": "INT64", "shape": [1, 1], "data": [1]},
    ]
}


@pytest.fixture(scope="module")
def server() -> Generator[RunningServer, None, None]:
    with frozen_heap(), run_server({"doubler": doubler} | echoes()) as running:
        httpx.post(f"{running.url}/v2/models/doubler/infer", json=GOOD).raise_for_status()
        yield running


@pytest.mark.parametrize("name", [*TO_ANY, *TO_GRAPHS])
def test_a_hostile_request(server: RunningServer, name: str) -> None:
    request = (TO_ANY | TO_GRAPHS)[name]()
    lag_s, answer = LagWatch(server.loop).least_s(lambda: send_raw(server.url, request))
    assert lag_s < MAX_LAG_S
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    assert httpx.post(f"{server.url}/v2/models/doubler/infer", json=GOOD).status_code == 200


@pytest.mark.parametrize("name", TO_GRPC)
def test_a_hostile_message(server: RunningServer, name: str) -> None:
    message = TO_GRPC[name]()
    with grpc.insecure_channel(server.grpc_address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def code_of_answer() -> grpc.StatusCode:
            try:
                call(message, timeout=60)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        lag_s, code = LagWatch(server.loop).least_s(code_of_answer)
        assert lag_s < MAX_LAG_S
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        assert channel.unary_unary("/inference.GRPCInferenceService/ServerReady")(b"", timeout=60) == b"\x08\x01"
