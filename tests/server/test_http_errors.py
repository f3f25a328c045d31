"""Bad input gets OpenAI's error object and the right status, and the server goes on."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import httpx
import pytest

from tests.server.running_server import RunningServer

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "{fine}"}]


def check_error(response: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    assert error["param"] == param
    return error


@pytest.fixture(autouse=True)
def _server_goes_on(http: httpx.Client):
    yield
    answer = http.post(CHAT, json={"model": "tiny", "messages": MESSAGES})
    assert answer.json()["choices"][0]["message"]["content"] == "fine"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", "5"),
        ("max_tokens", 1.5),
        ("max_completion_tokens", 0),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 2),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3),
        ("n", 0),
        ("n", 129),
        ("seed", "abc"),
        ("seed", 1 << 64),
        ("stop", 5),
        ("stop", ["a", 5]),
        ("stop", ["x"] * 17),
        ("stream", "yes"),
        ("logprobs", 3),
        ("top_logprobs", 3),
        ("messages", []),
        ("messages", "hello"),
        ("user", 5),
        ("ignore_eos", 1),
        ("logit_bias", {"-5": 1}),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"99999999": 1}),
        ("logit_bias", [5]),
        ("logit_bias", {str(token): 1 for token in range(2000)}),
        ("repetition_penalty", 0),
        ("repetition_penalty", 3),
        ("min_tokens", -1),
    ],
)
def test_wrong_field_of_chat(http: httpx.Client, field: str, value: object) -> None:
    body = {"model": "tiny", "messages": MESSAGES, field: value}
    error = check_error(http.post(CHAT, json=body), 400, param=field)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content"),
        ("hello", "messages[0]"),
        ({"role": "assistant", "content": "x"}, "messages"),
    ],
)
def test_wrong_message(http: httpx.Client, message: object, param: str) -> None:
    check_error(http.post(CHAT, json={"messages": [message]}), 400, param=param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", 5),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [1, "a"]),
        ("prompt", [1, 257]),
        ("prompt", [-1]),
        ("prompt", [True]),
        ("prompt", ["a"] * 129),
        ("logprobs", True),
        ("logprobs", 21),
        ("suffix", "end"),
        ("stream_options.include_usage", 5),
    ],
)
def test_wrong_field_of_completions(http: httpx.Client, field: str, value: object) -> None:
    body = {"model": "tiny", "prompt": "hi"}
    if field == "stream_options.include_usage":
        body["stream_options"] = {"include_usage": value}
    else:
        body[field] = value
    check_error(http.post(COMPLETIONS, json=body), 400, param=field)


def test_empty_prompt(http: httpx.Client) -> None:
    check_error(http.post(COMPLETIONS, json={"prompt": ""}), 400, param="prompt")


def test_a_bias_out_of_its_range_is_named_with_its_token(http: httpx.Client) -> None:
    check_error(http.post(CHAT, json={"messages": MESSAGES, "logit_bias": {"5": 101}}), 400, param="logit_bias.5")


def test_missing_field(http: httpx.Client) -> None:
    assert check_error(http.post(CHAT, json={}), 400, param="messages")["code"] == "missing_required_parameter"


def test_nulls_are_defaults(http: httpx.Client) -> None:
    fields = ("n", "stop", "seed", "temperature", "top_p", "logprobs", "max_tokens", "stream", "user", "logit_bias")
    answer = http.post(COMPLETIONS, json={"prompt": "{fine}", **dict.fromkeys(fields)})
    assert answer.json()["choices"][0]["text"] == "fine"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1", b"\xff\xfe", b'{"prompt": NaN}', b"[" * 100_000, b'{"prompt": "\\ud800"}', b'"x"', b"[]"]
)
def test_broken_json(http: httpx.Client, body: bytes) -> None:
    response = http.post(COMPLETIONS, content=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
def test_context(http: httpx.Client, server: RunningServer, stream: bool) -> None:
    response = http.post(COMPLETIONS, json={"prompt": "x" * 512, "stream": stream})
    error = check_error(response, 400, param="prompt")
    assert error["code"] == "context_length_exceeded"
    response = http.post(COMPLETIONS, json={"prompt": "x" * 12, "max_tokens": 32_000, "stream": stream})
    assert response.status_code == 200
    assert server.engine.requests[-1].max_tokens == 500  # coding agents ask for the most that they know of
    body = {"prompt": "x" * 12, "max_tokens": 32_000, "min_tokens": 501, "stream": stream}
    assert "at most 500" in check_error(http.post(COMPLETIONS, json=body), 400, param="min_tokens")["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_can_never_fit(http: httpx.Client, stream: bool) -> None:
    response = http.post(COMPLETIONS, json={"prompt": "x" * 401, "stream": stream})
    assert check_error(response, 400)["code"] == "insufficient_capacity"


def test_large_body_is_refused_by_its_announced_length(http: httpx.Client) -> None:
    assert check_error(http.post(COMPLETIONS, content=b" " * (10 << 20)), 413)["code"] == "request_too_large"


def test_large_body_of_unknown_length_is_refused(http: httpx.Client) -> None:
    check_error(http.post(COMPLETIONS, content=(b" " * (1 << 20) for _ in range(10))), 413)


def test_large_body_that_is_allowed_reaches_the_checks(http: httpx.Client) -> None:
    response = http.post(COMPLETIONS, json={"prompt": "x" * (7 << 20)})
    assert check_error(response, 400, param="prompt")["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/api/embed"])
def test_vectors_of_a_model_that_makes_none(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={"input": "x"})
    assert (answer.status_code, "vectors and ranks are for encoders" in answer.text) == (400, True)


def test_unknown_model(http: httpx.Client) -> None:
    response = http.post(COMPLETIONS, json={"model": "other", "prompt": "x"})
    assert check_error(response, 404, param="model")["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/completions//"])
def test_unknown_path(http: httpx.Client, path: str) -> None:
    check_error(http.get(path), 404)


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("DELETE", COMPLETIONS), ("POST", "/v1/models")])
def test_wrong_method(http: httpx.Client, method: str, path: str) -> None:
    response = http.request(method, path)
    check_error(response, 405)
    assert response.headers["allow"]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "identity"])
def test_a_packed_body_is_unpacked(http: httpx.Client, encoding: str) -> None:
    body = b'{"prompt":"{fine}"}'
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(encoding.lower(), bytes)(body)
    answer = http.post(COMPLETIONS, content=packed, headers={"content-encoding": encoding})
    assert answer.json()["choices"][0]["text"] == "fine"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"{}", 400),
        ("gzip", b"{}", 400),
        ("gzip", gzip.compress(b"{}") + b"x", 400),
        ("gzip", gzip.compress(b" " * (9 << 20)), 413),
    ],
    ids=["unknown", "not packed", "bytes after the end", "too large"],
)
def test_what_is_not_packed_as_it_says(http: httpx.Client, encoding: str, body: bytes, status: int) -> None:
    check_error(http.post(COMPLETIONS, content=body, headers={"content-encoding": encoding}), status)
