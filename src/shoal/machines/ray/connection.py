"""The connection to a Ray cluster: connecting, checking that its head answers, and leaving."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any

from shoal.comm.tls.tls_link import Address, format_address
from shoal.errors import ConfigError, MissingExtra, WorkerLost
from shoal.machines.ray.address import (
    AUTO,
    HOW_TO_START,
    VARIABLE,
    can_be_reached,
    check_that_a_head_listens,
    read_ray_address,
)
from shoal.machines.ray.answers import reason_in

_HEAD_TIMEOUT_S = 10.0
"""Longest wait for Ray's head to list its machines, which takes milliseconds."""


class RayConnection:
    """A connection from construction until `close`. A process has at most one at a time."""

    def __init__(self) -> None:
        """Connect. Raises ConfigError if Ray is not installed, RAY_ADDRESS is invalid, or no cluster answers there."""
        self.ray = _import_ray()
        _connect(self.ray, read_ray_address(os.environ))
        host, _, port = self.ray.get_runtime_context().gcs_address.rpartition(":")
        self._head: Address = (host.strip("[]"), int(port))
        self.node_id: str = self.ray.get_runtime_context().get_node_id()
        """Ray's id of the machine on which this process runs."""
        self._question: threading.Thread | None = None
        self.trouble: str | None = None
        """Why Ray's head is considered gone; None: it answered the last time."""

    def nodes(self) -> Sequence[Any]:
        """Ray's descriptions of the machines that it considers alive. Raises WorkerLost if Ray's head does not
        answer."""
        try:
            nodes = self._ask_head()
        except WorkerLost as error:
            self.trouble = str(error)
            raise
        self.trouble = None
        return [node for node in nodes if node["Alive"]]

    def close(self) -> None:
        """Leave the cluster, which ends the agents and their workers. Idempotent."""
        self.ray.shutdown()

    def _ask_head(self) -> Sequence[Any]:
        complaint = f"Ray's head at {format_address(self._head)} does not answer"
        if not can_be_reached(self._head) or (self._question is not None and self._question.is_alive()):
            raise WorkerLost(complaint)
        try:
            return self._within(_HEAD_TIMEOUT_S, self.ray.nodes)
        except Empty:
            raise WorkerLost(complaint) from None
        except Exception as error:  # Ray raises various exceptions if its head is gone
            raise WorkerLost(f"{complaint}: {reason_in(str(error))}") from error

    def _within(self, timeout_s: float, call: Callable[[], Any]) -> Any:
        """Make a call that Ray may block for a minute. Returns or raises as `call`; raises queue.Empty on a timeout."""
        outcome: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

        def run() -> None:
            try:
                outcome.put((call(), None))
            except Exception as error:
                outcome.put((None, error))

        self._question = threading.Thread(target=run, name="shoal-ray-head", daemon=True)
        self._question.start()
        value, error = outcome.get(timeout=timeout_s)
        self._question = None
        if error is not None:
            raise error
        return value


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError:
        raise MissingExtra("--cluster ray needs Ray", "ray") from None
    return ray


def _connect(ray: ModuleType, address: Address | None) -> None:
    if address is not None:
        check_that_a_head_listens(address, is_tls=os.environ.get("RAY_USE_TLS", "0") != "0")
    spelled = AUTO if address is None else format_address(address)
    try:
        ray.init(address=spelled, namespace="shoal", log_to_driver=False, logging_level="CRITICAL")
    except Exception as error:  # Ray raises various exceptions
        if address is None and isinstance(error, ConnectionError):
            raise ConfigError(f"no Ray cluster runs here; {HOW_TO_START}") from None
        where = "the Ray cluster here" if address is None else f"{VARIABLE}={spelled}"
        raise ConfigError(f"{where} cannot be used: {reason_in(str(error))}") from error
