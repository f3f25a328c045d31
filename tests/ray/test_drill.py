"""`shoal drill` takes machines of a Ray cluster away and pulls their cables, and puts them back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ray.hosts import RayHosts
from tests.ray.serving import served


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "how"), [("model", "cable"), ("chain", "kill")])
def test_machines_go_and_come_back(kind: str, how: str, cluster: RayHosts, request: pytest.FixtureRequest) -> None:
    path = Path(request.getfixturevalue(kind))
    with served(cluster, path, "pp=2", "--threads", "1", "--allow-drill") as server:
        before = server.status(cluster)["plan"]["workers"]
        told = len(server.lines)
        done = cluster.run("drill", server.url, "--yes", "--json", "--how", how)
        print(done.stdout)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert server.status(cluster)["plan"]["workers"] == before
    of_machines = [loss for loss in report["losses"] if loss["worker"] is None]
    assert [loss["machine"] for loss in of_machines] == [worker["machine"] for worker in before]
    assert report["lost"] == 0
    assert all(loss["how"] == how and loss["seen_s"] > 0 and loss["predicted_s"] > 0 for loss in report["losses"])
    replanned = [line for line in server.lines[told:] if "planned anew" in line]
    assert len(replanned) == (2 if how == "cable" else 0)
