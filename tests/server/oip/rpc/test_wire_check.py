"""Requests that would take far more memory than their bytes are refused before they are parsed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.server.oip.rpc.messages import Messages
from shoal.server.oip.rpc.wire_check import split_request

MESSAGES = Messages()


def test_real_requests_pass() -> None:
    request = MESSAGES.new("ModelInferRequest", model_name="m", id="1", raw_input_contents=[bytes(1 << 20)])
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2, 1 << 40])
    tensor.contents.fp32_contents.extend([1.5] * 1000)
    tensor.parameters["a"].string_param = "b"
    request.parameters["priority"].uint64_param = (1 << 64) - 1
    head, raws = split_request(request.SerializeToString())
    assert raws == [bytes(1 << 20)]
    del request.raw_input_contents[:]
    assert MESSAGES["ModelInferRequest"].FromString(head) == request


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"\x2a\x00" * 5000, "tensors"),
        (b"\x2a\xd0\x0f" + b"\x22\x00" * 1000 + b"\x2a\x00" * 4000, "tensors"),
        (b"\x3a\x00" * 5000, "tensors"),
        (b"\x2a\x84\x10\x1a\x81\x10" + b"\1" * 2049, "shape"),
        (b"\x2a\x86\x80\x80\x01\x2a\x81\x80\x80\x01" + bytes((1 << 21) + 1), "typed contents"),
        (b"\x2a\x05", "middle of a field"),
        (b"\xff" * 11, "middle of a number"),
        (b"\x0b", "not a ModelInferRequest"),
    ],
)
def test_too_much(message: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        split_request(message)


@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused(message: bytes) -> None:
    with suppress(InvalidRequest):
        split_request(message)
