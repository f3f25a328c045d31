"""Plans for ONNX graphs: chosen, kept in a file, given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.core.plan.graph import GraphPlan
from shoal.errors import CapacityError, ConfigError
from shoal.launch.graph.launch import launch_graph
from shoal.launch.graph.planning import PlannedGraph, plan_graph
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.offline.pull import ChunkRunner
from shoal.offline.run_once import run_once
from shoal.planner.files.plan_file import write_plan
from tests.executor.graphs import skip_chain
from tests.measure.graph.fake_measurer import FakeMeasurer
from tests.model.graph.graph_cases import make_graph
from tests.plain_runtime import plain_session
from tests.planner.files.test_plan_file import make_plan

THROUGHPUT = PlanningConfig(objective="throughput")


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """For plans that are not run."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return skip_chain(tmp_path / "chain.onnx")


def plan_auto(path: Path, measurer: FakeMeasurer, planning: PlanningConfig = THROUGHPUT, **more: Any) -> PlannedGraph:
    config = GraphLaunchConfig(model=str(path), split="auto", planning=planning, **more)
    return plan_graph(config, make_measurer=measurer)


def never(*_: object) -> FakeMeasurer:
    raise AssertionError("a measurer was made")


@pytest.mark.usefixtures("_two_cores")
def test_the_choice_becomes_a_plan(chain: Path) -> None:
    planned = plan_auto(chain, FakeMeasurer())
    plan, auto = planned.plan, planned.auto
    assert auto is not None
    assert (auto.choice.best.kind, plan.split, plan.num_workers) == ("replicas", "dp=2", 2)
    assert [shard.cores for replica in plan.replicas for shard in replica.shards] == [(0,), (1,)]
    assert plan.predicted is not None
    assert plan.predicted.rows_per_s == pytest.approx(180.0)
    assert plan.replicas[0].stages[0].compute_s == pytest.approx(0.02 / 1.8)
    assert planned.whole is None


@pytest.mark.usefixtures("_two_cores")
def test_one_worker_computes_here_unless_told_otherwise(chain: Path) -> None:
    for in_process in (True, False):
        planned = plan_auto(chain, FakeMeasurer(gain=0.5), in_process=in_process)
        assert planned.plan.split == "1"
        assert planned.plan.replicas[0].shards[0].threads == 2
        assert (planned.whole is not None) == in_process


@pytest.mark.usefixtures("_two_cores")
def test_what_is_known_is_not_measured_again(chain: Path) -> None:
    first, second, third = FakeMeasurer(), FakeMeasurer(gain=0.5), FakeMeasurer(gain=0.5)
    plan = plan_auto(chain, first).plan
    assert first.asked == ["1 x 2", "2 x 1", "nodes", "2 shards"]
    assert plan_auto(chain, second).plan == plan
    assert second.asked == []
    assert plan_auto(chain, third, PlanningConfig(objective="throughput", refresh=True)).plan.split == "1"
    assert third.asked == first.asked


@pytest.mark.usefixtures("_two_cores")
def test_another_graph_or_another_number_of_rows_is_measured_anew(chain: Path, tmp_path: Path) -> None:
    plan_auto(chain, FakeMeasurer())
    rows, deeper = FakeMeasurer(), FakeMeasurer()
    auto = plan_auto(chain, rows, micro_batch=8).auto
    assert auto is not None
    assert auto.rows == 8
    assert rows.sample["x"].shape == (8, 8)
    assert auto.choice.best.prediction.rows_per_s == pytest.approx(8 * 180.0)
    plan_auto(skip_chain(tmp_path / "deeper.onnx", depth=6), deeper)
    assert len(rows.asked) == len(deeper.asked) == 4


@pytest.mark.usefixtures("_two_cores")
def test_threads_make_the_layouts(chain: Path) -> None:
    one, two = FakeMeasurer(), FakeMeasurer()
    plan_auto(chain, one, threads=1)
    plan_auto(chain, two, threads=2)
    assert one.asked[:2] == ["1 x 1", "2 x 1"]
    assert two.asked == ["1 x 2"]
    with pytest.raises(ConfigError, match="--threads is 3, but there are 2 cores"):
        plan_auto(chain, FakeMeasurer(), threads=3)


@pytest.mark.parametrize(
    ("planning", "said"),
    [
        (PlanningConfig(objective="speed"), "unknown objective 'speed'"),
        (PlanningConfig(latency_slo_s=-1.0), "more than 0"),
        (PlanningConfig(latency_slo_s=1e-6), "no split takes a micro-batch through the graph within 1e-06 s"),
        (PlanningConfig(cluster="machines.yaml"), "machines.yaml does not exist"),
        (PlanningConfig(cluster="/dev/zero"), "has more than 16,777,216 bytes"),
    ],
)
def test_goals_that_make_no_sense(chain: Path, planning: PlanningConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_auto(chain, FakeMeasurer(), planning)


@pytest.mark.parametrize("split", ["pp=2", "dp=2", "tp=2"])
def test_a_stored_plan_is_the_plan(chain: Path, tmp_path: Path, split: str) -> None:
    plan = plan_graph(GraphLaunchConfig(model=str(chain), split=split, threads=1)).plan
    file = tmp_path / "plan.yaml"
    file.write_text(write_plan(plan))
    stored = plan_graph(GraphLaunchConfig(model=str(chain), plan_file=str(file)), make_measurer=never)
    assert stored.plan == plan
    x = np.random.default_rng(1).standard_normal((6, 8), np.float32)
    with launch_graph(stored) as loaded:
        outputs = run_once(ChunkRunner(loaded.executors), loaded.plan, {"x": x})
    np.testing.assert_allclose(outputs["y"], plain_session(chain).run(["y"], {"x": x})[0], rtol=1e-5, atol=1e-6)


def stored(chain: Path, file: Path, edit: Callable[[dict[str, Any]], object]) -> GraphPlan:
    """A plan of two stages, edited."""
    plan = plan_graph(GraphLaunchConfig(model=str(chain), split="pp=2", threads=1)).plan
    content = yaml.safe_load(write_plan(plan))
    edit(content)
    file.write_text(yaml.safe_dump(content))
    return plan_graph(GraphLaunchConfig(model=str(chain), plan_file=str(file))).plan


def stages_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    return content["replicas"][0]["stages"]


def test_what_crosses_the_cuts_is_read_from_the_graph(chain: Path, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        for stage in stages_of(content):
            stage["inputs"], stage["outputs"] = [], []

    stages = stored(chain, tmp_path / "plan.yaml", edit).replicas[0].stages
    interfaces = stage_interfaces(open_graph(chain), [stages[1].first_node])
    assert [(stage.inputs, stage.outputs) for stage in stages] == [(one.inputs, one.outputs) for one in interfaces]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda plan: stages_of(plan)[1].update(first_node=1), "stages end at node"),
        (lambda plan: stages_of(plan).pop(), "go on at 9"),
        (lambda plan: stages_of(plan)[0]["shards"][0].update(threads=0), "stage 0: a worker needs at least 1 thread"),
        (lambda plan: stages_of(plan)[0]["shards"][0].update(cores=[99]), "there is no CPU 99"),
        (lambda plan: stages_of(plan)[0].update(shares=[1, 1]), "every shard needs a share"),
        (lambda plan: plan.update(replicas=[]), "no replicas"),
        (lambda plan: plan["batch"].update(inputs={"z": 0}), "batch axes are given for z"),
        (lambda plan: plan.update(shape="9 nodes, another graph"), "is another model"),
    ],
)
def test_edits_that_cannot_be_run(
    chain: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        stored(chain, tmp_path / "plan.yaml", edit)
    assert "\n" not in str(error.value)


def test_plans_for_something_else(chain: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(write_plan(make_plan()))
    with pytest.raises(ConfigError, match="is a plan for a language model"):
        plan_graph(GraphLaunchConfig(model=str(chain), plan_file=str(file)))
    with pytest.raises(ConfigError, match=r"cannot read the plan .*none\.yaml"):
        plan_graph(GraphLaunchConfig(model=str(chain), plan_file=str(tmp_path / "none.yaml")))
    deeper = skip_chain(tmp_path / "deeper.onnx", depth=5)
    file.write_text(write_plan(plan_graph(GraphLaunchConfig(model=str(deeper), split="pp=2")).plan))
    with pytest.raises(ConfigError, match=r"the plan is for .*deeper\.onnx .*, but .*chain\.onnx is another model"):
        plan_graph(GraphLaunchConfig(model=str(chain), plan_file=str(file)))
    file.write_text(write_plan(plan_graph(GraphLaunchConfig(model=str(chain), split="pp=2")).plan))
    with pytest.raises(ConfigError, match="leave out --threads and --batch-dim"):
        plan_graph(GraphLaunchConfig(model=str(chain), plan_file=str(file), threads=1))


def test_a_plan_made_in_another_folder_fits_the_copy(chain: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(write_plan(plan_graph(GraphLaunchConfig(model=str(chain), split="pp=2")).plan))
    (tmp_path / "elsewhere").mkdir()
    copy = Path(os.path.relpath(skip_chain(tmp_path / "elsewhere" / "same.onnx")))
    assert plan_graph(GraphLaunchConfig(model=str(copy), plan_file=str(file))).plan.model == str(copy)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,4] x) => (float[N,4] y) <int64[2] s = {1000000, 999999}> { b = ConstantOfShape(s) y = Add(x, b) }",
        "g (float[1000000,10000000] x) => (float[A,B] y) { y = Neg(x) }",
        "g (float[1,4] x) => (float[A,B] y) <int64[2] s = {10000000000, 4}> { b = Expand(x, s) y = Neg(b) }",
    ],
)
def test_a_tensor_that_would_fill_the_memory_is_refused_before_anything_is_computed(tmp_path: Path, text: str) -> None:
    graph = make_graph(tmp_path, text)
    with pytest.raises(CapacityError, match=r"its tensor '[xyb]' takes [\d.]+ GiB"):
        plan_graph(GraphLaunchConfig(model=str(graph.path), split="1", threads=1))
