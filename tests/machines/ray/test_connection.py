"""The connection to Ray's head: what is said where it cannot be had, and where the head goes away."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from shoal.comm.tls.tls_link import format_address
from shoal.errors import ConfigError, WorkerLost
from shoal.machines.ray import connection as connection_module
from shoal.machines.ray.connection import RayConnection
from tests.comm.loopback import own_loopback_address
from tests.machines.ray.fake_ray import FakeRay


class Ray(FakeRay):
    """With a head that listens at an address."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.init_error: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._head = head

    def init(self, **options: Any) -> None:
        self.asked.append(options)
        if self.init_error is not None:
            raise self.init_error

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address=self._head, get_node_id=lambda: "here")

    def nodes(self) -> list[dict[str, Any]]:
        self.asked.append({})
        assert self.may_answer.wait(30.0)
        return [{"NodeID": "1", "Alive": True}, {"NodeID": "2", "Alive": False}]

    def shutdown(self) -> None:
        """Nothing is open."""


@pytest.fixture
def head() -> Iterator[socket.socket]:
    """At an address where nobody else takes its port while it is gone."""
    with socket.create_server((own_loopback_address(), 0)) as listening:
        yield listening


@pytest.fixture
def ray(head: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Ray:
    address = format_address(head.getsockname())
    fake = Ray(address)
    monkeypatch.setattr(connection_module, "_import_ray", lambda: fake)
    monkeypatch.setenv("RAY_USE_TLS", "1")  # the fake head speaks nothing
    monkeypatch.setenv("RAY_ADDRESS", address)
    return fake


def test_machines_that_live_are_told(ray: Ray) -> None:
    connection = RayConnection()
    assert [node["NodeID"] for node in connection.nodes()] == ["1"]
    assert connection.trouble is None
    assert ray.asked[0]["address"] == os.environ["RAY_ADDRESS"]


@pytest.mark.parametrize("address", [None, "", "auto"])
def test_the_cluster_of_this_machine_is_the_default(
    address: str | None, ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    RayConnection()
    assert ray.asked[0]["address"] == "auto"
    ray.init_error = ConnectionError("Could not find any running Ray instance.\nPlease specify ...")
    with pytest.raises(ConfigError, match=r"^no Ray cluster runs here; start one with: ray start --head, and"):
        RayConnection()


def test_a_head_that_refuses_is_named_with_its_reason(ray: Ray, head: socket.socket) -> None:
    ray.init_error = RuntimeError("\x1b[31mVersion mismatch: The cluster was started with:\x1b[0m\n    Ray: 2.1\n")
    where = f"RAY_ADDRESS={format_address(head.getsockname())}"
    with pytest.raises(ConfigError) as caught:
        RayConnection()
    assert str(caught.value).startswith(f"{where} cannot be used: ")
    assert "Version mismatch" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_head_that_is_gone_is_told_until_it_is_back(ray: Ray, head: socket.socket) -> None:
    connection = RayConnection()
    where = head.getsockname()
    head.close()
    for _ in range(2):
        with pytest.raises(WorkerLost, match=f"^Ray's head at {re.escape(format_address(where))} does not answer$"):
            connection.nodes()
        assert connection.trouble == f"Ray's head at {format_address(where)} does not answer"
    assert len(ray.asked) == 1, "Ray would wait for it for a minute"
    with socket.create_server(where):
        assert connection.nodes()
    assert connection.trouble is None


def test_a_head_that_hangs_is_not_waited_for(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = RayConnection()
    monkeypatch.setattr(connection_module, "_HEAD_TIMEOUT_S", 0.05)
    ray.may_answer.clear()
    while len(ray.asked) < 2:
        with pytest.raises(WorkerLost, match="does not answer"):
            connection.nodes()
    for _ in range(3):
        with pytest.raises(WorkerLost, match="does not answer"):
            connection.nodes()
    assert len(ray.asked) == 2, "one question at a time"
    ray.may_answer.set()
    for thread in threading.enumerate():
        if thread.name == "shoal-ray-head":
            thread.join(30.0)
    monkeypatch.setattr(connection_module, "_HEAD_TIMEOUT_S", 30.0)
    assert connection.nodes()
