from shoal.core.plan.language import Plan, ReplicaPlan, ShardPlan, StagePlan
from shoal.core.plan.shard_atoms import ShardAtoms
from shoal.planner.predict.placement import place
from shoal.protocol.stage_config import ShardPart

ATOMS = ShardAtoms(
    num_kv_heads=4, kv_heads_per_atom=1, intermediate_size=128, column_atom=32, vocab_size=320, vocab_atom=32
)


def shard(kv_heads, columns, vocabulary) -> ShardPlan:
    part = ShardPart(kv_heads=kv_heads, columns=columns, vocabulary=vocabulary)
    return ShardPlan(part=part, threads=1, cores=(), weight_bytes=100, kv_bytes=11)


def test_parts_become_shares_and_workers_their_classes_in_order():
    pair = (shard((0, 3), (0, 96), (0, 160)), shard((3, 4), (96, 128), (160, 320)))
    whole = (shard((0, 4), (0, 128), (0, 320)),)
    stages = (
        StagePlan(first_layer=0, last_layer=3, precision="int4", shards=pair),
        StagePlan(first_layer=3, last_layer=4, precision="int8", shards=whole),
    )
    plan = Plan(
        model="m",
        split="pp=3:1",
        precision="auto",
        block_size=16,
        max_context=64,
        max_step_tokens=64,
        max_seqs=4,
        replicas=(ReplicaPlan(stages=stages, num_blocks=4),) * 2,
    )
    first, second = place(plan, [2, 1, 0, 0, 0, 0], ATOMS)
    assert [stage.num_layers for stage in first.stages] == [3, 1]
    assert [stage.precision for stage in first.stages] == ["int4", "int8"]
    assert [one.worker_class for one in first.shards] == [2, 1, 0]
    assert [one.shares for one in first.shards] == [(0.75, 0.75, 0.5), (0.25, 0.25, 0.5), (1.0, 1.0, 1.0)]
    assert [one.memory_bytes for one in second.shards] == [111] * 3
    assert [stage.is_group for stage in first.stages] == [True, False]
