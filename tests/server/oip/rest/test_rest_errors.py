"""Bad input gets the protocol's error object and the right status, and the server goes on."""

from __future__ import annotations

import gzip
import json
import socket
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest

from tests.server.oip.running import RunningServer

INFER = "/v2/models/doubler/infer"
X = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
IDS = {"name": "ids", "shape": [1, 2], "datatype": "INT64", "data": [[5, 6]]}
GOOD = {"inputs": [X, IDS]}


def check_error(response: httpx.Response, status: int, message: str = "") -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert message in response.json()["error"]
    assert "\n" not in response.json()["error"]


@pytest.fixture(autouse=True)
def _server_goes_on(http: httpx.Client):
    yield
    answer = http.post(INFER, json=GOOD)
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [2, 4, 6, 8]


def infer_json(http: httpx.Client, **changes: Any) -> httpx.Response:
    return http.post(INFER, json={"inputs": [X | changes, IDS]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "X"}, "no input 'X'"),
        ({"datatype": "INT32"}, "'x' is int32: expected float32"),
        ({"datatype": "FLOAT"}, "unknown datatype 'FLOAT'"),
        ({"shape": [4]}, "'x' has 1 dimensions [4]"),
        ({"shape": [1, 3], "data": [1, 2, 3]}, "'x' has shape [1, 3]"),
        ({"shape": [0, 4], "data": []}, "must agree"),
        ({"shape": [2, 4]}, "4 values, but a tensor of the shape [2, 4] has 8"),
        ({"shape": [1 << 62, 4]}, "more than 1099511627776 elements"),
        ({"shape": [0, 1 << 62]}, "more than 1099511627776 elements"),
        ({"shape": [0, 1 << 70]}, "shape"),
        ({"shape": [1] * 100}, "100 dimensions"),
        ({"datatype": "FP64", "data": [10**400, 1, 1, 1]}, ""),
        ({"datatype": "BYTES", "shape": [10**12], "data": ["a"]}, "1 values"),
        ({"shape": [-1, 4]}, "may be negative"),
        ({"shape": "1,4"}, "shape"),
        ({"data": [[1, 2], [3, 4]]}, "nested as [2, 2]"),
        ({"data": [[1, 2], [3]]}, "equally long"),
        ({"data": [1, 2, 3, "4"]}, "not FP32"),
        ({"data": [True, False, True, True]}, "not FP32"),
        ({"data": "1234"}, "must be a list"),
        ({"data": None}, "neither `data` nor"),
        ({"data": {"a": 1}}, "must be a list"),
        ({"parameters": {"binary_data_size": 16}}, "0 bytes are left"),
        ({"parameters": {"shared_memory_region": "r"}, "data": None}, "shared memory"),
        ({"data": [13, 0, 0, 0]}, "13 brings bad luck"),
    ],
)
def test_wrong_input(http: httpx.Client, changes: dict[str, Any], message: str) -> None:
    check_error(infer_json(http, **changes), 400, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs"),
        ({"inputs": [X]}, "'ids' is missing"),
        ({"inputs": [X, IDS, IDS]}, "given twice"),
        ({"inputs": []}, "missing"),
        ({"inputs": [5]}, "inputs"),
        (GOOD | {"outputs": [{"name": "nope"}]}, "no output 'nope': it has 'y', 'z'"),
        (GOOD | {"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, "classification"),
        (GOOD | {"parameters": {"timeout": -5}}, "timeout"),
        (GOOD | {"parameters": {"timeout": "soon"}}, "timeout"),
        (GOOD | {"id": 5}, "id"),
    ],
)
def test_wrong_request(http: httpx.Client, body: dict[str, Any], message: str) -> None:
    check_error(http.post(INFER, json=body), 400, message)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a": NaN', b"NaN"])
def test_broken_json(http: httpx.Client, body: bytes) -> None:
    check_error(http.post(INFER, content=body), 400)


@pytest.mark.parametrize("length", ["x", "-1", "999", "1.5", ""])
def test_wrong_length_of_the_json_part(http: httpx.Client, length: str) -> None:
    headers = {"inference-header-content-length": length}
    check_error(http.post(INFER, json=GOOD, headers=headers), 400, "Inference-Header-Content-Length")


@pytest.mark.parametrize(
    ("num_bytes", "size", "message"),
    [
        (15, 15, "15 bytes of data, but FP32"),
        (15, 16, "15 bytes are left"),
        (17, 16, "belong to no input"),
        (16, -1, "is -1"),
    ],
)
def test_wrong_binary_data(http: httpx.Client, num_bytes: int, size: int, message: str) -> None:
    x = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [x, IDS]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    check_error(http.post(INFER, content=head + b"\0" * num_bytes, headers=headers), 400, message)


@pytest.mark.parametrize(
    "raw", [b"\1\0\0", b"\5\0\0\0abc", b"\1\0\0\0a", b"\1\0\0\0a\1\0\0\0b\1\0\0\0c", b"\1\0\0\0\xff\1\0\0\0b"]
)
def test_wrong_binary_strings(http: httpx.Client, raw: bytes) -> None:
    value = {"name": "value", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [value]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    check_error(http.post("/v2/models/echo_string/infer", content=head + raw, headers=headers), 400, "'value'")


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT8", [128]),
        ("UINT8", [-1]),
        ("INT64", [1 << 63]),
        ("UINT64", [1 << 64]),
        ("INT32", [1.5]),
        ("INT32", [None]),
        ("INT32", [1 << 64, 1.5]),
        ("BOOL", [2]),
        ("FP32", ["1"]),
        ("FP32", [None, "1"]),
        ("BYTES", [1]),
        ("BYTES", [["a"], "b"]),
    ],
)
def test_values_outside_of_their_type(http: httpx.Client, datatype: str, values: list[Any]) -> None:
    names = {"BOOL": "bool", "FP32": "float32", "BYTES": "string"}
    model = f"echo_{names.get(datatype, datatype.lower())}"
    value = {"name": "value", "shape": [len(values)], "datatype": datatype, "data": values}
    check_error(http.post(f"/v2/models/{model}/infer", json={"inputs": [value]}), 400, "'value'")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nobody/infer", 404),
        ("POST", "/v2/models/doubler/versions/2/infer", 404),
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/models/nobody/ready", 404),
        ("GET", "/v2/models/doubler/versions/2", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v1/models", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("POST", "/v2/repository/models/nobody/load", 404),
        ("POST", "/v2/repository/models/nobody/unload", 404),
        ("POST", "/v2/repository/models/broken/load", 400),
    ],
)
def test_unknown_paths_and_models(http: httpx.Client, method: str, path: str, status: int) -> None:
    check_error(http.request(method, path, json=GOOD if path.endswith("/infer") else {}), status)


@pytest.mark.parametrize(
    "body", [b"[]", b"{", b'{"parameters": {"config": "{}"}}', b'{"parameters": {"file:1/m": ""}}']
)
def test_wrong_load(http: httpx.Client, body: bytes) -> None:
    check_error(http.post("/v2/repository/models/doubler/load", content=body), 400)


def test_two_gigabytes_are_refused_before_they_come(server: RunningServer) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {2 << 30}\r\n\r\n".encode())
        answer = HTTPResponse(sock)
        answer.begin()
        error = answer.read()
    assert answer.status == 413
    assert error.startswith(b'{"error":"the body is larger than 1048576 bytes')


def test_a_large_body_of_unknown_length_is_refused(http: httpx.Client) -> None:
    check_error(http.post(INFER, content=(b" " * (1 << 16) for _ in range(20))), 413, "larger than")


def test_a_body_that_unpacks_to_too_much_is_refused(http: httpx.Client) -> None:
    body = gzip.compress(b" " * (2 << 20))
    check_error(http.post(INFER, content=body, headers={"content-encoding": "gzip"}), 413, "larger than")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("br", b"x"), ("gzip", b"x"), ("gzip", gzip.compress(b"{}" * 50, mtime=0)[:-9]), ("deflate", b"")],
)
def test_wrong_compression(http: httpx.Client, encoding: str, body: bytes) -> None:
    check_error(http.post(INFER, content=body, headers={"content-encoding": encoding}), 400)


def test_nulls_are_defaults(http: httpx.Client) -> None:
    body = {"id": None, "parameters": None, "outputs": None, "inputs": [X | {"parameters": None}, IDS], "more": 1}
    assert http.post(INFER, json=body).json()["model_name"] == "doubler"


def test_the_order_of_inputs_is_free(http: httpx.Client) -> None:
    answer = http.post(INFER, json={"id": "7", "inputs": [IDS, X]}).json()
    assert answer == {
        "id": "7",
        "model_name": "doubler",
        "model_version": "1",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [2, 4, 6, 8]},
            {"name": "z", "datatype": "INT64", "shape": [1, 2], "data": [5, 6]},
        ],
    }


def test_what_is_not_finite_in_json(http: httpx.Client) -> None:
    """In as Triton's clients write it and as null; out as what every parser takes."""
    head = (
        '{"inputs": [{"name": "value", "shape": [5], "datatype": "FP32", "data": [NaN, Infinity, -Infinity, null, 1]}]'
    )
    answer = http.post("/v2/models/echo_float32/infer", content=head + "}")
    assert answer.json()["outputs"][0]["data"] == [None, None, None, None, 1.0]
    binary = http.post("/v2/models/echo_float32/infer", content=head + ', "parameters": {"binary_data_output": true}}')
    size = int(binary.headers["inference-header-content-length"])
    assert binary.content[size:].hex() == "0000c07f0000807f000080ff0000c07f0000803f"


def test_health(http: httpx.Client) -> None:
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2/models/doubler/ready").json() == {"name": "doubler", "ready": True}
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready"}
    assert http.get("/version").json()["version"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "'x' has neither `data` nor `binary_data_size`"),
        ({"parameters": {"binary_data_size": 0}}, "'x' has both `data` and `binary_data_size`"),
        ({"data": {"a": 1}}, "must be one flat list of 4 values"),
    ],
)
def test_data_of_a_large_request(http: httpx.Client, changes: dict[str, Any], message: str) -> None:
    padding = IDS | {"name": " " * 1000}
    check_error(http.post(INFER, json={"inputs": [X | changes, *[padding] * 20]}), 400, message)
