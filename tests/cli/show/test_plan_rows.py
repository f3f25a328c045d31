"""The table of a plan: a row a worker, or a row for all alike workers of a large one."""

from dataclasses import replace

import pytest

from shoal.cli.show.output import print_plan
from shoal.cli.show.plan_rows import brief_split, plan_rows
from shoal.core.plan.language import Plan, ReplicaPlan, ShardPlan, StagePlan
from shoal.protocol.stage_config import ShardPart

MB = 10**6


def part(columns: tuple[int, int] = (0, 64)) -> ShardPart:
    return ShardPart(kv_heads=(0, 4), columns=columns, vocabulary=(0, 320))


def shard(machine: str | None, *, weight_mb: int = 100, columns: tuple[int, int] = (0, 64), core: int = 0) -> ShardPlan:
    cores = () if machine else (core,)
    return ShardPlan(
        part=part(columns), threads=8, cores=cores, weight_bytes=weight_mb * MB, kv_bytes=MB, machine=machine
    )


def stage(first: int, last: int, *shards: ShardPlan) -> StagePlan:
    return StagePlan(first_layer=first, last_layer=last, precision="int8", shards=shards)


def plan_of(*replicas: list[StagePlan], split: str = "x") -> Plan:
    return Plan(
        model="m",
        split=split,
        precision="int8",
        block_size=16,
        max_context=512,
        max_step_tokens=512,
        max_seqs=4,
        replicas=tuple(ReplicaPlan(stages=tuple(stages), num_blocks=8) for stages in replicas),
    )


def copies(count: int) -> Plan:
    return plan_of(*([stage(0, 8, shard(f"server-{index}"))] for index in range(count)))


def test_a_small_plan_has_a_row_a_worker() -> None:
    rows = plan_rows(copies(24))
    assert len(rows) == 24
    assert (rows[7].worker, rows[7].cores, rows[7].layers) == ("replica 7 stage 0", "server-7", "0-7")


def test_alike_copies_are_one_row() -> None:
    (row,) = plan_rows(copies(400))
    assert (row.worker, row.cores, row.layers) == ("replicas 0-399 stage 0", "400 x server", "0-7")
    assert (row.threads, row.weights, row.kv) == ("8", "100 MB", "1 MB")


def test_of_a_long_pipeline_the_ends_stay_apart() -> None:
    stages = [stage(2 * i, 2 * i + 2, shard(f"server-{i}", weight_mb=50 + i % 3)) for i in range(100)]
    rows = plan_rows(plan_of(stages))
    assert [row.worker for row in rows] == ["replica 0 stage 0", "replica 0 stages 1-98", "replica 0 stage 99"]
    assert [row.layers for row in rows] == ["0-1", "2 each", "198-199"]
    assert [row.cores for row in rows] == ["server-0", "98 x server", "server-99"]
    assert rows[1].weights == "50-52 MB"


def test_unlike_stages_and_shards_are_told_apart() -> None:
    def replica(number: int) -> list[StagePlan]:
        shards = (shard(f"large-{number}", columns=(0, 48)), shard(f"small-{number}", columns=(48, 64)))
        return [stage(0, 3, *shards), stage(3, 4, shard(f"small-{1000 + number}"))]

    rows = plan_rows(plan_of(*map(replica, range(50))))
    assert [(row.worker, row.columns, row.cores) for row in rows] == [
        ("replicas 0-49 stage 0 shard 0", "0-47", "50 x large"),
        ("replicas 0-49 stage 0 shard 1", "48-63", "50 x small"),
        ("replicas 0-49 stage 1", "0-63", "50 x small"),
    ]


def test_alternating_replicas_are_two_rows() -> None:
    alternating = ([stage(0, 8, shard(f"{'ab'[index % 2]}-{index}"))] for index in range(40))
    first, second = plan_rows(plan_of(*alternating))
    assert (first.worker, first.cores) == ("replicas 0, 2, 4, ... (20) stage 0", "20 x a")
    assert second.cores == "20 x b"


def test_shards_of_equal_size_count_their_columns() -> None:
    shards = [shard(None, columns=(64 * i, 64 * i + 64), core=i) for i in range(32)]
    (row,) = plan_rows(plan_of([stage(0, 8, *shards)]))
    assert (row.worker, row.columns, row.cores) == ("replica 0 stage 0 shards 0-31", "64 each", "0-31")


def test_different_precisions_quotas_and_threads_are_not_alike() -> None:
    changes = ({}, {"threads": 4}, {"cpu_quota": 0.5})
    shards = [replace(shard(f"m-{i}"), **changes[i % 3]) for i in range(30)]
    plan = plan_of(*([stage(0, 8, one)] for one in shards), [replace(stage(0, 8, shard("m-30")), precision="int4")])
    assert [row.cores for row in plan_rows(plan)] == ["10 x m", "10 x m", "10 x m at 50%", "m-30"]


def test_the_split_of_a_large_plan_counts_replicas() -> None:
    split = " + ".join(["tp=3:1"] * 30 + ["pp=1:3"] + ["tp=3:1"] * 2)
    assert brief_split(split, 100) == "30 x tp=3:1 + pp=1:3 + 2 x tp=3:1"
    assert brief_split("dp=40,tp=3:1", 80) == "dp=40,tp=3:1"
    assert brief_split("1 + 1", 2) == "1 + 1"


def test_what_is_printed_is_short(capfd: pytest.CaptureFixture[str]) -> None:
    print_plan(copies(400))
    assert len(capfd.readouterr().err.splitlines()) < 10
