import pytest

from shoal.errors import CapacityError, ConfigError
from shoal.planner.cores import thread_warnings
from shoal.planner.manual import plan_from_spec
from shoal.planner.split_spec import parse_split
from tests.planner.example_blocks import make_blocks


def make_plan(split="1", **changes):
    arguments = {
        "model": "example.gguf",
        "blocks": make_blocks(),
        "spec": parse_split(split),
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


def test_no_split_is_one_worker_with_all_cores():
    plan = make_plan()
    (stage,) = stages_of(plan)
    assert plan.split == "1"
    assert (stage.first_layer, stage.last_layer) == (0, 30)
    assert (stage.threads, stage.cores) == (4, (0, 1, 2, 3))
    assert stage.weight_bytes == 30 * 100 + 2 * 50


def test_stages_are_balanced_and_own_their_ends():
    plan = make_plan("pp=2", blocks=make_blocks(head_flops=180.0))
    first, last = stages_of(plan)
    assert plan.split == "pp=18:12"
    assert (first.first_layer, first.last_layer, last.first_layer, last.last_layer) == (0, 18, 18, 30)
    assert first.weight_bytes == 18 * 100 + 50
    assert last.weight_bytes == 12 * 100 + 50
    assert first.kv_bytes == plan.replicas[0].num_blocks * 16 * 18 * 2


def test_layers_said_by_hand_are_kept():
    assert [stage.num_layers for stage in stages_of(make_plan("pp=7:20:3"))] == [7, 20, 3]
    with pytest.raises(ConfigError, match="gives 30 layers, but the model has 29"):
        make_plan("pp=10:20", blocks=make_blocks(num_layers=29))


def test_replicas_are_alike_and_pinned_apart():
    plan = make_plan("dp=2,pp=2", cores=(0, 2, 4, 6, 8))
    assert plan.split == "dp=2,pp=15:15"
    assert plan.num_workers == 4
    assert [stage.cores for stage in stages_of(plan)] == [(0,), (2,), (4,), (6,)]
    assert [stage.num_layers for stage in stages_of(plan)] == [15, 15, 15, 15]


def test_threads_are_what_the_user_says():
    plan = make_plan("dp=2", threads=2)
    assert [stage.cores for stage in stages_of(plan)] == [(0, 1), (2, 3)]
    with pytest.raises(ConfigError, match="--threads is 0"):
        make_plan(threads=0)


def test_too_few_cores_pin_nobody_and_warn():
    plan = make_plan("dp=2,pp=3", cores=(0, 1))
    assert [(stage.threads, stage.cores) for stage in stages_of(plan)] == [(1, ())] * 6
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
