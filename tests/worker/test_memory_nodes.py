"""NUMA nodes of described machines: which memory is near to a worker, and how workers are dealt to nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shoal.measure.slots import local_layouts
from shoal.planner.split.cores import cores_by_node
from shoal.worker import memory_nodes
from shoal.worker.memory_nodes import node_cpus, node_of, prefer_near_memory

INTERLEAVED = {0: (0, 2, 4, 6), 1: (1, 3, 5, 7)}


def test_nodes_are_read_as_linux_tells_them(tmp_path: Path) -> None:
    for number, cpus in ((0, "0-1,4-5"), (10, ""), (2, "2-3")):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(cpus + "\n")
    assert node_cpus(tmp_path) == {0: (0, 1, 4, 5), 2: (2, 3)}
    assert node_cpus(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(("cores", "node"), [((1, 3), 1), ((0,), 0), ((0, 1), None), ((), None), ((9,), None)])
def test_a_worker_is_near_to_the_node_of_all_its_cores(cores: tuple[int, ...], node: int | None) -> None:
    assert node_of(cores, INTERLEAVED) == node
    assert node_of(cores, {0: tuple(range(10))}) is None, "there is no other memory"


def test_cores_are_grouped_by_their_nodes() -> None:
    assert cores_by_node(range(8), INTERLEAVED.values()) == [(0, 2, 4, 6), (1, 3, 5, 7)]
    assert cores_by_node((0, 2), INTERLEAVED.values()) == [(0, 2)]
    assert cores_by_node((0, 1, 9), INTERLEAVED.values()) == [(0, 1, 9)], "a core that is in no node"
    assert cores_by_node((0, 1), ()) == [(0, 1)]


def slots(*nodes: tuple[int, ...], cores: int = 8) -> list[list[tuple[int, ...]]]:
    return [[slot.cores for slot in layout] for layout in local_layouts(range(cores), nodes)]


def test_no_worker_of_a_layout_has_cores_of_two_nodes() -> None:
    assert slots(*INTERLEAVED.values()) == [
        [(0, 2, 4, 6), (1, 3, 5, 7)],
        [(0, 2), (4, 6), (1, 3), (5, 7)],
        [(0,), (2,), (4,), (6,), (1,), (3,), (5,), (7,)],
    ]


def test_nodes_may_be_unequal() -> None:
    assert slots((0, 1, 2, 3), (4, 5), cores=6) == [
        [(0, 1, 2, 3), (4, 5)],
        [(0, 1), (2, 3), (4,), (5,)],
        [(0,), (1,), (2,), (3,), (4,), (5,)],
    ]


def test_one_node_is_divided_as_ever() -> None:
    assert (
        slots((0, 1, 2, 3), cores=4) == slots(cores=4) == [[(0, 1, 2, 3)], [(0, 1), (2, 3)], [(0,), (1,), (2,), (3,)]]
    )


def test_a_machine_of_one_node_asks_the_system_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(memory_nodes.ctypes, "CDLL", lambda name: asked.append(name))
    monkeypatch.setattr(memory_nodes, "node_cpus", lambda: {0: (0, 1)})
    prefer_near_memory((0,))
    assert asked == []


_PREFER = """
from shoal.worker import memory_nodes
memory_nodes.node_cpus = lambda: {0: (0, 2), 1: (1, 3)}
memory_nodes.prefer_near_memory((0, 2))
print(open("/proc/self/numa_maps").readline())
"""


@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="this kernel knows no NUMA nodes")
def test_the_near_node_is_preferred() -> None:
    """Node 0 is there on every machine, so that the call is a real one; a process of its own keeps what it does."""
    done = subprocess.run([sys.executable, "-c", _PREFER], capture_output=True, text=True, check=True, timeout=250)
    assert "prefer" in done.stdout
