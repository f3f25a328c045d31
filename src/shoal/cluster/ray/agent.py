"""What Shoal does on one machine of a Ray cluster: an actor there, which the head calls. No tokens pass through it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from shoal.cluster.profile.fleet import measure_fleet
from shoal.cluster.profile.slots import Slot
from shoal.cluster.ray.link_times import answer_pings, time_pings
from shoal.cluster.remote.host import LocalHost, StartedWorker
from shoal.cluster.remote.model_identity import ModelIdentity, identify
from shoal.cluster.remote.model_store import store_folder
from shoal.cluster.remote.model_stream import receive_model
from shoal.comm.tls_identity import Credentials
from shoal.comm.tls_link import Address
from shoal.model.weights import Precision
from shoal.planner.speeds import Fleet, LinkSpeed

DISTRIBUTION = "shoal-inference"
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What is to be known of a machine."""

    hostname: str
    boot_id: str
    """the same for machines that are containers or namespaces of one"""
    cores: tuple[int, ...]
    """CPU ids that workers may use there"""
    free_memory_bytes: int
    version: str
    """of Shoal"""


class MachineAgent:
    """Ray makes an actor of it. Calls may come from several threads at once."""

    def __init__(self, address: str) -> None:
        """`address`: of this machine, by which the others reach it."""
        self._address = address
        self._host = LocalHost(address)

    def facts(self) -> MachineFacts:
        """Of this machine, now."""
        return MachineFacts(
            hostname=socket.gethostname(),
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            cores=tuple(sorted(os.sched_getaffinity(0))),
            free_memory_bytes=psutil.virtual_memory().available,
            version=version(DISTRIBUTION),
        )

    def start(self, credentials: Credentials) -> StartedWorker:
        """See `WorkerHost.start`."""
        return self._host.start(credentials)

    def end(self, worker: StartedWorker) -> None:
        """See `WorkerHost.end`."""
        self._host.end(worker)

    def wait_for_end(self, worker: StartedWorker) -> None:
        """Returns when it has ended."""
        while not self._host.has_ended(worker):
            time.sleep(_POLL_S)

    def find_model(self, path: str, identity: ModelIdentity) -> tuple[bool, str]:
        """Whether that model is at that path here, and where it will be if it has to be brought."""
        here, folder = Path(path), store_folder(identity)
        has_it = here.exists() and identify(here) == identity
        is_file = here.name in [name for name, *_ in identity.files]
        return has_it, str(folder / here.name if is_file else folder)

    def receive_model(
        self, credentials: Credentials, identity: ModelIdentity, wanted: Mapping[str, list[int]]
    ) -> Address:
        """See `model_stream.receive_model`."""
        return receive_model(self._address, credentials, identity, wanted)

    def measure(
        self, path: str, precisions: Sequence[Precision], slot: Slot, wide_kernels: bool, refresh: bool
    ) -> Fleet:
        """How fast one worker here runs a model. Raises: as `measure_fleet`."""
        return measure_fleet(Path(path), precisions, [slot], wide_kernels=wide_kernels, refresh=refresh)

    def answer_pings(self, credentials: Credentials) -> Address:
        """See `link_times.answer_pings`."""
        return answer_pings(self._address, credentials)

    def time_pings(self, address: Address, credentials: Credentials) -> LinkSpeed:
        """See `link_times.time_pings`."""
        return time_pings(address, credentials)
