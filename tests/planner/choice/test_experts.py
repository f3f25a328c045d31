"""Columns of every expert, or whole experts: which of them the planner takes, and what that is worth."""

from dataclasses import replace

from shoal.planner.choice.candidate import Candidate, predict_candidate
from shoal.planner.choice.choose import PlanChoice, choose
from shoal.planner.choice.costs.model_sizes import ModelSizes
from shoal.planner.choice.goal import Goal
from shoal.planner.files.plan_check import check_plan
from shoal.planner.predict.workload import Workload
from shoal.planner.search.shares.best import GroupShares
from shoal.planner.speeds.speeds import ExpertRouting, Fleet
from tests.planner.choice.example_fleets import ATOMS, make_class, make_fleet, make_model
from tests.planner.choice.test_build_plan import spell

ROUTING = ExpertRouting(num_experts=64, num_chosen=8)
LOAD = Workload(streams=1, prompt_tokens=16, output_tokens=32)
LATENCY = Goal(objective="latency", latency_slo_s=None)


def expert_model(*, columns: int) -> ModelSizes:
    """9 MB of each layer's 10 are experts."""
    model = make_model()
    sizes = model.by_precision["int8"]
    moved = int(0.3 * 10 * (1 << 20))
    mostly_experts = replace(
        sizes,
        attention_bytes=tuple(size - moved for size in sizes.attention_bytes),
        mlp_bytes=tuple(size + moved for size in sizes.mlp_bytes),
    )
    return replace(
        model,
        atoms=replace(ATOMS, intermediate_size=columns, num_experts=ROUTING.num_experts),
        by_precision={"int8": mostly_experts},
    )


def best_of(model: ModelSizes, fleet: Fleet) -> PlanChoice:
    return choose([fleet.routed(ROUTING)], model, LOAD, LATENCY, ("int8",))


def deals_experts(candidate: Candidate) -> bool:
    return any(stage.group.deals_experts for replica in candidate.replicas for stage in replica)


def test_columns_are_taken_where_they_can_be_cut_finely() -> None:
    """They are shared alike by every step."""
    choice = best_of(expert_model(columns=2048), make_fleet(make_class("worker", count=2)))
    assert choice.best.kind == "tensor"
    assert not deals_experts(choice.best)


def test_whole_experts_are_taken_where_columns_are_too_few_for_the_speeds() -> None:
    """Two pieces of columns cannot be shared 3 to 1; 64 experts can."""
    fleet = make_fleet(make_class("quick"), make_class("slow", slowness=3.0))
    choice = best_of(expert_model(columns=64), fleet)
    assert deals_experts(choice.best)
    ((stage,),) = choice.best.replicas
    assert stage.shares is not None
    assert sum(stage.shares.columns) == 64
    assert stage.shares.columns[0] > 2 * stage.shares.columns[1]


def test_whole_experts_are_taken_where_columns_are_too_few_for_the_memory() -> None:
    """Half of the columns would not fit into the small machine."""
    fleet = make_fleet(make_class("large", memory_mb=75), make_class("small", memory_mb=25))
    choice = best_of(expert_model(columns=64), fleet)
    ((stage,),) = choice.best.replicas
    assert deals_experts(choice.best)
    assert stage.memory_bytes[1] <= 25 << 20


def test_a_plan_says_which_experts_each_worker_has() -> None:
    fleet = make_fleet(make_class("quick"), make_class("slow", slowness=3.0)).routed(ROUTING)
    model = expert_model(columns=64)
    plan = spell(fleet, "latency", streams=1, model=model)
    check_plan(plan, num_layers=model.num_layers, atoms=model.atoms)
    (first,), (second,) = (shard.part.experts for shard in plan.shards)
    assert (first[0].first, second[0].last) == (0, 64)
    assert first[0].last == second[0].first
    assert plan.split.endswith(f",ep={first[0].last}:{64 - first[0].last}")


def test_unequal_experts_for_a_machine_of_half_the_speed_and_a_third_of_the_memory() -> None:
    """At least 1.3 times as fast as the same with an even split, were there memory for that."""
    fleet = make_fleet(make_class("large", memory_mb=75), make_class("small", slowness=2.0, memory_mb=25))
    choice = best_of(expert_model(columns=64), fleet)
    ((stage,),) = choice.best.replicas
    assert stage.group.deals_experts
    even = replace(
        stage,
        shares=GroupShares(heads=(2, 2), columns=(32, 32), vocabulary=(8, 8), seconds=0.0),
        fractions=((0.5, 0.5, 0.5),) * 2,
    )
    evenly = predict_candidate(fleet.routed(ROUTING), ((even,),), LOAD, hidden_bytes=256)
    assert evenly.lone_request_s >= 1.3 * choice.best.lone_request_s
