"""Models over several hosts that Ray has found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.ray.hosts import RayHosts

OPTIONS = ("--precision", "fp32", "--threads", "1", "--cluster", "ray")


@pytest.mark.parametrize("split", ["pp=2", "tp=2", "dp=2", "pp=3"])
def test_agrees_with_the_whole_model(split: str, cluster: RayHosts, model: Path) -> None:
    done = cluster.run("verify", str(model), "--split", split, "--max-tokens", "12", "--json", *OPTIONS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["agrees"]
    assert len({worker["machine"] for worker in result["plan"]["workers"]}) == int(split[-1])


def test_machines_are_measured_and_a_plan_is_chosen(cluster: RayHosts, model: Path) -> None:
    done = cluster.run("plan", str(model), "--cluster", "ray", "--precision", "fp32", "--json")
    assert done.returncode == 0, done.stderr
    workers = json.loads(done.stdout)["plan"]["workers"]
    assert {worker["machine"] for worker in workers} <= {host.address for host in cluster.hosts}


def test_a_model_that_a_machine_does_not_have_is_named(cluster: RayHosts) -> None:
    done = cluster.run("verify", "nowhere.gguf", "--split", "pp=2", "--cluster", "ray")
    assert done.returncode != 0
    assert "nowhere.gguf" in done.stderr


def test_without_a_cluster_one_line_says_how_to_start_one(cluster: RayHosts, model: Path) -> None:
    environment = {**cluster.environment, "RAY_ADDRESS": "127.0.0.1:1"}
    command = cluster.shoal("verify", str(model), "--split", "pp=2", "--cluster", "ray")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100.0)
    assert done.returncode != 0
    assert "ray start --head" in done.stderr
