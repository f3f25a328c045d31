"""ONNX graphs over several hosts that Ray has found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.plain_runtime import plain_session
from tests.ray.hosts import RayHosts
from tests.ray.serving import WIDTH

OPTIONS = ("--threads", "1", "--cluster", "ray")


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", ["pp=2", "tp=2", "dp=3"])
def test_agrees_with_plain_onnx_runtime(split: str, cluster: RayHosts, chain: Path) -> None:
    done = cluster.run("verify", str(chain), "--split", split, "--json", *OPTIONS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["agrees"]
    assert len({worker["machine"] for worker in result["plan"]["workers"]}) == int(split[-1])


def test_machines_are_measured_and_a_plan_is_chosen(cluster: RayHosts, chain: Path) -> None:
    done = cluster.run("plan", str(chain), "--cluster", "ray", "--objective", "throughput", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert {worker["machine"] for worker in value["plan"]["workers"]} <= {host.address for host in cluster.hosts}
    assert value["predicted"]["rows_per_s"] > 0


def test_one_input_is_run_over_hosts(cluster: RayHosts, chain: Path, tmp_path: Path) -> None:
    given, written = tmp_path / "given.npz", tmp_path / "written.npz"
    x = np.random.default_rng(3).standard_normal((5, WIDTH), np.float32)
    np.savez(given, x=x)
    done = cluster.run("run", str(chain), "--inputs", str(given), "-o", str(written), "--split", "pp=2,dp=1", *OPTIONS)
    assert done.returncode == 0, done.stderr
    expected = plain_session(chain).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(np.load(written)["y"], np.asarray(expected), rtol=1e-5, atol=1e-6)


def test_a_map_over_hosts_of_which_one_lacks_the_graph(cluster: RayHosts, chain: Path, tmp_path: Path) -> None:
    """The last host sees an empty folder where the graph is."""
    lonely, rows = cluster.only_here / "lonely.onnx", tmp_path / "rows.npz"
    lonely.write_bytes(chain.read_bytes())
    x = np.random.default_rng(2).standard_normal((6, WIDTH), np.float32)
    np.savez(rows, x=x)
    done = cluster.run(
        "map", str(lonely), "--inputs", str(rows), "-o", str(tmp_path / "out"), "--split", "dp=3", *OPTIONS
    )
    assert done.returncode == 0, done.stderr
    assert "of the model that it lacked" in done.stderr
    expected = plain_session(chain).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "y.npy"), np.asarray(expected), rtol=1e-5, atol=1e-6)
