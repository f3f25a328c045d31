import pytest

from shoal.errors import CapacityError, ConfigError
from shoal.planner.split.cores import thread_warnings
from shoal.planner.split.fewer_workers import plan_without
from shoal.planner.split.machine_places import MachineCores, place_on_machines
from shoal.planner.split.manual import plan_from_spec
from shoal.planner.split.split_spec import parse_split
from shoal.protocol.stage_config import ShardPart
from tests.planner.example_blocks import make_blocks


def make_part(rank, num_shards, num_kv_heads=4):
    """An equal part of 4 KV heads, 128 columns and 320 vocabulary rows."""

    def cut(total):
        return rank * total // num_shards, (rank + 1) * total // num_shards

    return ShardPart(kv_heads=cut(num_kv_heads), columns=cut(128), vocabulary=cut(320))


def make_plan(split="1", **changes):
    """Of the same blocks for every shard, unless `shard_blocks` says otherwise."""
    spec = parse_split(split)
    blocks = changes.pop("blocks", make_blocks())
    arguments = {
        "model": "example.gguf",
        "shard_blocks": [blocks] * spec.num_shards,
        "parts": [make_part(rank, spec.num_shards) for rank in range(spec.num_shards)],
        "spec": spec,
        "precision": "auto",
        "threads": None,
        "cores": (0, 1, 2, 3),
        "kv_memory_bytes": 1 << 20,
        "block_size": 16,
        "max_context": 256,
        "max_seqs": 4,
        "max_step_tokens": 64,
    }
    return plan_from_spec(**(arguments | changes))


def stages_of(plan):
    return [stage for replica in plan.replicas for stage in replica.stages]


def shards_of(plan):
    return [shard for replica in plan.replicas for shard in replica.shards]


def test_no_split_is_one_worker_with_all_cores():
    plan = make_plan()
    (stage,), (shard,) = stages_of(plan), shards_of(plan)
    assert plan.split == "1"
    assert plan.notes == ()
    assert (stage.first_layer, stage.last_layer) == (0, 30)
    assert (shard.threads, shard.cores) == (4, (0, 1, 2, 3))
    assert shard.weight_bytes == 30 * 100 + 2 * 50


def test_stages_are_balanced_and_own_their_ends():
    plan = make_plan("pp=2", blocks=make_blocks(head_flops=180.0))
    first, last = stages_of(plan)
    assert plan.split == "pp=18:12"
    assert (first.first_layer, first.last_layer, last.first_layer, last.last_layer) == (0, 18, 18, 30)
    assert first.shards[0].weight_bytes == 18 * 100 + 50
    assert last.shards[0].weight_bytes == 12 * 100 + 50
    assert first.shards[0].kv_bytes == plan.replicas[0].num_blocks * 16 * 18 * 2


def test_layers_said_by_hand_are_kept():
    assert [stage.num_layers for stage in stages_of(make_plan("pp=7:20:3"))] == [7, 20, 3]
    with pytest.raises(ConfigError, match="gives 30 layers, but the model has 29"):
        make_plan("pp=10:20", blocks=make_blocks(num_layers=29))


def test_replicas_are_alike_and_pinned_apart():
    plan = make_plan("dp=2,pp=2", cores=(0, 2, 4, 6, 8))
    assert plan.split == "dp=2,pp=15:15"
    assert plan.num_workers == 4
    assert [shard.cores for shard in shards_of(plan)] == [(0,), (2,), (4,), (6,)]
    assert [stage.num_layers for stage in stages_of(plan)] == [15, 15, 15, 15]


def test_threads_are_what_the_user_says():
    plan = make_plan("dp=2", threads=2)
    assert [shard.cores for shard in shards_of(plan)] == [(0, 1), (2, 3)]
    with pytest.raises(ConfigError, match="--threads is 0"):
        make_plan(threads=0)


def test_too_few_cores_pin_nobody_and_warn():
    plan = make_plan("dp=2,pp=3", cores=(0, 1))
    assert [(shard.threads, shard.cores) for shard in shards_of(plan)] == [(1, ())] * 6
    (warning,) = thread_warnings([1] * plan.num_workers, 2)
    assert "6 workers with 6 threads" in warning
    assert thread_warnings([1] * plan.num_workers, 6) == []


def test_kv_memory_is_split_over_replicas():
    block_bytes = 16 * 30 * 2
    one, two = (make_plan(split, kv_memory_bytes=20 * block_bytes) for split in ("1", "dp=2"))
    assert one.replicas[0].num_blocks == 20
    assert [replica.num_blocks for replica in two.replicas] == [10, 10]


def test_kv_blocks_are_no_more_than_can_be_used():
    assert make_plan(max_context=250).replicas[0].num_blocks == 4 * 16
    assert make_plan(max_context=257, kv_memory_bytes=1 << 40).replicas[0].num_blocks == 4 * 17


def test_kv_memory_for_no_block_is_refused():
    with pytest.raises(CapacityError, match="give at least 1920 with --kv-memory"):
        make_plan("dp=2", kv_memory_bytes=1919)
    assert make_plan("dp=2", kv_memory_bytes=1920).replicas[0].num_blocks == 1


def test_more_stages_than_layers_is_refused():
    with pytest.raises(ConfigError, match="at most pp=30"):
        make_plan("pp=31")


def test_shards_of_a_stage_have_their_own_parts_and_sizes():
    large = make_blocks(layer_bytes=70, end_bytes=30, kv_bytes=4)
    small = make_blocks(layer_bytes=30, end_bytes=20, kv_bytes=2)
    plan = make_plan("tp=2:1,pp=10:20,dp=2", shard_blocks=[large, small], cores=range(8))
    assert plan.split == "dp=2,pp=10:20,tp=2:1"
    assert plan.num_workers == 8
    assert [shard.weight_bytes for shard in shards_of(plan)] == [730, 320, 1430, 620] * 2
    tokens = plan.replicas[0].num_blocks * 16
    assert [shard.kv_bytes for shard in shards_of(plan)] == [tokens * kv for kv in (40, 20, 80, 40)] * 2
    assert [shard.cores for shard in shards_of(plan)] == [(core,) for core in range(8)]
    for stage in stages_of(plan):
        assert [shard.part for shard in stage.shards] == [make_part(0, 2), make_part(1, 2)]


def test_kv_memory_is_that_of_all_shards():
    blocks = [make_blocks(kv_bytes=4), make_blocks(kv_bytes=2), make_blocks(kv_bytes=0)]
    block_bytes = 16 * 30 * 6
    plan = make_plan("tp=3,dp=2", shard_blocks=blocks, kv_memory_bytes=2 * 7 * block_bytes)
    assert plan.replicas[0].num_blocks == 7
    assert sum(shard.kv_bytes for shard in shards_of(plan)) == 2 * 7 * block_bytes
    with pytest.raises(CapacityError, match=f"give at least {2 * block_bytes} with"):
        make_plan("tp=3,dp=2", shard_blocks=blocks, kv_memory_bytes=2 * block_bytes - 1)


def test_stages_are_balanced_for_the_slowest_shard():
    """The head is the second shard's, whose share is a third: it weighs as much as three of the first one's layers."""
    blocks = [make_blocks(layer_flops=30.0), make_blocks(layer_flops=10.0, head_flops=180.0)]
    assert make_plan("pp=2,tp=3:1", shard_blocks=blocks).split == "pp=18:12,tp=3:1"
    assert make_plan("pp=2,tp=2", shard_blocks=blocks).split == "pp=16:14,tp=2"


def test_shards_without_attention_are_noted():
    parts = [make_part(rank, 3, num_kv_heads=2) for rank in range(3)]
    (note,) = make_plan("tp=3", parts=parts).notes
    assert "shard 0 of 3: no attention" in note


def make_fewer(plan, worker):
    whole = ShardPart(kv_heads=(0, 4), columns=(0, 128), vocabulary=(0, 320))
    return plan_without(plan, plan.replicas[0], worker, blocks=make_blocks(), whole=whole)


@pytest.mark.parametrize("split", ["pp=3", "tp=3", "pp=2,tp=2"])
def test_a_replica_without_one_worker_is_a_pipeline_of_the_others(split):
    plan = make_plan(split)
    fewer = make_fewer(plan, 1)
    assert [len(stage.shards) for stage in fewer.stages] == [1] * (len(plan.replicas[0].shards) - 1)
    assert (fewer.stages[0].first_layer, fewer.stages[-1].last_layer) == (0, 30)
    assert fewer.num_blocks == plan.replicas[0].num_blocks


def test_on_several_machines_the_others_stay_where_they_are():
    machines = [MachineCores(name=name, cores=(0, 1)) for name in "abc"]
    fewer = make_fewer(place_on_machines(make_plan("pp=3"), machines, None), 1)
    assert [shard.machine for shard in fewer.shards] == ["a", "c"]
    assert [shard.threads for shard in fewer.shards] == [2, 2]


def test_nothing_is_left_of_a_single_worker():
    assert make_fewer(make_plan("1"), 0) is None
