from collections.abc import Sequence

import pytest

from shoal.core.plan.language import Block, Plan
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import CapacityError
from shoal.planner.choice.build_plan import Limits, build_plan
from shoal.planner.choice.choose import choose
from shoal.planner.choice.costs.model_sizes import ModelSizes
from shoal.planner.choice.goal import Goal, Objective
from shoal.planner.files.plan_check import check_plan
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.speeds import Fleet
from shoal.protocol.stage_config import ShardPart
from tests.planner.choice.example_fleets import ATOMS, MB, make_class, make_fleet, make_model

LIMITS = Limits(block_size=16, max_context=128, max_step_tokens=512, max_seqs=4)


def blocks_of(part: ShardPart, precision: str) -> Sequence[Block]:
    """Sizes in proportion to the part."""
    heads = (part.kv_heads[1] - part.kv_heads[0]) / ATOMS.num_kv_heads
    columns = (part.columns[1] - part.columns[0]) / ATOMS.intermediate_size
    rows = (part.vocabulary[1] - part.vocabulary[0]) / ATOMS.vocab_size

    def block(name: str, weight_bytes: float, kv_bytes: float = 0) -> Block:
        return Block(
            name=name,
            weight_bytes=round(weight_bytes),
            flops_per_token=1.0,
            kv_bytes_per_token=round(kv_bytes),
            output_bytes_per_token=256,
        )

    layers = [block(f"layer.{i}", (4 * heads + 6 * columns) * MB, 1024 * heads) for i in range(8)]
    return [block("embedding", 2 * rows * MB), *layers, block("head", 2 * rows * MB)]


def spell(
    fleet: Fleet, objective: Objective, *, streams: int, model: ModelSizes | None = None, limits: Limits = LIMITS
) -> Plan:
    model = model or make_model()
    workload = Workload(streams=streams, prompt_tokens=16, output_tokens=32)
    choice = choose([fleet], model, workload, Goal(objective=objective), ("int8",))
    places = [
        [
            WorkerPlacement(
                threads=one.threads, cores=(10 * index + number,), cpu_quota=0.5 if one.name == "slow" else None
            )
            for number in range(one.count)
        ]
        for index, one in enumerate(fleet.classes)
    ]
    return build_plan(
        choice.best,
        model="model",
        shape="a shape",
        precision="int8",
        atoms=model.atoms,
        workload=workload,
        places=places,
        blocks_of=blocks_of,
        limits=limits,
    )


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("streams", [1, 16])
@pytest.mark.parametrize("memory_mb", [30, 60, 1000])
def test_every_head_column_and_row_has_one_owner(objective: Objective, streams: int, memory_mb: int):
    fleet = make_fleet(
        make_class("fast", count=2, memory_mb=memory_mb), make_class("slow", slowness=2.0, count=2, memory_mb=memory_mb)
    )
    plan = spell(fleet, objective, streams=streams)
    check_plan(plan, num_layers=8, atoms=ATOMS)
    cores = [core for replica in plan.replicas for shard in replica.shards for core in shard.cores]
    assert len(cores) == len(set(cores)) == plan.num_workers
    for replica in plan.replicas:
        for shard in replica.shards:
            assert shard.weight_bytes + shard.kv_bytes <= memory_mb * MB


def test_workers_keep_their_quota_and_threads():
    plan = spell(make_fleet(make_class("fast"), make_class("slow", slowness=2.0)), "latency", streams=1)
    quotas = {shard.cores: shard.cpu_quota for replica in plan.replicas for shard in replica.shards}
    assert quotas == {(0,): None, (10,): 0.5}
    assert {shard.threads for replica in plan.replicas for shard in replica.shards} == {2}
    assert plan.split == "tp=160:96"


def test_the_plan_says_what_it_was_made_for():
    plan = spell(make_fleet(make_class("w", count=2)), "throughput", streams=16)
    assert plan.predicted is not None
    assert (plan.predicted.streams, plan.predicted.prompt_tokens, plan.predicted.output_tokens) == (16, 16, 32)
    assert plan.shape == "a shape"


def test_kv_memory_that_was_asked_for_is_kept_to():
    fleet = make_fleet(make_class("w", count=2))
    limits = Limits(block_size=16, max_context=128, max_step_tokens=512, max_seqs=4, kv_memory_bytes=1 << 18)
    plan = spell(fleet, "throughput", streams=16, limits=limits)
    kv_bytes = sum(shard.kv_bytes for replica in plan.replicas for shard in replica.shards)
    assert 0 < kv_bytes <= 1 << 18


def test_no_room_for_a_block_is_an_error():
    fleet = make_fleet(make_class("w"))
    limits = Limits(block_size=16, max_context=128, max_step_tokens=512, max_seqs=4, kv_memory_bytes=1)
    with pytest.raises(
        CapacityError, match="are too few for a block of 16 tokens; give at least 131072 with --kv-memory"
    ):
        spell(fleet, "throughput", streams=1, limits=limits)
