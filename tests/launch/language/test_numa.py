"""A machine that tells of two NUMA nodes: the real commands and workers, in a mount namespace with another sysfs.

The kernel has but one node: it refuses memory of the other, and its worker goes on with what there is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.model.tiny_models import make_tiny_model

CORES = sorted(os.sched_getaffinity(0))[:2]
_TIMEOUT_S = 250.0
_NODES = "/sys/devices/system/node"
_RUN = """
import json, sys
from pathlib import Path
import psutil, shoal
from shoal.executor.process.living_workers import worker_processes
from shoal.measure.devices.discovery import find_devices
with shoal.LLM(sys.argv[1], split=sys.argv[2], precision="fp32") as llm:
    tokens = llm.generate(list(range(5, 25)), max_tokens=4, temperature=0, ignore_eos=True).token_ids
    workers = worker_processes(psutil.Process())
    found = {
        "nodes": [list(node.cpus) for node in find_devices().processor.nodes],
        "planned": [list(shard.cores) for shard in llm.plan.shards],
        "tokens": list(tokens),
        "policies": {
            ",".join(map(str, one.cpu_affinity())): Path(f"/proc/{one.pid}/numa_maps").read_text().split()[1]
            for one in workers
        },
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What to put before a command that is to see two nodes of a core each."""
    if len(CORES) < 2:
        pytest.skip("one core is one node")
    folder = tmp_path_factory.mktemp("nodes")
    for number, core in enumerate(CORES):
        (folder / f"node{number}").mkdir()
        (folder / f"node{number}" / "cpulist").write_text(f"{core}\n")
        (folder / f"node{number}" / "meminfo").write_text(f"Node {number} MemTotal: 4096000 kB\n")
    for own in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        command = [*own, "sh", "-c", f'mount --bind {folder} {_NODES} && exec "$@"', "sh"]
        try:
            subprocess.run([*command, "true"], check=True, capture_output=True, timeout=_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError):
            continue
        return command
    pytest.skip("no mount namespace may be made here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model("llama", tmp_path_factory.mktemp("model"))


def seen(command: list[str], model: Path, split: str, cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [*command, "taskset", "-c", ",".join(map(str, CORES)), sys.executable, "-c", _RUN, str(model), split],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_workers_have_a_node_each_and_memory_of_it_where_there_is_some(
    model: Path, two_nodes: list[str], tmp_path: Path
) -> None:
    found = seen(two_nodes, model, "pp=2", tmp_path)
    assert found["nodes"] == [[core] for core in CORES]
    assert found["planned"] == found["nodes"], "no worker has cores of two nodes"
    assert found["policies"] == {str(CORES[0]): "prefer:0", str(CORES[1]): "default"}
    assert found["tokens"] == seen([], model, "1", tmp_path)["tokens"]


def test_no_worker_that_auto_takes_has_cores_of_two_nodes(model: Path, two_nodes: list[str], tmp_path: Path) -> None:
    found = seen(two_nodes, model, "auto", tmp_path)
    assert found["planned"]
    assert all(len(cores) == 1 for cores in found["planned"])
    measured = [json.loads(file.read_text())["key"].get("slots", []) for file in tmp_path.rglob("*.json")]
    assert any(len(slots) == 2 for slots in measured), "two workers were measured"
    assert all(len(cores) == 1 for slots in measured for cores, _ in slots), "and none on both nodes"
