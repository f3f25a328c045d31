"""Stages on a device whose sessions fail: what is the device's fault, and how much of a graph it would hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from shoal.errors import CapacityError, ConfigError, DeviceLost, InvalidRequest
from shoal.model.device.opening import check_nodes
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.stage import session as sessions
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.session import GraphStage
from shoal.model.runtime_sessions import start_session
from shoal.protocol.device_config import DeviceConfig
from tests.executor.graphs import skip_chain

DEVICE = DeviceConfig(provider="cuda")


class Small:
    """In the place of a device's sessions: the processor's, for as many nodes as it holds."""

    def __init__(self, most_nodes: int) -> None:
        self.most_nodes = most_nodes

    def __call__(self, model: Any, options: Any, device: DeviceConfig | None = None) -> Any:
        proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        if len(proto.graph.node) > self.most_nodes:
            raise RuntimeError("CUDA failure 2: out of memory")
        return start_session(model, options)


@pytest.fixture
def graph(tmp_path: Path) -> GraphFile:
    return open_graph(skip_chain(tmp_path / "chain.onnx"))


def load(graph: GraphFile, monkeypatch: pytest.MonkeyPatch, most_nodes: int) -> GraphStage:
    monkeypatch.setattr(sessions, "start_session", Small(most_nodes))
    monkeypatch.setattr(sessions, "check_nodes", lambda session, device: None)
    (whole,) = stage_interfaces(graph, ())
    return GraphStage(graph, whole, threads=1, device=DEVICE)


def test_a_device_that_is_too_small_says_what_it_would_hold(graph: GraphFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CapacityError, match=r"nodes 0 to 8, whose weights are 1,024 bytes; the first 5 of these 9 nodes"
    ):
        load(graph, monkeypatch, 5)


def test_a_device_that_holds_nothing_says_so(graph: GraphFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CapacityError, match="not even the first part of them fits"):
        load(graph, monkeypatch, 0)


@pytest.mark.parametrize(
    ("message", "kind"),
    [("CUDA failure 2: out of memory", DeviceLost), ("device is lost", DeviceLost), ("bad shape", InvalidRequest)],
)
def test_a_run_that_fails_is_the_devices_or_the_requests_fault(
    message: str, kind: type[Exception], graph: GraphFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = load(graph, monkeypatch, 99)

    def fail(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(stage, "_session", SimpleNamespace(run=fail))
    with pytest.raises(kind, match=message):
        stage.run({"x": np.zeros((1, 8), np.float32)})


def told(providers: list[str], **nodes: list[str]) -> Any:
    """A session that tells which provider has which kinds of nodes."""
    parts = [
        SimpleNamespace(ep_name=name, get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=kind) for kind in kinds])
        for name, kinds in nodes.items()
    ]
    return SimpleNamespace(get_providers=lambda: providers, get_provider_graph_assignment_info=lambda: parts)


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def test_nodes_that_fell_back_are_named() -> None:
    session = told([CUDA, CPU], **{CUDA: ["Conv", "Relu"], CPU: ["Shape", "Shape", "Gather"]})
    assert check_nodes(session, DEVICE) == "3 nodes on the processor: Shape, Gather"
    assert check_nodes(told([CUDA, CPU], **{CUDA: ["Conv"]}), DEVICE) is None


def test_a_device_that_computes_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot compute any node of this graph"):
        check_nodes(told([CUDA, CPU], **{CPU: ["Shape"]}), DEVICE)
