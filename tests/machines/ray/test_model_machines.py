"""One Ray cluster under several models: who is told of what, where workers go, and when the cluster is left."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

pytest.importorskip("ray")

from shoal.comm.tls.tls_identity import MachineKey
from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.core.plan.graph import GraphPlan
from shoal.errors import ConfigError
from shoal.launch.graph.planning import plan_graph
from shoal.machines.opening import SharedMachines
from shoal.machines.ray import cluster as cluster_module
from shoal.machines.ray.cluster import RayCluster
from shoal.machines.ray.model_machines import RayMachines
from shoal.machines.ray.on_machine.agent import DISTRIBUTION
from shoal.measure.graph.profile import GraphWorkerTimes
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.planner.speeds.speeds import LinkSpeed
from tests.executor.graphs import skip_chain
from tests.machines.ray.fake_cluster import FakeCluster
from tests.machines.ray.fake_ray import facts


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    with ExitStack() as undo:
        made = FakeCluster(3, undo)
        monkeypatch.setattr(cluster_module, "RayConnection", made.connection)
        yield made


@pytest.fixture
def first(hosts: FakeCluster) -> RayMachines:
    return RayMachines(RayCluster())


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx")


def planned_on(machines: RayMachines, graph: Path, split: str) -> GraphPlan:
    """A plan whose workers the other models hear of."""
    plan = plan_graph(GraphLaunchConfig(model=str(graph), split=split, threads=1), machines=machines).plan
    machines.bring_model(plan, 1, lambda line: None)
    return plan


def names(plan: GraphPlan) -> list[str | None]:
    return [shard.machine for shard in plan.shards]


def leave(hosts: FakeCluster, *indexes: int) -> None:
    hosts.present -= {*indexes}


def test_a_model_goes_where_the_others_have_fewest_workers(first: RayMachines, graph: Path) -> None:
    assert names(planned_on(first, graph, "dp=2")) == ["h0", "h1"]
    second = first.for_another_model()
    assert names(planned_on(second, graph, "1")) == ["h2"]
    third = second.for_another_model()
    assert names(planned_on(third, graph, "dp=3")) == ["h0", "h1", "h2"]
    third.close()
    second.close()
    assert names(planned_on(first.for_another_model(), graph, "1")) == ["h2"], "of closed models nothing is left"


def test_a_lone_worker_moves_to_the_machine_that_is_used_least(
    hosts: FakeCluster, first: RayMachines, graph: Path
) -> None:
    planned_on(first, graph, "dp=2")
    second = first.for_another_model()
    assert names(planned_on(second, graph, "1")) == ["h2"]
    elsewhere = second.launcher().elsewhere("h2")
    assert elsewhere is not None
    assert (elsewhere.machine, elsewhere.cores, elsewhere.threads) == ("h0", (0,), 1)
    leave(hosts, 0, 2)
    second.find_joined()
    moved = second.launcher().elsewhere("h2")
    assert moved is not None
    assert moved.machine == "h1"
    third = first.for_another_model()
    planned_on(third, graph, "1")
    assert third.launcher().elsewhere("h1") is None, "nobody else is there"


def test_no_worker_moves_where_its_model_has_one(first: RayMachines, graph: Path) -> None:
    planned_on(first, graph, "dp=3")
    assert first.launcher().elsewhere("h1") is None


def test_every_model_is_told_once_of_a_machine_that_joins(hosts: FakeCluster, graph: Path) -> None:
    leave(hosts, 2)
    first = RayMachines(RayCluster())
    second = first.for_another_model()
    for machines in (first, second):
        machines.find_model(graph)
    hosts.present.add(2)
    assert first.find_joined() == ["h2"]
    assert "h2" not in second.living(), "it has not asked yet whether the model is there"
    assert second.find_joined() == ["h2"]
    assert len(hosts.agents["node-2"].asked("find_model")) == 2
    assert first.find_joined() == second.find_joined() == []
    assert [machine.name for machine in second.cores()] == ["h0", "h1", "h2"]


def test_a_machine_that_was_away_when_a_model_came_is_new_to_it(
    hosts: FakeCluster, first: RayMachines, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent is the one that other models know."""
    monkeypatch.setattr("shoal.machines.ray.roster._SILENCE_S", 0.0)
    first.find_model(graph)
    hosts.set_answer("node-1", None)
    second = first.for_another_model()
    assert [machine.name for machine in second.cores()] == ["h0", "h2"]
    second.find_model(graph)
    hosts.set_answer("node-1", facts("h1", version(DISTRIBUTION)))
    (question,) = [call for call in hosts.agents["node-1"].asked("facts") if not call.is_there]
    question.answer(facts("h1", version(DISTRIBUTION)))
    assert first.find_joined() == second.find_joined() == ["h1"]
    assert [machine.name for machine in second.cores()] == ["h0", "h2", "h1"]
    assert len(hosts.agents["node-1"].asked("find_model")) == 2


def test_free_memory_is_what_the_models_before_have_left(hosts: FakeCluster, first: RayMachines) -> None:
    before = first.free_memory_bytes()
    hosts.set_answer("node-1", replace(facts("h1", version(DISTRIBUTION)), free_memory_bytes=before // 4))
    assert first.for_another_model().free_memory_bytes() == before // 4


def measured(hosts: FakeCluster, graph: Path) -> None:
    """Every machine takes a millisecond for each node, and has room for a graph and a half."""
    file = open_graph(graph)
    seconds = (1e-3,) * file.num_nodes
    nodes = NodeTimes(seconds=seconds, kept_values=frozenset(), output_bytes=(1 << 20,) * file.num_nodes)
    free_bytes = weight_bytes(file, 0, file.num_nodes) * 3 // 2
    for index, node_id in enumerate(hosts.node_ids):
        known = replace(facts(f"h{index}", version(DISTRIBUTION)), free_memory_bytes=free_bytes)
        hosts.set_answer(node_id, known)
        hosts.agents[node_id].answers |= {
            "signing_request": MachineKey().request(),
            "answer_pings": ("127.0.0.1", 1),
            "time_pings": LinkSpeed(latency_s=1e-3, bytes_per_s=1e9),
            "measure_graph": GraphWorkerTimes(node_s=seconds, nodes=nodes, message_s=0.0),
        }


def test_a_model_leaves_room_for_those_that_follow(hosts: FakeCluster, first: RayMachines, graph: Path) -> None:
    measured(hosts, graph)
    config = GraphLaunchConfig(model=str(graph), split="auto", planning=PlanningConfig(objective="throughput"))
    size = graph.stat().st_size
    alone, before_two = (
        plan_graph(config, machines=first.for_another_model(later)).plan for later in ((), (size, size))
    )
    assert sorted(map(str, names(alone))) == ["h0", "h1", "h2"]
    assert sum(shard.weight_bytes > 0 for shard in before_two.shards) == 1, "two machines are left to the others"


def test_models_that_are_expected_are_those_that_are_not_open_yet(hosts: FakeCluster, graph: Path) -> None:
    other = skip_chain(graph.with_name("other.onnx"), width=256)
    with SharedMachines() as shared:
        shared.expect([graph, other, "pkg:elsewhere"])
        told = [shared.open("ray", place) for place in (graph, other, other)]
        assert [one.later_bytes for one in told if one is not None] == [(other.stat().st_size,), (), ()]
        assert shared.open(None, graph) is None
        for one in told:
            assert one is not None
            one.close()
    assert hosts.num_closed == 1


def test_the_cluster_is_left_with_the_last_model(hosts: FakeCluster, first: RayMachines, graph: Path) -> None:
    second = first.for_another_model()
    with pytest.raises(ConfigError, match="ep deals out"):  # which closes it
        plan_graph(GraphLaunchConfig(model=str(graph), split="ep=2"), machines=second)
    second.close()
    assert not hosts.num_closed
    first.close()
    first.close()
    assert hosts.num_closed == 1


def test_a_look_serves_all_who_asked_before_it_began(
    hosts: FakeCluster, first: RayMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three models ask while a fourth looks."""
    models = [first, *(first.for_another_model() for _ in range(3))]
    num_before = len(hosts.agents["node-0"].asked("facts"))
    began, may_end, ticks, times = (
        threading.Event(),
        threading.Event(),
        threading.Semaphore(0),
        itertools.count(1 << 40),
    )
    nodes = hosts.nodes

    def slow_nodes() -> object:
        began.set()
        assert may_end.wait(60.0)
        return nodes()

    def clock() -> float:
        ticks.release()
        return float(next(times))

    monkeypatch.setattr(cluster_module, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(hosts, "nodes", slow_nodes)
    looking = [threading.Thread(target=machines.find_joined) for machines in models]
    looking[0].start()
    assert began.wait(60.0)
    for thread in looking[1:]:
        thread.start()
    assert all(ticks.acquire(timeout=60.0) for _ in range(5)), "one has begun, four have asked"
    may_end.set()
    for thread in looking:
        thread.join(60.0)
    assert len(hosts.agents["node-0"].asked("facts")) == num_before + 2


def test_machines_are_entered_once_for_all_models(hosts: FakeCluster) -> None:
    with SharedMachines() as shared:
        assert shared.open(None, "m") is shared.open("machines.yaml", "m") is None
        models = [cast(RayMachines, shared.open("ray", "m")) for _ in range(2)]
        assert len({model._cluster for model in models}) == 1
        for model in models:
            model.close()
        assert not hosts.num_closed
    assert hosts.num_closed == 1
