"""Workers on another machine are killed and stopped, its cable is pulled, and it is switched off, in the middle of
requests for a language model and for a graph: none fails, none is told anything else, and every worker is back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ray.hosts import Host, RayHosts
from tests.ray.serving import Server, asked, served

WORKER = "shoal.worker.remote_main"
LOST = r"(chain: )?replica \d is lost: .*"
AGAIN = r"(chain: )?replica \d has its workers again after .* s"
Strike = Callable[[RayHosts, Host], Iterator[None]]
"""Strikes a host; what it then undoes is undone once requests have been answered."""


def killed(cluster: RayHosts, host: Host) -> Iterator[None]:
    (pid,) = host.processes(WORKER)
    os.kill(pid, signal.SIGKILL)
    yield


def hung(cluster: RayHosts, host: Host) -> Iterator[None]:
    (pid,) = host.processes(WORKER)
    os.kill(pid, signal.SIGSTOP)
    yield


def cable_pulled(cluster: RayHosts, host: Host) -> Iterator[None]:
    host.set_link(False)
    try:
        yield
    finally:
        host.set_link(True)


def switched_off(cluster: RayHosts, host: Host) -> Iterator[None]:
    cluster.leave(host)
    try:
        yield
    finally:
        cluster.join(host)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "split", "strikes"),
    [
        ("model", "pp=2", (killed, hung, cable_pulled, switched_off)),
        ("model", "dp=2", (cable_pulled,)),
        ("chain", "pp=2", (killed, hung, cable_pulled, switched_off)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_request_fails(
    kind: str, split: str, strikes: tuple[Strike, ...], cluster: RayHosts, request: pytest.FixtureRequest
) -> None:
    path, struck = Path(request.getfixturevalue(kind)), cluster.hosts[1]
    with served(cluster, path, split) as server:
        with asked(cluster, server.url, path) as undisturbed:
            expected = undisturbed.finish()
        for strike in strikes:
            told = len(server.lines)
            with asked(cluster, server.url, path) as clients:
                with contextmanager(strike)(cluster, struck):
                    server.wait_for_match(LOST, told)
                    if strike in (cable_pulled, switched_off) and split == "pp=2":
                        server.wait_for_match(AGAIN, told)  # without the host
                    if split == "dp=2" or strike is not cable_pulled:
                        assert clients.finish() == expected, strike.__name__
                if strike is cable_pulled and split == "pp=2":
                    assert clients.finish() == expected, strike.__name__
            wait_until_whole(server, strike, told, cluster.hosts[0], struck, split)
        with asked(cluster, server.url, path) as clients:
            assert clients.finish() == expected


def wait_until_whole(server: Server, strike: Strike, told: int, here: Host, there: Host, split: str) -> None:
    """Until the workers are where they were."""
    if split == "dp=2" or strike not in (cable_pulled, switched_off):
        server.wait_for_match(AGAIN, told)
        return
    server.wait_for_match(f"joined: {there.address}", told)
    server.wait_for_match(f"replica 0 is given back its workers on {here.address}, {there.address}", told)
    server.wait_for_match("(chain: )?replica 0 continues with new workers", told)
