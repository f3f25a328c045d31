import pytest

from shoal.core.plan.language import ReplicaPlan, ShardPlan, StagePlan
from shoal.planner.split.relayer import relayer, with_layers
from shoal.protocol.stage_config import ShardPart
from tests.planner.example_blocks import make_blocks


def test_layers_move_to_the_stage_that_is_still_fast():
    blocks = make_blocks(num_layers=12)
    even = relayer(blocks, (6, 6), (0.06, 0.06))
    assert sum(even.layers) == 12
    moved = relayer(blocks, (6, 6), (0.06, 0.18))
    assert moved.layers[0] > even.layers[0]
    assert max(moved.stage_s) < 0.18


def test_what_is_expected_of_the_same_layers_is_what_was_seen():
    blocks = make_blocks(num_layers=12)
    best = relayer(blocks, (6, 6), (0.06, 0.18))
    again = relayer(blocks, best.layers, best.stage_s)
    assert again.layers == best.layers
    assert again.stage_s == pytest.approx(best.stage_s)


def test_workers_keep_everything_but_their_layers():
    blocks = make_blocks(num_layers=4)
    part = ShardPart(kv_heads=(0, 2), columns=(0, 8), vocabulary=(0, 16))

    def stage(first: int, last: int, core: int) -> StagePlan:
        shard = ShardPlan(part=part, threads=1, cores=(core,), weight_bytes=0, kv_bytes=0, cpu_quota=0.5)
        return StagePlan(first_layer=first, last_layer=last, precision="int8", shards=(shard,))

    replica = ReplicaPlan(stages=(stage(0, 2, 0), stage(2, 4, 1)), num_blocks=3)
    moved = with_layers(replica, (3, 1), blocks, block_size=16)
    assert [(one.first_layer, one.last_layer) for one in moved.stages] == [(0, 3), (3, 4)]
    assert [one.shards[0].cores for one in moved.stages] == [(0,), (1,)]
    assert moved.num_blocks == 3
    sizes = [one.shards[0].weight_bytes for one in moved.stages]
    assert sizes == [sum(b.weight_bytes for b in blocks[:4]), sum(b.weight_bytes for b in blocks[4:])]
    kv_bytes = [one.shards[0].kv_bytes for one in moved.stages]
    assert kv_bytes == [48 * sum(b.kv_bytes_per_token for b in blocks[:4]), 48 * blocks[4].kv_bytes_per_token]
