"""Chains of models over HTTP: pictures through a function, a graph, and back."""

from __future__ import annotations

import base64
import io
import queue
import wave
from collections.abc import Callable, Generator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

from shoal.chains.definition import parse_chain
from tests.server.oip.fakes import doubler
from tests.server.oip.running import RunningServer, run_server

FUNCTIONS = '''
import numpy as np

def rows(image):
    """A row of four values for each line of pixels that is not white; 255 brings bad luck."""
    dark = [line for line in image[:, :, 0] if line.min() < 255]
    first = [13 if line[0] == 1 else line[0] for line in dark]
    return [np.array([[one, 0, 0, 0]], np.float32) for one in first], np.ones((1, 1), np.int64)

def name(y):
    return f"value {y[0, 0]:g}"

def heard(clip):
    """The frequency that is loudest in a second."""
    return np.abs(np.fft.rfft(clip[:16000])).argmax()

def kinds(names):
    """Arrays of all kinds."""
    return np.array(["a", "bc"]), np.arange(2, dtype=">i4"), np.array([1, "x", None], object)

def no_json(names):
    """What JSON cannot hold."""
    within = []
    within.append(within)
    return {"complex": 1j, "array": np.array([1j]), "itself": within, "half": "\\ud800", "integer": 1 << 70}[names]

def mixed(names):
    return {"names": names, "parts": [np.arange(2), 3.5]}
'''
STEPS: list[dict[str, Any]] = [
    {"call": "f.py:rows", "inputs": ["image"], "outputs": ["row", "ids"]},
    {"model": "doubler.onnx", "each": ["row"], "inputs": {"x": "row", "ids": "ids"}, "outputs": {"y": "y"}},
    {"call": "f.py:name", "each": ["y"], "inputs": ["y"], "outputs": ["names"]},
    {"call": "f.py:mixed", "inputs": ["names"], "outputs": ["mixed"]},
]
SOUND_STEPS = [{"call": "f.py:heard", "inputs": ["clip"], "outputs": ["loudest"]}]
KIND_STEPS = [{"call": "f.py:kinds", "inputs": ["names"], "outputs": ["words", "numbers", "objects"]}]
NO_JSON_STEPS = [{"call": "f.py:no_json", "inputs": ["names"], "outputs": ["y"]}]
TEXT_STEPS = [{"call": "f.py:mixed", "inputs": ["names"], "outputs": ["mixed"]}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningServer, None, None]:
    folder = tmp_path_factory.mktemp("chain")
    (folder / "doubler.onnx").touch()
    (folder / "f.py").write_text(FUNCTIONS)

    def chain(name: str, inputs: dict[str, str], steps: list[dict[str, Any]], outputs: list[str]) -> Any:
        data = {"name": name, "inputs": inputs, "steps": steps, "outputs": outputs}
        return parse_chain(data, folder / "chain.yaml")

    chains = [
        chain("lines", {"image": "image"}, STEPS, ["names", "y", "mixed"]),
        chain("texts", {"names": "text"}, TEXT_STEPS, ["mixed", "names"]),
        chain("kinds", {"names": "text"}, KIND_STEPS, ["words", "numbers", "objects"]),
        chain("no_json", {"names": "text"}, NO_JSON_STEPS, ["y"]),
        chain("two", {"names": "text", "other": "bytes"}, TEXT_STEPS, ["mixed"]),
        chain(
            "sound",
            {"clip": "audio"},
            [{"call": "f.py:heard", "inputs": ["clip"], "outputs": ["loudest"]}],
            ["loudest"],
        ),
    ]
    with run_server({"doubler": doubler}, chains=chains, max_request_bytes=1 << 20) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Generator[httpx.Client, None, None]:
    with httpx.Client(base_url=f"{server.url}/v2/models", timeout=30) as client:
        yield client


def picture(*lines: int) -> bytes:
    """A file of 4 pixels across, each line in a gray of its own."""
    pixels = np.repeat(np.array(lines, np.uint8)[:, np.newaxis], 4, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def named(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


def tensors(data: str, **fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [data]}], **fields}


FILE = picture(10, 255, 30)
PNG_HEAD = FILE[:8]


@pytest.mark.parametrize(
    "request_fields",
    [
        {"content": FILE, "headers": {"content-type": "image/png"}},
        {"files": {"image": ("a.png", FILE, "image/png")}},
        {"json": tensors(base64.b64encode(FILE).decode())},
        {"json": tensors("data:image/png;base64," + base64.b64encode(FILE).decode())},
    ],
    ids=["file", "form", "base64", "data-url"],
)
def test_a_picture_in_every_form(http: httpx.Client, request_fields: dict[str, Any]) -> None:
    outputs = named(http.post("/lines/infer", **request_fields))
    assert outputs["names"] == ["value 20", "value 60"]
    assert outputs["mixed"] == ['{"names":["value 20","value 60"],"parts":[[0,1],3.5]}']


def test_a_picture_without_rows(http: httpx.Client) -> None:
    answer = http.post("/lines/infer", content=picture(255), headers={"content-type": "image/png"})
    assert named(answer)["names"] == []


def test_a_sound_file_becomes_samples(http: httpx.Client) -> None:
    """A tone of 440 Hz in two channels at 22.05 kHz."""
    pytest.importorskip("av")
    tone = (np.sin(2 * np.pi * 440 * np.arange(33075) / 22050) * 20000).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(2)
        written.setsampwidth(2)
        written.setframerate(22050)
        written.writeframes(np.repeat(tone, 2).tobytes())
    heard = http.post("/sound/infer", content=file.getvalue(), headers={"content-type": "audio/wav"})
    assert named(heard)["loudest"] == [440]
    wrong = http.post("/sound/infer", content=b"no sound", headers={"content-type": "audio/wav"})
    assert (wrong.status_code, "not a sound file" in wrong.text) == (400, True)


def test_triton_sends_the_bytes_of_a_file(server: RunningServer) -> None:
    with tritonclient.http.InferenceServerClient(server.address) as client:
        given = tritonclient.http.InferInput("image", [len(FILE)], "UINT8")
        given.set_data_from_numpy(np.frombuffer(FILE, np.uint8))
        outputs = [tritonclient.http.InferRequestedOutput(name) for name in ("y", "names")]
        result = client.infer("lines", [given], outputs=outputs)
    y, names = (result.as_numpy(name) for name in ("y", "names"))
    assert y is not None
    assert names is not None
    assert y.tolist() == [[[20, 0, 0, 0]], [[60, 0, 0, 0]]]
    assert names.tolist() == [b"value 20", b"value 60"]


@pytest.fixture(scope="module")
def grpc_client(server: RunningServer) -> Generator[tritonclient.grpc.InferenceServerClient, None, None]:
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        yield client


def picture_tensor(content: bytes) -> tritonclient.grpc.InferInput:
    given = tritonclient.grpc.InferInput("image", [len(content)], "UINT8")
    given.set_data_from_numpy(np.frombuffer(content, np.uint8))
    return given


def test_triton_over_grpc(grpc_client: tritonclient.grpc.InferenceServerClient) -> None:
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in ("y", "names")]
    for file in (FILE, picture(255)):
        result = grpc_client.infer("lines", [picture_tensor(file)], outputs=outputs, request_id="7", client_timeout=60)
        assert result is not None
        y, names = (result.as_numpy(name) for name in ("y", "names"))
        assert result.get_response().id == "7"  # pyright: ignore[reportAttributeAccessIssue]
        assert y is not None
        assert names is not None
        if file is FILE:
            assert y.tolist() == [[[20, 0, 0, 0]], [[60, 0, 0, 0]]]
        assert names.tolist() == ([b"value 20", b"value 60"] if file is FILE else [])
    text = tritonclient.grpc.InferInput("names", [1], "BYTES")
    text.set_data_from_numpy(np.array(["é"], object))
    result = grpc_client.infer("texts", [text], model_version="1")
    assert result is not None
    mixed = result.as_numpy("mixed")
    assert mixed is not None
    assert mixed.tolist() == ['{"names":"é","parts":[[0,1],3.5]}'.encode()]


def test_a_stream_over_grpc(grpc_client: tritonclient.grpc.InferenceServerClient) -> None:
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    grpc_client.start_stream(lambda result, error: came.put((result, error)))
    try:
        for number, content in enumerate((FILE, b"no picture")):
            grpc_client.async_stream_infer("lines", [picture_tensor(content)], request_id=str(number))
        result, error = came.get(timeout=60)
        assert (error, result.as_numpy("names").tolist()) == (None, [b"value 20", b"value 60"])
        _, error = came.get(timeout=60)
        assert "not a picture" in error.message()
    finally:
        grpc_client.stop_stream()


def test_refusals_over_grpc(grpc_client: tritonclient.grpc.InferenceServerClient) -> None:
    unlucky, other = picture_tensor(picture(13)), tritonclient.grpc.InferRequestedOutput("z")
    calls: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: grpc_client.infer("lines", [picture_tensor(b"no picture")]), "INVALID_ARGUMENT", "not a picture"),
        (lambda: grpc_client.infer("lines", [unlucky], outputs=[other]), "INVALID_ARGUMENT", "no output 'z'"),
        (lambda: grpc_client.infer("lines", []), "INVALID_ARGUMENT", "missing"),
        (lambda: grpc_client.infer("lines", [unlucky], model_version="2"), "NOT_FOUND", "version"),
        (lambda: grpc_client.infer("texts", [unlucky]), "INVALID_ARGUMENT", "no input 'image'"),
        (lambda: grpc_client.get_model_config("lines"), "NOT_FOUND", "not found"),
        (lambda: grpc_client.unload_model("lines"), "NOT_FOUND", "no such model"),
    ]
    for call, code, said in calls:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert code in str(caught.value.status())
        assert said in caught.value.message()


def test_what_is_told_of_a_chain_over_grpc(grpc_client: tritonclient.grpc.InferenceServerClient) -> None:
    metadata = grpc_client.get_model_metadata("texts", as_json=True)
    assert metadata is not None
    assert metadata["inputs"] == [{"name": "names", "datatype": "BYTES", "shape": ["1"]}]
    assert grpc_client.is_model_ready("lines")
    assert not grpc_client.is_model_ready("lines", "2")
    assert grpc_client.is_server_ready()
    index = grpc_client.get_model_repository_index(as_json=True)
    assert index is not None
    assert {"name": "texts", "version": "1", "state": "READY"} in index["models"]
    statistics = grpc_client.get_inference_statistics("sound", as_json=True)
    assert statistics is not None
    assert statistics["model_stats"][0]["name"] == "sound"


def test_texts(http: httpx.Client) -> None:
    assert named(http.post("/texts/infer", content="é", headers={"content-type": "text/plain"}))["names"] == ["é"]
    outputs = named(http.post("/two/infer", data={"names": "a"}, files={"other": b"\xff"}))
    assert outputs["mixed"] == ['{"names":"a","parts":[[0,1],3.5]}']


PLAIN = {"content-type": "text/plain"}


def test_arrays_of_every_kind(http: httpx.Client) -> None:
    outputs = named(http.post("/kinds/infer", content="x", headers=PLAIN))
    assert outputs == {"words": ["a", "bc"], "numbers": [0, 1], "objects": ['[1,"x",null]']}
    assert named(http.post("/no_json/infer", content="integer", headers=PLAIN))["y"] == [str(1 << 70)]


@pytest.mark.parametrize("what", ["complex", "array", "itself", "half"])
def test_what_json_cannot_hold(http: httpx.Client, what: str) -> None:
    answer = http.post("/no_json/infer", content=what, headers=PLAIN)
    assert answer.status_code == 500
    said = "output 'y' has a text that is no Unicode" if what == "half" else "output 'y' cannot be written as JSON"
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "fields", "status", "said"),
    [
        ("lines", {"content": b"no picture", "headers": {"content-type": "image/png"}}, 400, "not a picture"),
        (
            "lines",
            {"content": PNG_HEAD + bytes(40), "headers": {"content-type": "image/png"}},
            400,
            "picture",
        ),
        ("lines", {"files": {"imaje": FILE}}, 400, "no input 'imaje': it has 'image'"),
        ("lines", {"json": {"inputs": []}}, 400, "'image' of 'lines' is missing"),
        ("lines", {"json": tensors("http://example.org/x.png")}, 400, "nothing is fetched"),
        ("lines", {"json": tensors("???")}, 400, "neither a data URL nor base64"),
        ("lines", {"json": tensors("data:image/png")}, 400, "must have a comma"),
        ("lines", {"json": tensors("", outputs=[{"name": "w"}])}, 400, "no output 'w'"),
        ("lines", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "not a form"),
        ("lines", {"content": picture(1), "headers": {"content-type": "image/png"}}, 400, "step 'doubler': "),
        ("lines", {"content": b"x" * 2_000_000, "headers": {"content-type": "image/png"}}, 413, "larger"),
        ("texts", {"content": b"\xff", "headers": {"content-type": "text/plain"}}, 400, "not UTF-8"),
        ("two", {"content": b"x", "headers": {"content-type": "text/plain"}}, 400, "several inputs, 'names', 'other'"),
    ],
)
def test_refusals(http: httpx.Client, path: str, fields: dict[str, Any], status: int, said: str) -> None:
    answer = http.post(f"/{path}/infer", **fields)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert said in answer.json()["error"]


def test_what_is_told_of_a_chain(http: httpx.Client, server: RunningServer) -> None:
    assert http.get("/texts").json()["inputs"] == [
        {"name": "names", "datatype": "BYTES", "shape": [1], "parameters": {"kind": "text"}}
    ]
    assert http.get("/lines/ready").json() == {"name": "lines", "ready": True}
    before = http.get("/texts/stats").json()["model_stats"][0]["inference_stats"]["success"]["count"]
    http.post("/texts/infer", content="a", headers={"content-type": "text/plain"})
    after = http.get("/texts/stats").json()["model_stats"][0]["inference_stats"]["success"]["count"]
    assert after == before + 1
    index = httpx.post(f"{server.url}/v2/repository/index").json()
    assert {"name": "texts", "version": "1", "state": "READY", "reason": ""} in index
