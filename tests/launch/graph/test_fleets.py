"""Graphs on machines that a file describes: what is estimated of them, and the plans that come of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.errors import CapacityError, ConfigError
from shoal.launch.graph.planning import PlannedGraph, plan_graph
from shoal.measure.graph.node_sizes import node_sizes, shard_works
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.sample.node_times import NodeTimes, measure_nodes
from shoal.planner.what_if import Change
from tests.executor.graphs import skip_chain
from tests.measure.graph.fake_measurer import FakeMeasurer

WIDTH = 16
LINK = "link: {latency_s: 1e-5, bytes_per_s: 1e10}"


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx", width=WIDTH)


def described(name: str, *, flops: float = 1e11, reading: float = 1e10, memory: str = "1G", count: int = 1) -> str:
    rates = f"{{memory_bytes_per_s: {reading}, fp32_flops_per_s: {flops}}}"
    return f"  - {{name: {name}, count: {count}, cores: 4, memory: {memory}, rates: {rates}}}"


def plan_on(
    path: Path, folder: Path, machines: Sequence[str], objective: str = "throughput", link: str = LINK
) -> PlannedGraph:
    file = folder / "machines.yaml"
    file.write_text("\n".join(["machines:", *machines, link]))
    planning = PlanningConfig(objective=objective, cluster=str(file))
    config = GraphLaunchConfig(model=str(path), split="auto", planning=planning)
    return plan_graph(config, make_measurer=FakeMeasurer())


def test_whole_copies_where_they_fit(chain: Path, tmp_path: Path) -> None:
    planned = plan_on(chain, tmp_path, [described("big", flops=4e11), described("small", count=2)])
    assert planned.plan.split == "dp=3"
    assert sorted(str(shard.machine) for shard in planned.plan.shards) == ["big", "small-0", "small-1"]
    assert all((shard.threads, shard.cores) == (4, ()) for shard in planned.plan.shards)
    assert planned.whole is None, "it is for other machines"


@pytest.mark.parametrize(
    "machines", [[described("a", count=3)], [described("a"), described("b", flops=2e11), described("c", count=4)]]
)
def test_machines_that_rows_hardly_reach_get_no_copies(chain: Path, tmp_path: Path, machines: list[str]) -> None:
    """The first machine has the head: nothing has to be sent there."""
    crawling = "link: {latency_s: 1e-5, bytes_per_s: 1e3}"
    planned, quick = (plan_on(chain, tmp_path, machines, link=link) for link in (crawling, LINK))
    (shard,) = planned.plan.shards
    assert str(shard.machine).startswith("a")
    assert len(quick.plan.shards) > 1
    assert planned.auto is not None
    question = planned.auto.question
    assert question is not None
    more = question.changed(Change(kind="add", like="a")).answer().best
    assert more.prediction.rows_per_s == pytest.approx(planned.auto.choice.best.prediction.rows_per_s, rel=1e-3)


def test_a_pipeline_where_no_machine_holds_all(chain: Path, tmp_path: Path) -> None:
    whole = plan_on(chain, tmp_path, [described("a")]).plan.shards[0].weight_bytes
    memory = str(whole * 2 // 3)
    planned = plan_on(chain, tmp_path, [described("a", memory=memory), described("b", memory=memory)])
    (replica,) = planned.plan.replicas
    assert {shard.machine for shard in replica.shards} == {"a", "b"}
    assert all(shard.weight_bytes <= int(memory) for shard in replica.shards)
    assert replica.stages[-1].last_node == open_graph(chain).num_nodes


def test_a_graph_that_fits_nowhere(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match=r"these machines have .*are missing"):
        plan_on(chain, tmp_path, [described("a", memory="1K")])


def test_cores_at_hand_are_measured_beside_described_ones(chain: Path, tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    here, far = f"  - {{name: here, cpus: [{core}]}}", described("far", flops=1e3, reading=1e3)
    planned = plan_on(chain, tmp_path, [here, far], "latency")
    assert [(shard.machine, shard.cores) for shard in planned.plan.shards] == [(None, (core,))]
    with pytest.raises(ConfigError, match="there is no CPU 4096"):
        plan_on(chain, tmp_path, ["  - {name: here, cpus: [4096]}"])


def test_nodes_are_sized_by_what_they_write_in_a_run(chain: Path) -> None:
    graph = open_graph(chain)
    for rows in (1, 8):
        times = measure_nodes(graph, {"x": np.zeros((rows, WIDTH), np.float32)}, threads=1)
        products = [size.flops for size in node_sizes(graph, times, rows=rows) if size.flops]
        assert products
        assert set(products) == {2.0 * rows * WIDTH * WIDTH}


def test_what_shards_divide_is_known_without_running_them(chain: Path) -> None:
    graph = open_graph(chain)
    nothing = NodeTimes(seconds=(0.0,) * graph.num_nodes, kept_values=frozenset(), output_bytes=(0,) * graph.num_nodes)
    work = shard_works(graph, nothing, rows=2)(2)
    assert work is not None
    assert 0.0 < work.weight_share <= 1.0
    assert 0.0 < work.flops_share <= 1.0
    assert work.num_exchanges > 0
    assert work.exchange_bytes == 2 * WIDTH * 4
