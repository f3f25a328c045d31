"""`shoal serve` for graphs, as far as it does not need real ones: addresses, names, signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.cli.graphs.model_options import options_of
from shoal.cli.graphs.serve import GraphServeOptions, serve_graphs
from shoal.cli.shared.server_options import ServerOptions
from shoal.errors import ConfigError, ModelLoadError
from shoal.server.http.serve import bind
from shoal.server.oip.app import MAX_REQUEST_BYTES
from tests.cli.conftest import Shoal
from tests.comm.loopback import free_port, own_loopback_address
from tests.server.oip.fakes import FakeGraph, FakeLoader, doubler
from tests.server.oip.rest.test_rest_errors import GOOD


def options(*, port: int | None = None, **changes: Any) -> GraphServeOptions:
    server = ServerOptions(
        host=own_loopback_address(),
        port=free_port() if port is None else port,
        api_key=None,
        tls=None,
        allowed_hosts=None,
        cors_origins=(),
        drain_timeout_s=20.0,
    )
    fields: dict[str, Any] = {
        "grpc_port": None,
        "name": None,
        "max_batch": 8,
        "batch_delay_s": 0.0,
        "max_queue_rows": 100,
        "max_request_bytes": 1 << 20,
        "allow_load": False,
    }
    return GraphServeOptions(server=server, **(fields | changes))


def test_a_server_from_files_to_a_signal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    chosen = options(grpc_port=free_port(), name="twice")
    loader = FakeLoader({"doubler": doubler})
    answers: list[Any] = []

    def use() -> None:
        """The address is taken before a model is loaded, so a client may come early and is answered later."""
        try:
            with httpx.Client(base_url=f"http://{chosen.server.host}:{chosen.server.port}", timeout=30) as http:
                answers.append(http.post("/v2/models/twice/infer", json=GOOD).json()["outputs"][0]["data"])
            with triton.InferenceServerClient(f"{chosen.server.host}:{chosen.grpc_port}") as grpc_client:
                answers.append(grpc_client.is_model_ready("twice"))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    clients: list[threading.Thread] = []
    caplog.set_level(logging.INFO, "shoal")

    def load(path: Path) -> FakeGraph:
        clients.append(threading.Thread(target=use))
        clients[0].start()
        return loader(path)

    serve_graphs([str(tmp_path / "doubler.onnx")], load, chosen)
    clients[0].join(30)
    assert answers == [[2, 4, 6, 8], True]
    assert loader.loaded["doubler"][0].num_closed
    host, port = chosen.server.host, chosen.server.port
    assert f"serving twice at http://{host}:{port}/v2, gRPC at {host}:" in caplog.text


def test_options_of_one_model_are_its_own_and_a_wrong_file_takes_out_one_model(tmp_path: Path) -> None:
    loader = FakeLoader({"small": doubler, "large": doubler, "wrong": doubler})
    (tmp_path / "small.yaml").write_text("max_batch: 2")
    (tmp_path / "wrong.yaml").write_text("max_bach: 2")
    chosen = options(model_options=lambda path: options_of(path, {}))
    found: dict[str, Any] = {}

    def use() -> None:
        try:
            with httpx.Client(base_url=f"http://{chosen.server.host}:{chosen.server.port}", timeout=30) as http:
                for name in ("small", "large"):
                    found[name] = http.get(f"/v2/models/{name}/config").json()["max_batch_size"]
                found["index"] = http.post("/v2/repository/index", json={}).json()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=use)

    def load(path: Path) -> FakeGraph:
        if path.stem == "wrong":
            client.start()
        return loader(path)

    serve_graphs([str(tmp_path / f"{name}.onnx") for name in ("small", "large", "wrong")], load, chosen)
    client.join(30)
    assert (found["small"], found["large"]) == (2, 8)
    (line,) = [line for line in found["index"] if line["name"] == "wrong"]
    assert line["state"] == "UNAVAILABLE"
    assert "did you mean 'max_batch'" in line["reason"]


def test_a_broken_model_is_listed_while_the_others_serve(caplog: pytest.LogCaptureFixture) -> None:
    loader = FakeLoader({"doubler": doubler})
    chosen = options()
    index: list[Any] = []

    def use() -> None:
        try:
            with httpx.Client(base_url=f"http://{chosen.server.host}:{chosen.server.port}", timeout=30) as http:
                index.extend(http.post("/v2/repository/index", json={}).json())
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=use)
    caplog.set_level(logging.INFO, "shoal")

    def load(path: Path) -> FakeGraph:
        if path.stem == "doubler":
            client.start()
        return loader(path)

    serve_graphs(["other.onnx", "doubler.onnx"], load, chosen)
    client.join(30)
    assert {line["name"]: line["state"] for line in index} == {"doubler": "READY", "other": "UNAVAILABLE"}
    assert "other.onnx is broken" in next(line["reason"] for line in index if line["name"] == "other")
    assert "other is not served: other.onnx is broken" in caplog.text
    assert "serving doubler at" in caplog.text


def test_nothing_is_served_where_no_model_can_be() -> None:
    with pytest.raises(ModelLoadError, match=r"none of the 2 models"):
        serve_graphs(["one.onnx", "other.onnx"], FakeLoader({}), options())
    with pytest.raises(ModelLoadError, match=r"other\.onnx is broken"):
        serve_graphs(["other.onnx"], FakeLoader({}), options())


@pytest.mark.parametrize("which", ["port", "grpc_port"])
def test_an_address_in_use_is_known_before_anything_is_loaded(which: str) -> None:
    if which == "grpc_port":
        pytest.importorskip("grpc")
    loader = FakeLoader({"doubler": doubler})
    with bind(own_loopback_address(), 0) as taken, pytest.raises(ConfigError, match="cannot listen on"):
        serve_graphs(["doubler.onnx"], loader, options(**{which: taken.getsockname()[1]}))
    assert loader.threads == []


def test_what_clients_may_do_comes_from_the_command_line(
    shoal: Shoal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's file is read only when it is loaded."""
    model, key_file = tmp_path / "twice.onnx", tmp_path / "key"
    model.write_bytes(b"")
    key_file.write_text("secret\n")
    started: list[GraphServeOptions] = []
    monkeypatch.setattr("shoal.cli.graphs.serve_command.serve_graphs", lambda *given: started.append(given[2]))
    monkeypatch.setattr("shoal.server.http.descriptors.raise_limit", lambda: None)
    monkeypatch.delenv("SHOAL_API_KEY", raising=False)
    for given in (
        (),
        ("--allow-load", "--allowed-host", "a.example", "--allowed-host", "b.example"),
        ("--api-key-file", str(key_file), "--host", "0.0.0.0", "--max-request", "1M"),
    ):
        assert shoal("serve", model, *given).status == 0
    assert [
        (one.allow_load, one.server.allowed_hosts, one.server.api_key, one.max_request_bytes) for one in started
    ] == [
        (False, (), None, MAX_REQUEST_BYTES),
        (True, ("a.example", "b.example"), None, MAX_REQUEST_BYTES),
        (False, None, "secret", 1 << 20),
    ]
