"""What gRPC calls may take together, and what a client learns of an error that nobody foresaw."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import httpx
import pytest

from shoal.core.batching.config import BatchingConfig
from shoal.server.bodies.bodies import MIN_TOTAL_BYTES
from shoal.server.oip.rpc import server as rpc
from tests.server.hostile_requests import MB, TO_GRPC
from tests.server.oip.fakes import doubler, echo
from tests.server.oip.running import run_server

INFER = "/inference.GRPCInferenceService/ModelInfer"
READY = "/inference.GRPCInferenceService/ServerReady"


def test_a_message_may_have_what_http_takes_up_to_16_mib_and_a_quarter_of_more() -> None:
    assert rpc.max_message_bytes(MB) == MB
    assert rpc.max_message_bytes(64 * MB) == 16 * MB
    assert rpc.max_message_bytes(1024 * MB) == 256 * MB
    assert rpc.max_message_bytes(1 << 40) == (1 << 31) - 1


def test_messages_count_among_all_bodies() -> None:
    message = TO_GRPC["a large tensor"]()
    fitting = MIN_TOTAL_BYTES // len(message)
    batching = BatchingConfig(max_batch=1)
    with (
        run_server({"echo_uint8": lambda: echo("uint8")}, batching=batching) as running,
        grpc.insecure_channel(running.grpc_address, options=[("grpc.max_receive_message_length", -1)]) as channel,
    ):
        executor = running.loader.executor("echo_uint8")
        executor.is_stalled = True
        calls = [channel.unary_unary(INFER).future(message, timeout=120) for _ in range(fitting + 1)]
        refused = threading.Event()
        for call in calls:
            call.add_done_callback(lambda _: refused.set())
        assert refused.wait(60)
        executor.release()
        codes = sorted(str(call.code()) for call in calls)
        assert codes == ["StatusCode.OK"] * fitting + ["StatusCode.UNAVAILABLE"]
        assert channel.unary_unary(INFER)(message, timeout=60)


def test_a_message_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "READ_TIMEOUT_S", 0.05)
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(60)
        yield b""

    with run_server({"doubler": doubler}) as running, grpc.insecure_channel(running.grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(INFER)(nothing(), timeout=30)
        never.set()
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not arrive" in str(caught.value.details())
        monkeypatch.setattr(rpc, "READ_TIMEOUT_S", 60.0)
        assert channel.unary_unary(READY)(b"", timeout=30)


def test_a_call_without_a_message_is_refused() -> None:
    with run_server({"doubler": doubler}) as running, grpc.insecure_channel(running.grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(INFER)(iter(()), timeout=30)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_error_that_nobody_foresaw_names_nothing_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_server({"doubler": doubler}) as running, grpc.insecure_channel(running.grpc_address) as channel:

        def fail(*_: object) -> None:
            raise ZeroDivisionError("secret")

        monkeypatch.setattr(running.repository, "get", fail)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"", timeout=30)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error; see the server's log"
        assert httpx.get(f"{running.url}/v2").status_code == 200
