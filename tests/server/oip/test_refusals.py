"""How refusals are told in each dialect, and what the timeout parameter means."""

from __future__ import annotations

import grpc
import httpx
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from shoal.core.batching.config import BatchingConfig
from shoal.errors import CapacityError, DeadlineExceeded, InvalidRequest, QueueFull, ShoalError, WorkerLost
from shoal.inference.repository import ModelNotReady, UnknownModel
from shoal.server.oip.inference import timeout_from
from shoal.server.oip.rest.errors import from_exception
from shoal.server.oip.rpc.errors import status_of, trailing_metadata
from tests.server.oip.fakes import doubler
from tests.server.oip.rest.test_rest_errors import GOOD, check_error
from tests.server.oip.running import run_server
from tests.server.oip.triton_inputs import doubler_inputs


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("x"), 400, grpc.StatusCode.INVALID_ARGUMENT),
        (UnknownModel("x"), 404, grpc.StatusCode.NOT_FOUND),
        (ModelNotReady("x"), 503, grpc.StatusCode.UNAVAILABLE),
        (WorkerLost("x"), 503, grpc.StatusCode.UNAVAILABLE),
        (QueueFull("x", 2.0), 503, grpc.StatusCode.UNAVAILABLE),
        (DeadlineExceeded("x"), 503, grpc.StatusCode.DEADLINE_EXCEEDED),
        (CapacityError("x"), 400, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ShoalError("x"), 500, grpc.StatusCode.INTERNAL),
    ],
)
def test_codes(error: ShoalError, status: int, code: grpc.StatusCode) -> None:
    assert (from_exception(error).status_code, status_of(error)) == (status, code)


@pytest.mark.parametrize(
    ("error", "seconds", "milliseconds"),
    [
        (QueueFull("x", 2.1), "3", "2100"),
        (QueueFull("x", 0.0), "1", "1"),
        (DeadlineExceeded("x", 0.2), "1", "200"),
        (DeadlineExceeded("x"), "1", None),
    ],
)
def test_when_to_come_back(error: QueueFull | DeadlineExceeded, seconds: str, milliseconds: str | None) -> None:
    assert from_exception(error).headers["retry-after"] == seconds
    assert dict(trailing_metadata(error)).get("grpc-retry-pushback-ms") == milliseconds


def test_the_timeout_is_in_microseconds() -> None:
    assert timeout_from(2_500_000) == 2.5
    assert timeout_from(None) is None
    assert timeout_from(0) is None
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(InvalidRequest, match="microseconds"):
            timeout_from(wrong)


def test_a_request_that_waits_too_long_is_refused_in_both_dialects() -> None:
    batching = BatchingConfig(max_batch=1)
    with (
        run_server({"doubler": doubler}, batching=batching) as running,
        httpx.Client(base_url=running.url, timeout=30) as http,
        tritonclient.grpc.InferenceServerClient(running.grpc_address) as client,
    ):
        executor = running.loader.executor("doubler")
        executor.is_stalled = True
        busy = [client.async_infer("doubler", doubler_inputs(tritonclient.grpc), lambda *_: None) for _ in range(2)]
        for _ in busy:
            executor.submitted.acquire(timeout=30)
        late = GOOD | {"parameters": {"timeout": 1000}}
        response = http.post("/v2/models/doubler/infer", json=late)
        check_error(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        with pytest.raises(InferenceServerException) as caught:
            client.infer("doubler", doubler_inputs(tritonclient.grpc), timeout=1000)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        executor.release()
