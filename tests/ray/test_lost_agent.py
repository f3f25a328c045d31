"""An agent that dies, and one that hangs, on a host that stays: the host is used again, and nothing is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.ray.hosts import Host, RayHosts
from tests.ray.serving import Server, served, wait_until

AGENT, WORKER = "ray::MachineAgent", "shoal.worker.remote_main"


@pytest.mark.timeout(900)
def test_a_host_is_used_again_whatever_became_of_its_agent(cluster: RayHosts, model: Path) -> None:
    here, there = cluster.hosts[0], cluster.hosts[1]
    with served(cluster, model, "pp=2") as server:
        assert machines_in_plan(cluster, server) == {here.address, there.address}
        (agent,) = there.processes(AGENT)
        os.kill(agent, signal.SIGSTOP)
        _kill(there, WORKER)
        try:
            server.wait_for_match(r"replica 0 is planned anew as .*, without stage 1 on .*")
            server.wait_for_match(r"replica 0 has its workers again after .* s")
            server.wait_for(f"machine {there.address} does not answer")
            assert machines_in_plan(cluster, server) == {here.address}
            assert states(cluster, server)[there.address] == "does not answer"
        finally:
            os.kill(agent, signal.SIGCONT)
        server.wait_for(f"joined: {there.address}")
        server.wait_for("replica 0 continues with new workers")
        assert machines_in_plan(cluster, server) == {here.address, there.address}
        assert set(states(cluster, server).values()) == {"has workers", "has no workers"}
        wait_until(lambda: len(there.processes(WORKER)) == len(here.processes(WORKER)) == 1)

        told = len(server.lines)
        _kill(there, AGENT)
        server.wait_for_match(r"replica 0 has its workers again after .* s", told)
        assert not [line for line in server.lines[told:] if "planned anew" in line]
        assert machines_in_plan(cluster, server) == {here.address, there.address}


def machines_in_plan(cluster: RayHosts, server: Server) -> set[str]:
    return {worker["machine"] for worker in server.status(cluster)["plan"]["workers"]}


def states(cluster: RayHosts, server: Server) -> dict[str, str]:
    return {machine["name"]: machine["state"] for machine in server.status(cluster)["machines"]}


def _kill(host: Host, words: str) -> None:
    (pid,) = host.processes(words)
    os.kill(pid, signal.SIGKILL)
