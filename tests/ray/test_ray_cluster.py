"""Models over several hosts that Ray has found."""

from __future__ import annotations

import json
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
    machines = {shard["machine"] for replica in result["plan"]["replicas"] for shard in _shards(replica)}
    assert len(machines) == int(split[-1])


def _shards(replica: dict[str, list[dict[str, list[dict[str, str]]]]]) -> list[dict[str, str]]:
    return [shard for stage in replica["stages"] for shard in stage["shards"]]
