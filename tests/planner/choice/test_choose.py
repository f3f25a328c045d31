from random import Random

import pytest

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.candidate import Candidate
from shoal.planner.choice.choose import PlanChoice, choose
from shoal.planner.choice.costs.model_sizes import ModelSizes
from shoal.planner.choice.goal import Goal, Objective
from shoal.planner.choice.kinds import KINDS, Kind
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet
from tests.planner.choice.example_fleets import SLOW_LINK, make_class, make_fleet, make_model

INT8 = ("int8",)


def decide(
    fleet: Fleet,
    *,
    model: ModelSizes | None = None,
    streams: int = 16,
    objective: Objective = "throughput",
    slo_s: float | None = None,
    precisions: tuple[str, ...] = INT8,
) -> PlanChoice:
    workload = Workload(streams=streams, prompt_tokens=16, output_tokens=32)
    goal = Goal(objective=objective, latency_slo_s=slo_s)
    return choose([fleet], model or make_model(), workload, goal, precisions)


def layers_of(candidate: Candidate) -> list[list[tuple[str, int]]]:
    """Worker class and number of layers of every stage's first member."""
    names = [one.name for one in candidate.fleet.classes]
    return [
        [(names[stage.group.members[0]], stage.last_layer - stage.first_layer) for stage in replica]
        for replica in candidate.replicas
    ]


def kinds_found(choice: PlanChoice) -> set[Kind]:
    return {one.kind for one in choice.alternatives if one.candidate is not None}


def test_one_worker_is_not_split():
    choice = decide(make_fleet(make_class("only")))
    assert choice.best.kind == "single"
    assert [one.kind for one in choice.alternatives] == list(KINDS)
    assert kinds_found(choice) == {"single"}
    assert choice.gap < 1e-6


def test_two_workers_and_many_streams_are_both_kept_busy():
    choice = decide(make_fleet(make_class("w", count=2)))
    single = next(one.candidate for one in choice.alternatives if one.kind == "single")
    assert single is not None
    assert choice.best.num_workers == 2
    assert choice.best.prediction.output_tokens_per_s > 1.5 * single.prediction.output_tokens_per_s
    assert kinds_found(choice) >= {"single", "replicas", "pipeline", "tensor"}
    assert choice.best.searched_tokens_per_s <= choice.bound_tokens_per_s * (1 + 1e-6)


def test_slow_links_leave_only_whole_copies():
    choice = decide(make_fleet(make_class("w", count=2), link=SLOW_LINK, sums=SLOW_LINK))
    assert choice.best.kind == "replicas"
    assert layers_of(choice.best) == [[("w", 8)], [("w", 8)]]


def test_a_copy_needs_room_for_its_own_streams_and_no_others():
    """However many other workers there are: a replica of one stage has one micro-batch."""
    choice = decide(make_fleet(make_class("w", count=40, memory_mb=88), link=SLOW_LINK, sums=SLOW_LINK), streams=160)
    assert choice.best.kind == "replicas"
    assert choice.best.num_workers == 40
    assert max(choice.best.prediction.memory_bytes) <= 88 << 20
    assert choice.gap < 0.05


def test_one_stream_is_only_sped_up_by_shards():
    choice = decide(make_fleet(make_class("w", count=2)), streams=1, objective="latency")
    assert choice.best.kind == "tensor"
    slow = decide(make_fleet(make_class("w", count=2), sums=SLOW_LINK), streams=1, objective="latency")
    assert slow.best.kind == "single"


def test_a_model_too_large_for_a_worker_is_split_over_several():
    fleet = make_fleet(make_class("w", count=2, memory_mb=60))
    choice = decide(fleet, streams=4)
    assert choice.best.kind in ("pipeline", "tensor")
    assert max(choice.best.prediction.memory_bytes) <= 60 << 20
    assert not kinds_found(choice) & {"single", "replicas"}


def test_stages_are_as_unequal_as_their_workers():
    fleet = make_fleet(make_class("fast"), make_class("slow", slowness=3.0), sums=SLOW_LINK)
    choice = decide(fleet)
    pipeline = next(one.candidate for one in choice.alternatives if one.kind == "pipeline")
    assert pipeline is not None
    ((one, other),) = layers_of(pipeline)
    layers = dict((one, other))
    assert layers["fast"] == 6
    assert layers["slow"] == 2


def test_shares_are_as_unequal_as_their_workers():
    fleet = make_fleet(make_class("fast"), make_class("slow", slowness=3.0))
    choice = decide(fleet, streams=1, objective="latency")
    tensor = next(one.candidate for one in choice.alternatives if one.kind == "tensor")
    assert tensor is not None
    (stage,) = tensor.replicas[0]
    assert stage.shares is not None
    assert stage.shares.heads == (3, 1)
    assert stage.shares.columns == (6, 2)


def test_lower_precision_only_where_it_is_allowed():
    model = make_model(precisions=("int8", "int4"))
    workers = make_class("w", slowness={"int8": 1.0, "int4": 0.6})
    kept = decide(make_fleet(workers), model=model)
    lowered = decide(make_fleet(workers), model=model, precisions=("int8", "int4"))
    assert {stage.group.precision for replica in kept.best.replicas for stage in replica} == {"int8"}
    assert {stage.group.precision for replica in lowered.best.replicas for stage in replica} == {"int4"}
    assert lowered.best.prediction.output_tokens_per_s > kept.best.prediction.output_tokens_per_s


def test_the_best_of_several_fleets_is_taken():
    slow, fast = make_fleet(make_class("slow", slowness=2.0)), make_fleet(make_class("fast"))
    workload = Workload(streams=2, prompt_tokens=16, output_tokens=32)
    choice = choose([slow, fast], make_model(), workload, Goal(), INT8)
    assert choice.best.fleet is fast


def test_a_latency_target_rules_plans_out():
    fleet = make_fleet(make_class("w", count=2))
    free = decide(fleet)
    limit_s = 0.9 * free.best.loaded_s
    with pytest.raises(ConfigError) as error:
        decide(fleet, slo_s=limit_s / 100)
    assert "no plan answers a request within" in str(error.value)
    assert "the nearest" in str(error.value)


@pytest.mark.parametrize(
    ("streams", "memory_mb", "says"),
    [
        (4, 20, "are missing; add a worker with"),
        (400, 90, "would fit"),
    ],
)
def test_what_fits_nowhere_says_what_is_missing(streams: int, memory_mb: int, says: str):
    with pytest.raises(CapacityError) as error:
        decide(make_fleet(make_class("w", memory_mb=memory_mb)), streams=streams)
    assert "model needs" in str(error.value)
    assert says in str(error.value)


def test_the_same_input_gives_the_same_choice():
    fleet = make_fleet(make_class("fast", count=2), make_class("slow", slowness=2.5, count=2))
    first, second = decide(fleet), decide(fleet)
    assert first == second


def tight_fleet(seed: int) -> Fleet:
    """Ten workers in six classes, few of which hold as many layers as the others would like them to."""
    source = Random(seed)
    counts = [1] * 6
    for _ in range(4):
        counts[source.randrange(6)] += 1
    return make_fleet(
        *(
            make_class(f"c{index}", count=count, slowness=source.uniform(0.5, 8), memory_mb=source.choice([12, 25, 40]))
            for index, count in enumerate(counts)
        )
    )


@pytest.mark.parametrize("seed", range(3))
def test_one_stream_has_a_proven_plan(seed: int) -> None:
    choice = choose([tight_fleet(seed)], make_model(12), Workload(streams=1), Goal(objective="throughput"), ["int8"])
    assert choice.bound_tokens_per_s == pytest.approx(choice.best.searched_tokens_per_s)


@pytest.mark.parametrize("seed", range(3))
def test_a_bound_is_finite_where_prices_of_workers_are_zero(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    goal, workload = Goal(objective="throughput"), Workload(streams=1)
    exact = choose([tight_fleet(seed)], make_model(12), workload, goal, ["int8"])
    monkeypatch.setattr("shoal.planner.search.replicas.is_exact", lambda problem: False)
    bounded = choose([tight_fleet(seed)], make_model(12), workload, goal, ["int8"])
    assert exact.bound_tokens_per_s <= bounded.bound_tokens_per_s < 1e4
