"""The actor on each machine of a Ray cluster, which the head calls to start workers. No tokens pass through it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from shoal.comm.links.ports import parse_ports
from shoal.comm.tls.tls_identity import Membership
from shoal.comm.tls.tls_link import Address
from shoal.executor.remote.host import LocalHost, StartedWorker
from shoal.executor.remote.model_identity import ModelIdentity, identify
from shoal.executor.remote.model_store import store_folder
from shoal.executor.remote.model_stream import receive_model
from shoal.executor.remote.strikes import Strike
from shoal.machines.ray.on_machine.link_times import answer_pings, time_pings
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.graph.measurer import ReplicaMeasurer
from shoal.measure.graph.profile import GraphSetting, GraphWorkerTimes, measure_worker
from shoal.measure.language.fleet import measure_fleet
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.speeds.speeds import Fleet, LinkSpeed
from shoal.router.graph_executor import Tensors

DISTRIBUTION = "shoal-inference"
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Facts about a machine."""

    hostname: str
    boot_id: str
    """The kernel's boot id, equal for containers and namespaces of one computer."""
    cores: tuple[int, ...]
    """CPU ids that workers may use."""
    free_memory_bytes: int
    version: str
    """Shoal's version."""


class MachineAgent:
    """Runs as a Ray actor. Thread-safe."""

    def __init__(self, address: str, ports: str) -> None:
        """
        Args:
            address: the address by which other machines reach this one.
            ports: the ports at which its processes may listen, see `comm.links.ports.parse_ports`.
        """
        self._address, self._ports = address, parse_ports(ports)
        self._host = LocalHost(address, self._ports)

    def facts(self) -> MachineFacts:
        """The current facts of this machine. Raises MachineGone while a drill has pulled its cable."""
        self._host.cable.check()
        return MachineFacts(
            hostname=socket.gethostname(),
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            cores=tuple(sorted(os.sched_getaffinity(0))),
            free_memory_bytes=free_memory_bytes(),
            version=version(DISTRIBUTION),
        )

    def signing_request(self) -> bytes:
        """A signing request for the key of this machine's processes, which never leaves it. Raises ConfigError."""
        return self._host.key.request()

    def start(self, membership: Membership, python: str | None = None) -> StartedWorker:
        """Start a worker with the membership that the head has signed. Raises WorkerLost, ConfigError."""
        return self._host.start(lambda request: membership, python=python)

    def end(self, worker: StartedWorker) -> None:
        """See `WorkerHost.end`."""
        self._host.end(worker)

    def strike(self, strike: Strike) -> None:
        """See `LocalHost.strike`. Raises ConfigError."""
        self._host.strike(strike)

    def wait_for_end(self, worker: StartedWorker) -> int | None:
        """Wait until a worker has ended. Returns its exit status; None: not known."""
        while (status := self._host.exit_status(worker, _POLL_S)) is None and not self._host.has_ended(worker):
            pass
        return status

    def find_model(self, path: str, identity: ModelIdentity) -> tuple[bool, str]:
        """Whether the model is at that path here, and the path at which it is stored if it must be sent."""
        here, folder = Path(path), store_folder(identity)
        has_it = here.exists() and identify(here) == identity
        is_file = here.name in [name for name, *_ in identity.files]
        return has_it, str(folder / here.name if is_file else folder)

    def receive_model(
        self, membership: Membership, identity: ModelIdentity, wanted: Mapping[str, list[int]]
    ) -> Address:
        """See `model_stream.receive_model`."""
        return receive_model(self._address, self._host.key.credentials(membership), identity, wanted, self._ports)

    def measure(self, path: str, precisions: Sequence[Precision], slot: Slot, refresh: bool) -> Fleet:
        """Measure one worker here with a model. Raises: as `measure_fleet`."""
        return measure_fleet(ModelOnDisk(Path(path)), precisions, [slot], Measuring(refresh=refresh))

    def measure_graph(self, path: str, sample: Tensors, rows: int, refresh: bool) -> GraphWorkerTimes:
        """Measure one worker here with an ONNX graph and a sample. Raises: as `measure_worker`."""
        graph, cores = open_graph(Path(path)), tuple(sorted(os.sched_getaffinity(0)))
        setting = GraphSetting(graph=graph, model=path, sample=sample, rows=rows, cores=cores, is_in_process=False)
        measurer = ReplicaMeasurer(graph, sample, cores, None)
        return measure_worker(setting, measurer, Measuring(refresh=refresh))

    def answer_pings(self, membership: Membership) -> Address:
        """See `link_times.answer_pings`."""
        return answer_pings(self._address, self._host.key.credentials(membership), self._ports)

    def time_pings(self, address: Address, membership: Membership) -> LinkSpeed:
        """See `link_times.time_pings`."""
        return time_pings(address, self._host.key.credentials(membership))
